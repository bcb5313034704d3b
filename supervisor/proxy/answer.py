"""What one client has been sent so far: nothing, comments of a stream that waits, or the child's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.proxy.dialects import Dialect, error_event, error_response
from supervisor.proxy.heads import header

if TYPE_CHECKING:
    from starlette.types import Scope, Send

    from supervisor.errors import SupervisorError
    from supervisor.proxy.upstream import Headers


class Answer:
    """An answer under way. Once a stream has begun, errors are its last event instead of a status."""

    __slots__ = ("_is_open_to_browsers", "_scope", "dialect", "is_stream", "send")

    def __init__(self, scope: Scope, send: Send, dialect: Dialect, *, is_open_to_browsers: bool = False) -> None:
        self._scope = scope
        self.send = send
        """The client itself, for the pieces of a body that has begun."""
        self._is_open_to_browsers = is_open_to_browsers
        self.dialect = dialect
        self.is_stream = False
        """Whether the head of an event stream has gone out."""

    async def begin(self, status: int, headers: Headers, *, is_stream: bool) -> None:
        """Send the head, unless comments have gone before."""
        if not self.is_stream:
            self.is_stream = is_stream
            headers = [*headers, *self._cors()]
            await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, chunk: bytes, *, more: bool) -> None:
        """Send a piece of the body."""
        await self.send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def comment(self, text: str) -> None:
        """Tell a waiting stream how things go, in a form that every client ignores."""
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await self.begin(200, headers, is_stream=True)
        await self.body(f": {text}\n\n".encode(), more=True)

    async def fail(self, error: SupervisorError) -> None:
        """End with an error: a status if nothing has been sent, else an event of the stream."""
        if self.is_stream:
            await self.body(b"\n\n" + error_event(error, self.dialect), more=False)
            return
        accept = header(self._scope["headers"], b"accept") or b""
        status, headers, body = error_response(error, self.dialect, accept)
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, *self._cors()]})
        await self.body(body, more=False)

    def _cors(self) -> Headers:
        """Pages of other sites may ask models; what only the owner may do is not for them to read."""
        is_cross_origin = self._is_open_to_browsers and header(self._scope["headers"], b"origin") is not None
        return [(b"access-control-allow-origin", b"*")] if is_cross_origin else []
