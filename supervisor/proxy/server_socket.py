"""A websocket that we open to a server, with what of the client's request is for it."""

from __future__ import annotations

import asyncio
import contextlib
import string
from typing import TYPE_CHECKING
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus
from websockets.uri import WebSocketURI

from supervisor.errors import UpstreamUnreachable
from supervisor.proxy.heads import HOP_BY_HOP, header, request_head
from supervisor.proxy.opening import NoConnection
from supervisor.proxy.request_id import REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Scope
    from websockets.http11 import Request

    from supervisor.proxy.backend import Backend
    from supervisor.proxy.heads import Forwarding, Headers

_HANDSHAKE = "sec-websocket-"
_NOT_RETURNED = HOP_BY_HOP | {b"content-length", b"date", b"server", REQUEST_ID}


async def open_socket(backend: Backend, target: bytes, scope: Scope) -> ClientConnection:
    """A websocket at a server; `scope` is the client's.

    Raises `InvalidStatus` if the server answers otherwise, and what its backend says of it if it does not answer.
    """
    upstream = backend.upstream
    handshake = _Handshake(target, scope, upstream.forwarding)
    try:
        # Whether the other end lives is for the ends to ask each other: one that computes may be silent for long.
        server = await upstream.open(lambda: ClientConnection(handshake, ping_interval=None))
    except NoConnection as exc:
        raise await backend.unreachable(exc) from exc
    try:
        async with asyncio.timeout(upstream.response_header):
            await server.handshake(user_agent_header=None)
    except TimeoutError as exc:
        server.transport.abort()
        raise backend.late() from exc
    except BaseException as exc:
        server.transport.abort()
        if isinstance(exc, InvalidHandshake) and not isinstance(exc, InvalidStatus):
            path = target.decode("latin-1")
            raise UpstreamUnreachable(f"{backend.name} accepts no websocket at `{path}`: {exc}") from exc
        raise
    return server


@contextlib.asynccontextmanager
async def closing(server: ClientConnection) -> AsyncIterator[ClientConnection]:
    """On leaving, the server is told, and nothing is left of the connection."""
    try:
        yield server
        await server.close()
    finally:
        server.transport.abort()


def returned(server: ClientConnection) -> Headers:
    """What of the server's answer is for the client, cookies for instance."""
    assert server.response is not None
    pairs = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in server.response.headers.raw_items()
        if not name.lower().startswith(_HANDSHAKE)
    ]
    return [(name, value) for name, value in pairs if name not in _NOT_RETURNED]


class _Handshake(ClientProtocol):
    """The library's, with the head that any other request would have."""

    def __init__(self, target: bytes, scope: Scope, forwarding: Forwarding) -> None:
        anywhere = WebSocketURI(secure=False, host="localhost", port=80, path="/", query="")
        super().__init__(anywhere, subprotocols=scope.get("subprotocols") or None, max_size=None)
        name = (header(scope["headers"], REQUEST_ID) or b"").decode()
        self._head = request_head(b"GET", target, scope["headers"], None, forwarding, scope["client"], name)

    def connect(self) -> Request:
        request = super().connect()
        del request.headers["Host"]
        first, *lines = self._head.rstrip(b"\r\n").split(b"\r\n")
        request.path = quote(first.split(b" ")[1], safe=string.punctuation)
        for name, _, value in (line.decode("latin-1").partition(": ") for line in lines):
            if not name.startswith(_HANDSHAKE):
                request.headers[name] = value
        return request
