"""A message of Anthropic's API that begins with how the load goes, as its first block: a thought. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.proxy.dialects import Dialect, error_event
from supervisor.proxy.loading.joint import NamedJoint, named

if TYPE_CHECKING:
    from supervisor.errors import SupervisorError
    from supervisor.proxy.loading.joint import Event


class MessageWords:
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
        return named({"type": "message_start", "message": self._message}) + named(
            {"type": "content_block_start", "index": 0, "content_block": block}
        )

    def tell(self, text: str) -> bytes:
        return self._delta({"type": "thinking_delta", "thinking": text})

    def end(self) -> bytes:
        closed = named({"type": "content_block_stop", "index": 0})
        return self._delta({"type": "signature_delta", "signature": ""}) + closed

    def failed(self, error: SupervisorError) -> bytes:
        return error_event(error, Dialect.ANTHROPIC)

    def joint(self) -> MessageJoint:
        return MessageJoint()

    def _delta(self, delta: Event) -> bytes:
        return named({"type": "content_block_delta", "index": 0, "delta": delta})


class MessageJoint(NamedJoint):
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
