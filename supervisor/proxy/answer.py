"""What one client has been sent so far: nothing, comments of a stream that waits, or the child's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.proxy.dialects import Dialect, error_event, error_response
from supervisor.proxy.heads import header
from supervisor.proxy.lines import WholeLines

if TYPE_CHECKING:
    from supervisor.errors import SupervisorError
    from supervisor.proxy.client import Client
    from supervisor.proxy.heads import Headers
    from supervisor.proxy.loading_state import Joint, LoadingState


class Answer:
    """An answer under way. Once a stream has begun, errors are its last event instead of a status."""

    __slots__ = ("_is_open_to_browsers", "client", "dialect", "is_stream", "told")

    def __init__(self, client: Client, dialect: Dialect, *, is_open_to_browsers: bool = False) -> None:
        self.client = client
        self._is_open_to_browsers = is_open_to_browsers
        self.dialect = dialect
        self.is_stream = False
        """Whether it is an event stream, to which an event can be added."""
        self.told: LoadingState | None = None
        """The words in which the client was told how its model loads; the stream goes on in them."""

    def begin(self, status: int, headers: Headers, *, is_stream: bool) -> None:
        """Send the head, unless comments have gone before."""
        if not self.client.has_begun:
            self.is_stream = is_stream and header(headers, b"content-length") is None
            if self._is_open_to_browsers and b"origin" in self.client.fields:
                headers = [*headers, (b"access-control-allow-origin", b"*")]  # pages of other sites may ask models
            if self.dialect is Dialect.ANTHROPIC and header(headers, b"request-id") is None:
                headers = [*headers, (b"request-id", self.client.request_id.encode())]  # as its own clients look for it
            self.client.begin(status, headers)

    def comment(self, text: str) -> None:
        """Tell a waiting stream how things go, in a form that every client ignores."""
        self.tell(f": {text}\n\n".encode())

    def tell(self, events: bytes) -> None:
        """Send events of our own, in a stream that begins with them if it has not begun."""
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        self.begin(200, headers, is_stream=True)
        if events:
            self.client.write(events)

    @property
    def takes_chunks(self) -> bool:
        """Whether the chunks of the answer's stream may pass as they are, once it has begun."""
        return self.is_stream and self.told is None and self.client.takes_chunks

    def lines(self) -> WholeLines | Joint:
        """What the child's stream goes through."""
        return WholeLines() if self.told is None else self.told.joint()

    def fail(self, error: SupervisorError) -> None:
        """End with an error: a status if nothing has been sent, an event of a stream, else by cutting the answer."""
        if self.client.recording is not None:
            self.client.recording.failed(error)
        if self.is_stream:
            event = error_event(error, self.dialect) if self.told is None else self.told.failed(error)
            self.client.finish(b"\n\n" + event)
        elif self.client.has_begun:
            self.client.cut()
        else:
            accept = self.client.fields.get(b"accept", b"")
            status, headers, body = error_response(error, self.dialect, accept)
            self.begin(status, headers, is_stream=False)
            self.client.finish(body)
