"""What one client has been sent so far: nothing, comments of a stream that waits, or the child's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.proxy.dialects import Dialect, error_event, error_response
from supervisor.proxy.heads import header

if TYPE_CHECKING:
    from supervisor.errors import SupervisorError
    from supervisor.proxy.client import Client
    from supervisor.proxy.heads import Headers


class Answer:
    """An answer under way. Once a stream has begun, errors are its last event instead of a status."""

    __slots__ = ("_is_open_to_browsers", "client", "dialect", "is_stream")

    def __init__(self, client: Client, dialect: Dialect, *, is_open_to_browsers: bool = False) -> None:
        self.client = client
        self._is_open_to_browsers = is_open_to_browsers
        self.dialect = dialect
        self.is_stream = False
        """Whether it is an event stream, to which an event can be added."""

    def begin(self, status: int, headers: Headers, *, is_stream: bool) -> None:
        """Send the head, unless comments have gone before."""
        if not self.client.has_begun:
            self.is_stream = is_stream and header(headers, b"content-length") is None
            self.client.begin(status, [*headers, *self._cors(), *self._own_id(headers)])

    def comment(self, text: str) -> None:
        """Tell a waiting stream how things go, in a form that every client ignores."""
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        self.begin(200, headers, is_stream=True)
        self.client.write(f": {text}\n\n".encode())

    def fail(self, error: SupervisorError) -> None:
        """End with an error: a status if nothing has been sent, an event of a stream, else by cutting the answer."""
        if self.client.recording is not None:
            self.client.recording.failed(error)
        if self.is_stream:
            self.client.finish(b"\n\n" + error_event(error, self.dialect))
        elif self.client.has_begun:
            self.client.cut()
        else:
            accept = header(self.client.headers, b"accept") or b""
            status, headers, body = error_response(error, self.dialect, accept)
            self.begin(status, headers, is_stream=False)
            self.client.finish(body)

    def _own_id(self, headers: Headers) -> Headers:
        """The request's name as Anthropic's own clients look for it; Anthropic itself may have given one."""
        if self.dialect is not Dialect.ANTHROPIC or header(headers, b"request-id") is not None:
            return []
        return [(b"request-id", self.client.request_id.encode())]

    def _cors(self) -> Headers:
        """Pages of other sites may ask models; what only the owner may do is not for them to read."""
        is_cross_origin = self._is_open_to_browsers and header(self.client.headers, b"origin") is not None
        return [(b"access-control-allow-origin", b"*")] if is_cross_origin else []
