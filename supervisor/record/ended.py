"""What is left of a request when it has ended, to be understood later.

It is small: there may be thousands a second, and memory that is new to a processor costs it more than the work does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.record.inflight import Headers

LAST_EVENTS = 8
"""Of an event stream that has ended: one of its last few tells its tokens."""
FEW_BYTES = 2048
"""Of which no events are counted."""
LAST_BYTES = 16 * 1024
"""Of those events; what tells the tokens stands at the end of a long one."""
FIRST_BYTES = 4096
"""Of the beginning of a stream: Anthropic tells there how long the prompt was."""


class Asked(NamedTuple):
    """Of a request that is captured: what went out, and the head of what came back."""

    headers: Headers
    body: bytes | None
    answer_headers: Headers


class Ended(msgspec.Struct, gc=False):  # it is made faster than a dataclass, and there is one for each request
    """A request that has ended. Times are those of a clock that never goes back, but for `when`."""

    when: float
    """Seconds since the epoch, of its beginning."""
    began_at: float
    sent_at: float | None
    """When the model was asked; what came before is the wait for it."""
    first_at: float | None
    """When the first byte of the answer's body came."""
    ended_at: float
    model: str
    is_local: bool
    """Whether a child of ours served it, or would have."""
    selector: str | None
    path: str
    status: int
    """0: the client left, or the owner cancelled it, before there was one."""
    content_type: bytes
    request_id: str
    key_name: str
    """The name of the key it came with; empty where nobody needs one."""
    session: bytes
    """What its client calls the session that it belongs to."""
    cause: str
    """The code of the error that we answered with; empty where it was none of ours."""
    message: str
    """Why the client got no whole answer; empty where it did."""
    is_stream: bool
    is_whole: bool
    """Whether `pieces` are all of the answer."""
    encoding: bytes
    """How the answer is compressed; empty: it is not."""
    pieces: list[bytes]
    """What there is of the answer: its beginning and its end, or all."""
    asked: Asked | None
    """Where it is captured."""

    @property
    def size(self) -> int:
        """Bytes of what is large of it."""
        body = self.asked.body if self.asked is not None else None
        return sum(map(len, self.pieces)) + len(body or b"")

    def shed(self) -> None:
        """Let go of what is large: too much waits to be understood."""
        self.asked = None
        if self.pieces:
            self.is_whole = False
            self.pieces = [self.pieces[0][:FIRST_BYTES], self.pieces[-1][-FIRST_BYTES:]]


def ends_of(first: bytes, last: Sequence[bytes]) -> list[bytes]:
    """What is kept of a stream: the bytes it began with, and its last events; `last` are the pieces it ended with."""
    end = last_events(last)
    return [end] if end.startswith(first) else [first[:FIRST_BYTES], end]


def last_events(pieces: Sequence[bytes]) -> bytes:
    """The last events of a stream, or its last bytes where they are long or cannot be told apart."""
    size, count = 0, 0
    for piece in reversed(pieces):
        count += 1
        size += len(piece)
        if size >= LAST_BYTES:
            break
    tail = pieces[-1] if count == 1 else b"".join(list(pieces)[-count:])
    if len(tail) <= FEW_BYTES:
        return tail
    return b"\n\n".join(tail[-LAST_BYTES:].rsplit(b"\n\n", LAST_EVENTS + 1)[-LAST_EVENTS - 1 :])
