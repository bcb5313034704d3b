"""A response of OpenAI's newer API that begins with how the load goes, as its first item: a summary of reasoning."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from supervisor.proxy.dialects import error_json
from supervisor.proxy.loading.joint import NamedJoint, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.errors import SupervisorError
    from supervisor.proxy.loading.joint import Event

_OF_PARTS = tuple(f"response.{kind}." for kind in ("content_part", "output_text", "reasoning_text", "refusal"))
"""Events about a part of an item's content."""


class ResponseWords:
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
        self._numbers = count()
        """Of all events, the child's too."""

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

    def joint(self) -> ResponseJoint:
        own = {key: self._response[key] for key in ("id", "created_at")}
        return ResponseJoint(own, self._whole_item(), self._numbers)

    def _whole_item(self) -> Event:
        # llama-server takes an item back in a later request only if there is a text of reasoning in it.
        content = [{"type": "reasoning_text", "text": ""}]
        summary = [{"type": "summary_text", "text": self._text}]
        return {"id": self._item, "type": "reasoning", "status": "completed", "summary": summary, "content": content}

    def _of_part(self, kind: str, **fields: object) -> bytes:
        place = {"item_id": self._item, "output_index": 0, "summary_index": 0}
        return self._event(f"reasoning_summary_{kind}", **place, **fields)

    def _event(self, kind: str, **fields: object) -> bytes:
        kind = f"response.{kind}" if kind else "error"
        return named({"type": kind, "sequence_number": next(self._numbers), **fields})


class ResponseJoint(NamedJoint):
    """A child's response as the rest of ours: one id, one count of events, its items after the summary.

    llama-server says neither which item an event is about by number nor the number of an event; here it has to.
    """

    def __init__(self, own: Event, item: Event, numbers: Iterator[int]) -> None:
        super().__init__()
        self._own = own
        """What tells one response from another."""
        self._item = item
        self._numbers = numbers
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
            changed["response"] = {**response, **self._own, "output": output}
        return {**changed, "sequence_number": next(self._numbers)}

    def _place(self, kind: str, event: Event) -> Event:
        """Where an item stands in the output, and a part in its item."""
        item = event.get("item")
        name = item.get("id") if isinstance(item, dict) else event.get("item_id")
        if name is None and "output_index" not in event:
            return {}
        place = self._places.setdefault(str(name), event.get("output_index", len(self._places)) + 1)
        has_part = kind.startswith(_OF_PARTS)
        return {"output_index": place, **({"content_index": event.get("content_index", 0)} if has_part else {})}
