"""An answer without end: it goes on until the client leaves or the service ends."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

_HEADERS = {
    "cache-control": "no-cache",
    "connection": "keep-alive",
    "x-content-type-options": "nosniff",
    "x-accel-buffering": "no",  # nginx in front of us would hold it back
}


class Stream(StreamingResponse):
    """What the generator yields, as it comes. What the generator holds is let go as soon as the answer has ended."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], content_type: str) -> None:
        super().__init__(pieces, headers={**_HEADERS, "content-type": content_type})
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["http_version"] != "1.1" or (b"connection", b"close") in scope["headers"]:
            del self.headers["connection"]  # such a connection ends with the answer
        async with aclosing(self._pieces):
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
            else:
                await super().__call__(scope, receive, send)
