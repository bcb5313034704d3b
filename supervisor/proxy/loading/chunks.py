"""A stream of chat or text completions that begins with how the load goes. Pure.

All chunks of a stream have one id and one time, so the child's get ours; the rest of them stays as it is, byte by byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec.json

from supervisor.proxy.dialects import Dialect, error_event
from supervisor.proxy.loading.joint import EventJoint, unnamed

if TYPE_CHECKING:
    from supervisor.errors import SupervisorError
    from supervisor.proxy.loading.joint import Event

_OUTLINE = msgspec.json.Decoder(dict[str, msgspec.Raw])


class ChatWords:
    """Chunks with a thought. None says whose role it is: the child's first does, and clients add texts up."""

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
        return unnamed({**self._chunk, "choices": [self._choice(text)]})

    def end(self) -> bytes:
        return b""

    def failed(self, error: SupervisorError) -> bytes:
        return error_event(error, Dialect.OPENAI)

    def joint(self) -> ChunkJoint:
        return ChunkJoint(self._chunk)

    def _choice(self, text: str) -> Event:
        return {"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}


class TextWords(ChatWords):
    """Chunks of the older completions: their text is the answer and nothing else, so the news stands beside it."""

    def __init__(self, model: str, token: str, created: int) -> None:
        super().__init__(model, token, created)
        self._chunk = {**self._chunk, "id": f"cmpl-{token}", "object": "text_completion"}

    def _choice(self, text: str) -> Event:
        return {"index": 0, "text": "", "logprobs": None, "finish_reason": None, "reasoning_content": text}


class ChunkJoint(EventJoint):
    """A child's chunks as the rest of ours."""

    def __init__(self, chunk: Event) -> None:
        super().__init__()
        self._own = {key: msgspec.Raw(msgspec.json.encode(chunk[key])) for key in ("id", "created")}

    def _joined(self, data: bytes) -> bytes | None:
        chunk = _OUTLINE.decode(data)
        return unnamed({**chunk, **self._own}) if chunk.keys() >= self._own.keys() else None
