"""What a stream says while its model loads, in the words of each API, and how the child's own stream follows it. Pure.

The progress goes where a model's reasoning does, so that clients show it and nobody takes it for an answer. What the
child then begins again, a message or a response, has begun already: it goes on under our name, its parts after ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, assert_never

import msgspec.json

from supervisor.proxy.dialects import Dialect, error_event, error_json

if TYPE_CHECKING:
    from supervisor.errors import SupervisorError

LONGEST_HELD = 16 * 1024**2
"""Bytes of an unfinished event after which it is let through as it is."""
SILENCE = 5.0
"""Seconds without news after which the time that has passed is news."""

AT_ONCE = 1.0
"""Seconds in which a model that is next is expected to be loading."""

Event = dict[str, Any]
_END = re.compile(rb"\r?\n\r?\n")


class Telling(Enum):
    """In whose words a stream is told how loading goes."""

    CHAT = "chat"
    TEXT = "text"
    """The older completions: their text is the answer and nothing else, so it stays empty."""
    RESPONSES = "responses"
    MESSAGES = "messages"


@dataclass(frozen=True, slots=True)
class Situation:
    """How it stands with a model that somebody waits for."""

    ahead: int | None = None
    """How many models come before it; None: it is loading."""
    fraction: float | None = None
    """How much of it is read, from 0 to 1; None if its server does not say."""


class Narrator:
    """Says what is new, and nothing twice."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._last: Situation | None = None
        self._said_at = 0.0

    def news(self, now: Situation, elapsed: float) -> str:
        """The next words, empty if there is nothing to say; `elapsed` are seconds since the request came."""
        if self._last is None and now.ahead == 0 and elapsed < AT_ONCE:
            return ""  # most often it is being started already
        text = self._change(now) or (f" {elapsed:.0f} s" if elapsed - self._said_at >= SILENCE else "")
        if text:
            self._said_at = elapsed
        self._last = now
        return text

    def ready(self, elapsed: float) -> str:
        """The last words."""
        return f"{self._break()}{self._model} is ready after {elapsed:.1f} s\n\n"

    def _change(self, now: Situation) -> str:
        last = self._last
        if now == last:
            return ""
        if now.ahead is not None:
            return f"{self._break()}waiting for {self._model}: {_before(now.ahead)}"
        percent = "" if now.fraction is None else f" {now.fraction:.0%}"
        if last is None or last.ahead is not None:
            return f"{self._break()}loading {self._model}{percent}"
        return percent if last.fraction is None or percent != f" {last.fraction:.0%}" else ""

    def _break(self) -> str:
        return "" if self._last is None else "\n"


def _before(ahead: int) -> str:
    return "it is next" if ahead == 0 else f"{ahead} other {'model comes' if ahead == 1 else 'models come'} first"


class Joint(Protocol):
    """What a child's stream goes through to follow ours; as `lines.WholeLines`."""

    holds: bytes

    def feed(self, chunk: bytes) -> bytes:
        """What may go on now."""

    def rest(self) -> bytes:
        """What was held back, when the stream ended well."""


class LoadingState(Protocol):
    """One stream's words about a load."""

    def begin(self) -> bytes:
        """What stands before everything else."""

    def tell(self, text: str) -> bytes:
        """A piece of news."""

    def end(self) -> bytes:
        """What closes the news; the child's stream follows."""

    def failed(self, error: SupervisorError) -> bytes:
        """The last event, where there is no child's stream: the client's library raises."""

    def joint(self) -> Joint | None:
        """What the child's stream goes through; None if it may follow as it is."""


def loading_state(telling: Telling, model: str, *, token: str, created: int) -> LoadingState:
    """The words of one stream; `token` makes its ids unique, `created` is now in seconds since 1970."""
    match telling:
        case Telling.CHAT:
            return _Chat(model, token, created)
        case Telling.TEXT:
            return _Text(model, token, created)
        case Telling.RESPONSES:
            return _Responses(model, token, created)
        case Telling.MESSAGES:
            return _Messages(model, token)
        case _:
            assert_never(telling)


