"""What is kept of one request while it is served.

The hot path pays for this with every request and every piece of an answer, so nothing is looked into here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from supervisor.errors import ModelFailed
from supervisor.record.ended import Asked, Ended, ends_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.errors import SupervisorError
    from supervisor.fleet.names import Target
    from supervisor.record.inflight import Headers, Watcher

Fields = Mapping[bytes, bytes]
"""The first value of each header, by its name in lower case."""
Tap = Callable[[bytes], object]
"""Takes pieces of an answer."""
LAST_PIECES = 8
"""Of an event stream, as long as it lasts."""
WHOLE_BYTES = 256 * 1024
"""Of any other answer, up to which it is kept whole; of a longer one only the first and the last pieces."""
_TEXTUAL = (b"application/json", b"text/event-stream", b"application/problem+json")


class Client(Protocol):
    """What is read of a request at its end."""

    watcher: Watcher | None
    recording: Recording | None

    @property
    def request_id(self) -> str: ...
    @property
    def key_name(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def fields(self) -> Fields: ...
    @property
    def answer_headers(self) -> Headers: ...
    @property
    def status(self) -> int: ...
    @property
    def is_answered(self) -> bool: ...


class Recording:
    """One request, until its end."""

    __slots__ = (
        "_body",
        "_client",
        "_done",
        "_error",
        "_first_at",
        "_limit",
        "_name",
        "_others",
        "_path",
        "_sent_at",
        "_session_headers",
        "_size",
        "_tail",
        "_target",
        "began_at",
        "content_type",
        "encoding",
        "is_captured",
        "is_stream",
        "pieces",
        "was_cancelled",
        "when",
    )

    def __init__(  # noqa: PLR0917 - called for every request, and by name is slower
        self,
        client: Client,
        name: str,
        target: Target | None,
        path: str,
        body: bytes | None,
        most_captured: int,
        session_headers: Sequence[bytes],
        done: Callable[[Ended], None],
    ) -> None:
        """`target` is None where nothing is called by that name; `body` is what the model's server gets.

        `most_captured` are the bytes of the answer that are kept to be looked at; `session_headers` the names, in lower
        case, of which the first that is there tells a request's session.
        """
        self._client = client
        self._name = name
        self._target = target
        self._path = path
        self._session_headers = session_headers
        self._done = done
        self._limit = most_captured
        self.is_captured = most_captured > 0
        """Whether all of the answer is kept, as long as it is not too much."""
        self._body = body if most_captured > 0 else None
        self._others = client.watcher
        self._error: SupervisorError | None = None
        self._sent_at: float | None = None
        self._first_at: float | None = None
        self._tail: deque[bytes] | None = None
        self.pieces: list[bytes] = []
        self.is_stream = False
        self.encoding = b""
        self.content_type: bytes | None = None
        self.was_cancelled = False
        """Whether the owner of the service ended it."""
        self.when = time.time()
        self.began_at = time.monotonic()
        client.watcher = client.recording = self

    # What the exchange tells.

    def sent(self) -> None:
        """The request is on its way to the model's server."""
        self._sent_at = time.monotonic()

    def head_came(self, fields: Fields, *, is_stream: bool) -> None:
        """The model's server answers."""
        self.is_stream = is_stream
        self.content_type = fields.get(b"content-type")
        encoding = fields.get(b"content-encoding", b"")
        self.encoding = b"" if encoding == b"identity" else encoding

    def failed(self, error: SupervisorError) -> None:
        """We answer with this error, or end the answer with it."""
        self._error = error

    def first_came(self, piece: bytes) -> Tap | None:
        """The first piece of its answer's body; who takes those that follow, if anybody does.

        Of most streams the last few are enough, of what is no text none are needed.
        """
        self._first_at = time.monotonic()
        if self.is_stream and not self.is_captured and not self.encoding:
            self.pieces.append(piece)
            self._tail = deque((piece,), LAST_PIECES)
            return self._tail.append
        if self.content_type is not None and self.content_type.startswith(_TEXTUAL):
            self._limit = max(self._limit, WHOLE_BYTES)
        elif not self.is_captured:
            return None
        self.pieces.append(piece)
        self._size = len(piece)
        return self._next_came

    def _next_came(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._tail is not None:
            self._tail.append(piece)
        elif self._size <= self._limit:
            self.pieces.append(piece)
        else:
            self.is_captured = False
            del self.pieces[1:]
            self._tail = deque((piece,), 2)

    # What the client tells.

    def client_began(self) -> None:
        if self._others is not None:
            self._others.client_began()

    def client_ended(self) -> None:
        self._done(self._ended())
        self._client.recording = None  # else the two would hold each other until they are found to be garbage
        if self._others is not None:
            self._others.client_ended()

    def _ended(self) -> Ended:
        client, target, pieces, tail = self._client, self._target, self.pieces, self._tail
        if tail is not None:
            pieces = ends_of(pieces[0], tail) if self.is_stream else [pieces[0], b"".join(tail)]
        content_type = self.content_type
        if content_type is None:  # an answer of our own
            content_type = next((value for name, value in client.answer_headers if name == b"content-type"), b"")
        return Ended(
            self.when,
            self.began_at,
            self._sent_at,
            self._first_at,
            time.monotonic(),
            self._name if target is None else target.whole_name,
            target is not None and target.peer is None,
            target.selector if target is not None else None,
            self._path,
            client.status,
            content_type,
            client.request_id,
            client.key_name,
            self._session(),
            _cause_of(self._error) if self._error is not None else "",
            self._why_not_whole(),
            self.is_stream,
            tail is None,
            self.encoding,
            pieces,
            Asked(client.headers, self._body, client.answer_headers) if self.is_captured else None,
        )

    def _session(self) -> bytes:
        fields = self._client.fields
        for name in self._session_headers:
            if name in fields:
                return fields[name]
        return b""

    def _why_not_whole(self) -> str:
        if self.was_cancelled:
            return "cancelled by the owner of the service"
        if self._error is not None:
            return self._error.message
        return "" if self._client.is_answered else "the client left before the end of its answer"


def _cause_of(error: SupervisorError) -> str:
    return error.failure.cause if isinstance(error, ModelFailed) else error.code
