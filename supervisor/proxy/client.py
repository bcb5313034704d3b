"""One request of a client, and the way back to it: the answer's framing and the client's pace."""

from __future__ import annotations

import http
from typing import TYPE_CHECKING, Protocol

from supervisor.proxy.heads import fields_of
from supervisor.proxy.request_id import REQUEST_ID

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from supervisor.config.clients import ClientKey
    from supervisor.errors import SupervisorError
    from supervisor.proxy.body_memory import Share
    from supervisor.proxy.heads import Headers
    from supervisor.record.recording import Recording

STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 600)} | {
    each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in http.HTTPStatus
}

CANCELLED_STATUS = 499
"""Clients' libraries try again after 408, 409, 429, 5xx and a lost connection, which is not what cancelling is for."""
CANCELLED = (
    b'{"type":"error","error":{"message":"the request was cancelled by the owner of the service",'
    b'"type":"invalid_request_error","param":null,"code":"request_cancelled"}}'
)


class Listener(Protocol):
    """Who serves a request, and hears how its client fares."""

    def client_left(self) -> None:
        """The client went away; there is nobody to answer."""

    def client_lags(self) -> None:
        """More has been written than the client takes in; nothing more should be for now."""

    def client_keeps_up(self) -> None:
        """The client takes in more again."""

    def client_sent(self) -> None:
        """More of the request has come, or its end."""