class _Chat:
    """Chunks of chat completions. None says whose role it is: the child's first does, and clients add texts up."""

    def __init__(self, model: str, token: str, created: int) -> None:
        self._chunk: Event = {
            "id": f"chatcmpl-{token}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }

    def begin(self) -> bytes:
        return b""

    def tell(self, text: str) -> bytes:
        return _data({**self._chunk, "choices": [self._choice(text)]})

    def end(self) -> bytes:
        return b""

    def failed(self, error: SupervisorError) -> bytes:
        return error_event(error, Dialect.OPENAI)

    def joint(self) -> Joint | None:
        return None

    def _choice(self, text: str) -> Event:
        return {"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}


class _Text(_Chat):
    """Chunks of completions with no text, and the news beside it."""

    def __init__(self, model: str, token: str, created: int) -> None:
        super().__init__(model, token, created)
        self._chunk = {**self._chunk, "id": f"cmpl-{token}", "object": "text_completion"}

    def _choice(self, text: str) -> Event:
        return {"index": 0, "text": "", "logprobs": None, "finish_reason": None, "reasoning_content": text}


class _Messages:
    """A message of Anthropic's API whose first block is a thought."""

    def __init__(self, model: str, token: str) -> None:
        self._message: Event = {
            "id": f"msg_{token}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }

    def begin(self) -> bytes:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        return _named({"type": "message_start", "message": self._message}) + _named(
            {"type": "content_block_start", "index": 0, "content_block": block}
        )

    def tell(self, text: str) -> bytes:
        return self._delta({"type": "thinking_delta", "thinking": text})

    def end(self) -> bytes:
        closed = _named({"type": "content_block_stop", "index": 0})
        return self._delta({"type": "signature_delta", "signature": ""}) + closed

    def failed(self, error: SupervisorError) -> bytes:
        return error_event(error, Dialect.ANTHROPIC)

    def joint(self) -> Joint:
        return _MessagesJoint()

    def _delta(self, delta: Event) -> bytes:
        return _named({"type": "content_block_delta", "index": 0, "delta": delta})


class _Responses:
    """A response of OpenAI's newer API whose first item is a summary of reasoning."""

    def __init__(self, model: str, token: str, created: int) -> None:
        self._response: Event = {
            "id": f"resp_{token}",
            "object": "response",
            "created_at": created,
            "status": "in_progress",
            "model": model,
            "output": [],
        }
        self._item = f"rs_{token}"
        self._text = ""
        self._sequence = 0

    def begin(self) -> bytes:
        item = {"id": self._item, "type": "reasoning", "status": "in_progress", "summary": []}
        return (
            self._event("created", response=self._response)
            + self._event("in_progress", response=self._response)
            + self._event("output_item.added", output_index=0, item=item)
            + self._of_part("part.added", part={"type": "summary_text", "text": ""})
        )

    def tell(self, text: str) -> bytes:
        self._text += text
        return self._of_part("text.delta", delta=text)

    def end(self) -> bytes:
        return (
            self._of_part("text.done", text=self._text)
            + self._of_part("part.done", part={"type": "summary_text", "text": self._text})
            + self._event("output_item.done", output_index=0, item=self._whole_item())
        )

    def failed(self, error: SupervisorError) -> bytes:
        body = error_json(error)
        said = body["error"]
        assert isinstance(said, dict)
        # The API has the facts in the event itself, the clients' library raises for `error`.
        return self._event("", code=said["code"], message=said["message"], param=None, **body)

    def joint(self) -> Joint:
        return _ResponsesJoint(self._response["id"], self._whole_item(), self._sequence)

    def _whole_item(self) -> Event:
        # llama-server takes an item back in a later request only if there is a text of reasoning in it.
        content = [{"type": "reasoning_text", "text": ""}]
        summary = [{"type": "summary_text", "text": self._text}]
        return {"id": self._item, "type": "reasoning", "status": "completed", "summary": summary, "content": content}

    def _of_part(self, kind: str, **fields: object) -> bytes:
        place = {"item_id": self._item, "output_index": 0, "summary_index": 0}
        return self._event(f"reasoning_summary_{kind}", **place, **fields)

    def _event(self, kind: str, **fields: object) -> bytes:
        event = {"type": f"response.{kind}" if kind else "error", "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return _named(event)


class _EventJoint:
    """Takes a stream apart into its events, and lets each go on as it should be now."""

    def __init__(self) -> None:
        self.holds = b"\n"
        """Never empty, so that every chunk comes through `feed`."""
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        self._held += chunk
        done: list[bytes] = []
        while end := _END.search(self._held):
            done.append(self._rewritten(self._held[: end.end()]))
            self._held = self._held[end.end() :]
        if len(self._held) > LONGEST_HELD:
            done.append(self.rest())
        return b"".join(done)

    def rest(self) -> bytes:
        rest, self._held = self._held, b""
        return rest

    def _rewritten(self, raw: bytes) -> bytes:
        data = b"\n".join(line[5:].strip() for line in raw.split(b"\n") if line.startswith(b"data:"))
        try:
            event = msgspec.json.decode(data)
        except msgspec.DecodeError:
            return raw  # a comment, or something of another kind
        if not isinstance(event, dict) or "type" not in event:
            return raw
        changed = self._changed(event)
        return b"" if changed is None else _named(changed)

    def _changed(self, event: Event) -> Event | None:
        raise NotImplementedError


class _MessagesJoint(_EventJoint):
    """A child's message as the rest of ours: its blocks come after the thought, its input counts at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._usage: Event = {}

    def _changed(self, event: Event) -> Event | None:
        match event:
            case {"type": "message_start"}:
                self._usage = (event.get("message") or {}).get("usage") or {}
                return None
            case {"type": "message_delta"}:
                return {**event, "usage": {**self._usage, **(event.get("usage") or {})}}
            case {"index": int(index)}:
                return {**event, "index": index + 1}
            case _:
                return event


class _ResponsesJoint(_EventJoint):
    """A child's response as the rest of ours: one id, one count of events, its items after the summary.

    llama-server says neither which item an event is about by number nor the number of an event; here it has to.
    """

    def __init__(self, response: str, item: Event, sequence: int) -> None:
        super().__init__()
        self._response = response
        self._item = item
        self._sequence = sequence
        self._places: dict[str, int] = {}
        """Which item of the output has which id."""

    def _changed(self, event: Event) -> Event | None:
        kind = str(event["type"])
        if kind in {"response.created", "response.in_progress", "response.queued"}:
            return None
        changed = {**event, **self._place(kind, event)}
        response = event.get("response")
        if isinstance(response, dict):
            output = [self._item, *(response.get("output") or ())]
            changed["response"] = {**response, "id": self._response, "output": output}
        changed["sequence_number"] = self._sequence
        self._sequence += 1
        return changed

    def _place(self, kind: str, event: Event) -> Event:
        """Where an item stands in the output, and a part in its item."""
        item = event.get("item")
        name = item.get("id") if isinstance(item, dict) else event.get("item_id")
        if name is None and "output_index" not in event:
            return {}
        place = self._places.setdefault(str(name), event.get("output_index", len(self._places)) + 1)
        has_part = kind.startswith(("response.content_part.", "response.output_text.", "response.reasoning_text."))
        return {"output_index": place, **({"content_index": event.get("content_index", 0)} if has_part else {})}


def _data(event: Event) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _named(event: Event) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\n" + _data(event)
