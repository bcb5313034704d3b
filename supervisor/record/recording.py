"""What is kept of one request while it is served: references and times, to be understood when it has ended.

The hot path pays for this with every request and every piece of an answer, so nothing is looked into here.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.errors import SupervisorError
    from supervisor.fleet.names import Target
    from supervisor.record.inflight import Headers, Watcher

LAST_PIECES = 8
"""Of an event stream: what tells its tokens stands in one of its last few events."""
WHOLE_BYTES = 256 * 1024
"""Of any other answer, up to which it is kept whole; of a longer one only the first and the last pieces."""
_TEXTUAL = (b"application/json", b"text/event-stream", b"application/problem+json")


class Client(Protocol):
    """What is read of a request at its end."""

    watcher: Watcher | None
    recording: Recording | None

    @property
    def method(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def key_name(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def answer_headers(self) -> Headers: ...
    @property
    def status(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def is_answered(self) -> bool: ...


class Recording:
    """One request, until the record has understood it."""

    __slots__ = (
        "_done",
        "_is_text",
        "_limit",
        "_others",
        "_size",
        "_tail",
        "began_at",
        "body",
        "client",
        "encoding",
        "ended_at",
        "error",
        "first_at",
        "is_captured",
        "is_local",
        "is_stream",
        "is_whole",
        "key_name",
        "model",
        "path",
        "pieces",
        "request_id",
        "selector",
        "sent_at",
        "tap",
        "was_answered",
        "was_cancelled",
        "when",
    )

    def __init__(  # noqa: PLR0917 - called for every request, and by name is slower
        self,
        client: Client,
        model: str,
        target: Target | None,
        path: str,
        body: bytes | None,
        most_captured: int,
        done: Callable[[Recording], None],
    ) -> None:
        """`target` is None where nothing is called so; `body` is what the model's server gets.

        `most_captured` are the bytes of the answer that are kept to be looked at.
        """
        self.client = client
        self.model = model if target is None else target.whole_name
        self.is_local = target is not None and target.peer is None
        self.selector = target.selector if target is not None else None
        self.path = path
        self.body = body if most_captured > 0 else None
        self.request_id = client.request_id
        self.key_name = client.key_name
        """The name of the key it came with; empty where nobody needs one."""
        self.is_captured = most_captured > 0
        self._limit = most_captured
        self._done = done
        self._others = client.watcher
        self._is_text = False
        self.encoding = b""
        """How the answer is compressed; empty: it is not."""
        self._size = 0
        self._tail: deque[bytes] | None = None
        self.tap: Callable[[bytes], object] | None = None
        """Takes each piece of the model's answer."""
        self.pieces: list[bytes] = []
        self.is_stream = False
        self.is_whole = True
        """Whether `pieces` and the tail are all of the answer."""
        self.was_answered = False
        """Whether the client got the end of its answer."""
        self.was_cancelled = False
        """Whether the owner of the service ended it."""
        self.error: SupervisorError | None = None
        self.when = time.time()
        self.began_at = time.monotonic()
        self.sent_at: float | None = None
        """When the model was asked; what came before is the wait for it."""
        self.first_at: float | None = None
        """When the first byte of the answer's body came."""
        self.ended_at = self.began_at
        client.watcher = client.recording = self

    # What the exchange tells.

    def sent(self) -> None:
        """The request is on its way to the model's server."""
        self.sent_at = time.monotonic()

    def head_came(self, headers: Headers, *, is_stream: bool) -> None:
        """The model's server answers."""
        self.is_stream = is_stream
        for name, value in headers:
            if name == b"content-type":
                self._is_text = value.startswith(_TEXTUAL)
            elif name == b"content-encoding" and value != b"identity":
                self.encoding = value
        self.tap = self._first

    def failed(self, error: SupervisorError) -> None:
        """We answer with this error, or end the answer with it."""
        self.error = error

    def _first(self, piece: bytes) -> None:
        """The first piece tells how to go on: of most streams the last few are enough, of what is no text none are."""
        self.first_at = time.monotonic()
        self.pieces.append(piece)
        self._size = len(piece)
        if self.is_stream and not self.is_captured and not self.encoding:
            self._keep_last(LAST_PIECES)
        elif self._is_text:
            self._limit = max(self._limit, WHOLE_BYTES)
            self.tap = self._next
        elif self.is_captured:
            self.tap = self._next
        else:
            self.pieces.clear()
            self.tap = None

    def _next(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._limit:
            self.pieces.append(piece)
            return
        self.is_captured = False
        del self.pieces[1:]
        self._keep_last(2).append(piece)

    def _keep_last(self, count: int) -> deque[bytes]:
        self.is_whole = False
        self._tail = last = deque[bytes](maxlen=count)
        self.tap = last.append
        return last

    @property
    def kept(self) -> list[bytes]:
        """What there is of the answer: its first piece and the last ones, or all."""
        return self.pieces if self._tail is None else [*self.pieces, *self._tail]

    def shed(self) -> None:
        """Let go of what is large: too many wait to be understood."""
        self.body = None
        self.is_captured = False
        if len(self.pieces) > 2:
            self.is_whole = False
            del self.pieces[1:-1]

    # What the client tells.

    def client_began(self) -> None:
        if self._others is not None:
            self._others.client_began()

    def client_ended(self) -> None:
        self.ended_at = time.monotonic()
        self.tap = None
        self.was_answered = self.client.is_answered
        self.client.recording = None  # or both would stay, with all that was kept, until cycles are looked for
        self._done(self)
        if self._others is not None:
            self._others.client_ended()


def _kind_of(headers: Headers) -> tuple[bool, bool]:
    """Whether an answer is text that may tell its tokens, and whether it is compressed."""
    is_text = is_packed = False
    for name, value in headers:
        if name == b"content-type":
            is_text = value.startswith(_TEXTUAL)
        elif name == b"content-encoding":
            is_packed = value != b"identity"
    return is_text, is_packed