class Source(Protocol):
    """Where the rest of a request comes from, if not from its connection."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None: ...


class Watcher(Protocol):
    """Who looks on, for the record."""

    def client_began(self) -> None:
        """There is a head of an answer."""

    def client_ended(self) -> None:
        """The answer is out or cut, or the client left; nothing more is told."""


class Client:
    """A request, whole or on its way, and the connection its answer goes to.

    What is written is framed here: by the length the headers tell, in chunks, or by the end of the connection.
    """

    __slots__ = (
        "_ended",
        "_head",
        "_is_chunked",
        "_pieces",
        "_transport",
        "address",
        "answer_headers",
        "body_size",
        "deed",
        "fields",
        "has_begun",
        "headers",
        "is_answered",
        "is_gone",
        "is_lagging",
        "is_whole",
        "keep_alive",
        "key",
        "listener",
        "looked_at",
        "method",
        "path",
        "prefix",
        "query",
        "raw_path",
        "recording",
        "request_id",
        "share",
        "source",
        "status",
        "version",
        "watcher",
        "written",
    )

    def __init__(  # noqa: PLR0917 - called for every request, and by name is slower
        self,
        transport: asyncio.Transport,
        method: str,
        target: tuple[str, bytes, bytes],
        headers: Headers,
        version: str,
        address: tuple[str, int] | None,
        ended: Callable[[], None],
        request_id: str = "",
    ) -> None:
        self._transport = transport
        self._ended = ended
        self._pieces: list[bytes] = []
        self._head = b""
        self._is_chunked = False
        self.method = method
        self.path, self.raw_path, self.query = target
        self.prefix = ""
        """What stood before the path, and belongs before those that the client is sent to."""
        self.headers = headers
        """As they came, names in lower case."""
        self.fields = fields_of(headers)
        """The first value of each."""
        self.request_id = request_id
        """What its client, its answer, the log and the model's server call it (`X-Request-Id`); visible ASCII."""
        self.version = version
        self.address = address
        self.key: ClientKey | None = None
        """Whose it is; None until it was let in, and where nobody needs a key."""
        self.deed = ""
        """What it does, in words for the audit, where its path does not say so."""
        self.body_size = 0
        self.looked_at = 0
        """How much of it there was when somebody last looked for its model."""
        self.is_whole = False
        """Whether all of the request has come."""
        self.is_gone = False
        self.has_begun = False
        """Whether there is a head of an answer."""
        self.is_answered = False
        self.is_lagging = False
        self.keep_alive = True
        """Whether the connection may serve another request."""
        self.status = 0
        """The answer's; 0 before it has begun."""
        self.answer_headers: Headers = []
        self.written = 0
        """Bytes of the answer's body, and of its chunks' marks where they have passed as they were."""
        self.listener: Listener | None = None
        self.watcher: Watcher | None = None
        self.share: Share | None = None
        """What its body holds of the memory there is for bodies, if it is a large one."""
        self.source: Source | None = None
        self.recording: Recording | None = None
        """What is kept of it for the record; None: nothing."""

    # The request.

    @property
    def key_name(self) -> str:
        """Whose request it is, as the log may say it; empty where nobody needs a key."""
        return self.key.name if self.key is not None else ""

    def strip(self, prefix: str) -> None:
        """Take what a reverse proxy has put before the path away from it, if it is there."""
        start = prefix.encode()
        if self.raw_path.startswith(start + b"/") and self.path.startswith(f"{prefix}/"):
            self.prefix = prefix
            self.path, self.raw_path = self.path[len(prefix) :], self.raw_path[len(start) :]

    @property
    def body(self) -> bytes:
        """What has come of the body and was not taken."""
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    def take_body(self) -> bytes:
        """What has come of the body since the last call."""
        body = self.body
        self._pieces.clear()
        return body

    def feed(self, piece: bytes) -> None:
        """A piece of the body came."""
        self.body_size += len(piece)
        self._pieces.append(piece)
        if self.listener is not None:
            self.listener.client_sent()

    def complete(self) -> None:
        """The request has ended."""
        self.is_whole = True
        if self.listener is not None:
            self.listener.client_sent()

    def pause(self) -> None:
        """Read no more of the request for now."""
        if self.source is not None:
            self.source.pause()
        elif not self.is_gone:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self.source is not None:
            self.source.resume()
        elif not self.is_gone:
            self._transport.resume_reading()

    # The answer.

    def begin(self, status: int, headers: Headers) -> None:
        """The answer's head; it goes out with what follows, or by `flush`."""
        parts = [STATUS_LINES[status]]
        has_length = closes = False
        for name, value in headers:
            if name == b"content-length":
                has_length = True
            elif name == b"connection" and value.lower() == b"close":
                closes = True
            elif name == REQUEST_ID and self.request_id:
                continue  # by that name only a peer knows it
            parts += (name, b": ", value, b"\r\n")
        if self.request_id:
            parts += (b"x-request-id: ", self.request_id.encode(), b"\r\n")
        is_framed = has_length or status in {204, 304} or self.method == "HEAD"
        self._is_chunked = not is_framed and self.version == "1.1"
        if self._is_chunked:
            parts.append(b"transfer-encoding: chunked\r\n")
        if closes or not self.is_whole or not (is_framed or self._is_chunked):
            self.keep_alive = False
        if not self.keep_alive and not closes:
            parts.append(b"connection: close\r\n")
        elif self.version == "1.0":
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        self._head = b"".join(parts)
        self.has_begun = True
        self.status = status
        self.answer_headers = headers
        if self.watcher is not None:
            self.watcher.client_began()

    @property
    def takes_chunks(self) -> bool:
        """Whether the body of the answer is in chunks."""
        return self._is_chunked

    def write(self, piece: bytes, *, are_chunks: bool = False) -> None:
        """A piece of the answer's body, at least one byte, or whole chunks of it as they are on the wire."""
        head, self._head = self._head, b""
        if self.is_gone or (self.method == "HEAD" and not head):
            return
        if self.method == "HEAD":
            piece = b""
        self.written += len(piece)
        if self._is_chunked and not are_chunks:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        self._transport.write(head + piece if head else piece)

    def flush(self) -> None:
        """Let the head go out now, though nothing of the body has come yet."""
        if self._head and not self.is_gone:
            self._transport.write(self._head)
        self._head = b""

    def finish(self, piece: bytes = b"") -> None:
        """The last piece, and the end of the answer."""
        if piece:
            self.write(piece)
        if self._is_chunked and not self.is_gone:
            self._head += b"0\r\n\r\n"
        self.end()

    def end(self) -> None:
        """All of the answer has been written, its last chunk included."""
        self.flush()
        self._end()

    def cut(self) -> None:
        """Close in the middle of the answer: the only way to say that bytes are missing."""
        self.flush()
        self.keep_alive = False
        self.is_whole = True  # for there is no answer that the rest of the request could still spoil
        self._end()

    def cancel(self) -> None:
        """End it on somebody's order."""
        self.let_go()
        if self.recording is not None:
            self.recording.was_cancelled = True
        if self.has_begun:
            self.cut()
        else:
            length = (b"content-length", b"%d" % len(CANCELLED))
            self.begin(CANCELLED_STATUS, [(b"content-type", b"application/json"), length])
            self.finish(CANCELLED)

    def let_go(self) -> None:
        """Whoever serves it lets go, as if the client had left."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.client_left()

    def replay(self, source: Source) -> None:
        """Let a body that had come, and was put elsewhere, come once more."""
        self.source = source
        self.is_whole = False
        self.body_size = 0

    def release_body(self) -> None:
        """Its body is in memory no longer."""
        if self.share is not None:
            self.share.give_back()

    def _release(self) -> None:
        self.release_body()
        source, self.source = self.source, None
        if source is not None:
            source.close()
            self.is_whole = True  # for its connection it always was

    def _end(self) -> None:
        self.is_answered = True
        self.listener = None
        self._pieces.clear()
        if self.share is not None or self.source is not None:
            self._release()
        self._unwatch()
        self._ended()

    def _unwatch(self) -> None:
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher.client_ended()

    # What the connection tells.

    def left(self) -> None:
        """The client went away."""
        self.is_gone = True
        self._release()
        self._unwatch()
        self.let_go()
        self._pieces.clear()

    def lags(self) -> None:
        """Its connection takes nothing more for now."""
        self.is_lagging = True
        if self.listener is not None:
            self.listener.client_lags()

    def keeps_up(self) -> None:
        """Its connection takes more again."""
        self.is_lagging = False
        if self.listener is not None:
            self.listener.client_keeps_up()

    def __repr__(self) -> str:
        state = "answered" if self.is_answered else "gone" if self.is_gone else "whole" if self.is_whole else "sending"
        return f"<Client {self.method} {self.path} [{state}]>"


class Plane(Protocol):
    """Who serves requests; each is told of twice or more, unless it is answered before."""

    def began(self, client: Client) -> None:
        """The head of a request has come."""

    def grew(self, client: Client) -> None:
        """More of its body has come."""

    def whole(self, client: Client) -> None:
        """All of it has come."""

    def refuse(self, client: Client, error: SupervisorError) -> None:
        """Answer with an error in the words of the request's route."""
