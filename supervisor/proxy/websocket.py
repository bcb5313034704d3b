"""Websockets to a child, message by message; the lease lasts as long as the socket."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from supervisor.errors import SupervisorError
from supervisor.llama.endpoint import Endpoint, TcpEndpoint, UnixEndpoint
from supervisor.proxy.disconnect import Disconnect
from supervisor.proxy.relay import addressed_model

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send
    from websockets.asyncio.client import ClientConnection

    from supervisor.fleet.names import Names
    from supervisor.runtime.pool import Pool

logger = logging.getLogger("supervisor.proxy")

TRY_AGAIN_LATER = 1013
ENDED_ABNORMALLY = 1011


class WebSocketProxy:
    """Serves websockets under `/upstream/MODEL/PATH`."""

    def __init__(self, pool: Pool, names: Names) -> None:
        self._pool = pool
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = WebSocket(scope, receive, send)
        try:
            model, path = addressed_model(self._names, scope["raw_path"])
            await client.receive()  # that it wants to connect
            lease = None
            with Disconnect(receive):
                lease = await self._pool.lease(model.model)
            if lease is not None:
                with lease as run:
                    assert run.endpoint is not None
                    await _tunnel(client, run.endpoint, path.decode("latin-1") or "/")
        except SupervisorError as exc:
            logger.info("websocket refused: %s", exc)
            with contextlib.suppress(RuntimeError):
                await client.close(TRY_AGAIN_LATER, reason=exc.message[:120])


async def _tunnel(client: WebSocket, endpoint: Endpoint, path: str) -> None:
    query = client.scope["query_string"].decode("latin-1")
    target = f"{path}?{query}" if query else path
    try:
        async with _connected(endpoint, target, client.scope.get("subprotocols") or None) as child:
            await client.accept(subprotocol=child.subprotocol)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_to_child, client, child, tasks.cancel_scope)
                await _to_client(child, client)
                tasks.cancel_scope.cancel()
    except (OSError, InvalidHandshake) as exc:
        logger.info("websocket %s refused by the child: %s", path, exc)
        await client.close(ENDED_ABNORMALLY, reason=str(exc)[:120])


def _connected(endpoint: Endpoint, target: str, subprotocols: Any) -> connect:
    options = {"subprotocols": subprotocols, "max_size": None, "compression": None, "proxy": None}
    match endpoint:
        case UnixEndpoint(path):
            return unix_connect(str(path), uri=f"ws://localhost{target}", **options)
        case TcpEndpoint(port, host):
            return connect(f"ws://{host}:{port}{target}", **options)


async def _to_child(client: WebSocket, child: ClientConnection, scope: anyio.CancelScope) -> None:
    try:
        while True:
            message = await client.receive()
            if message["type"] == "websocket.disconnect":
                await child.close(_sendable(message.get("code")), message.get("reason") or "")
                break
            data = message.get("text")
            await child.send(message["bytes"] if data is None else data)
    except (ConnectionClosed, WebSocketDisconnect):
        pass
    scope.cancel()


async def _to_client(child: ClientConnection, client: WebSocket) -> None:
    try:
        async for message in child:
            await (client.send_text(message) if isinstance(message, str) else client.send_bytes(message))
    except (ConnectionClosed, WebSocketDisconnect):
        pass
    with contextlib.suppress(WebSocketDisconnect):  # or it was the client that ended it
        await client.close(_sendable(child.close_code), child.close_reason)


def _sendable(code: int | None) -> int:
    """A close code as it may be sent: some only say that none came (RFC 6455, 7.4.1)."""
    match code:
        case None | 1005:
            return 1000
        case 1006 | 1015:
            return ENDED_ABNORMALLY
        case _:
            return code
