"""Websockets to a child or a peer, message by message; a lease lasts as long as its socket."""

from __future__ import annotations

import contextlib
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from supervisor.access.keys import KeyRing
from supervisor.errors import SupervisorError
from supervisor.proxy.backend import LocalBackend, local_upstream
from supervisor.proxy.dialects import error_response
from supervisor.proxy.disconnect import Disconnect
from supervisor.proxy.heads import fields_of, header
from supervisor.proxy.relay import addressed_model, inside, require_target
from supervisor.proxy.request_id import REQUEST_ID
from supervisor.proxy.routes import COMFYUI, COMFYUI_MODEL, dialect_of
from supervisor.proxy.server_socket import closing, open_socket, returned

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send
    from websockets.asyncio.client import ClientConnection

    from supervisor.config.clients import ClientKey
    from supervisor.config.values import Config
    from supervisor.fleet.names import Names, Target
    from supervisor.proxy.backend import Backend
    from supervisor.proxy.heads import Headers
    from supervisor.proxy.peers import Peers
    from supervisor.record.inflight import Watcher
    from supervisor.runtime.pool import Pool

logger = logging.getLogger("supervisor.proxy")

ENDED_ABNORMALLY = 1011

_STATUSES = frozenset(HTTPStatus)
"""Those that can be sent: uvicorn wants to name them."""


class WebSocketProxy:
    """Serves websockets under `/upstream/MODEL/PATH`."""

    def __init__(self, pool: Pool, names: Names, peers: Peers) -> None:
        self._pool = pool
        self._names = names
        self._peers = peers
        self.adopt(pool.config)

    def adopt(self, config: Config) -> None:
        """Let this config hold; sockets that are open stay."""
        self._keys = KeyRing.of(config)

    async def __call__(self, scope: Scope, receive: Receive, send: Send, *, key: ClientKey | None = None) -> None:
        """Tunnel one whose sender has this key, where keys are needed."""
        client = WebSocket(scope, receive, send)
        try:
            model, path = self._addressed(scope["raw_path"], key)
            await client.receive()  # that it wants to connect
            if model.peer is not None:
                await _tunnel(client, self._peers.backend(model.peer), path)
            elif self._pool.config.models[model.model].ignore_websockets:
                await _tunnel(client, self._ready(model.model), path)
            else:
                await self._leased(client, model.model, path)
        except SupervisorError as exc:
            await refuse(scope, send, exc)
        except InvalidStatus as exc:
            await _pass_refusal_on(exc, scope, send)

    async def _leased(self, client: WebSocket, model: str, path: bytes) -> None:
        """Tunnel one that loads its model and keeps it."""
        lease = None
        with Disconnect(client.receive):
            lease = await self._pool.lease(model)
        if lease is not None:
            with lease as run:
                await _tunnel(client, LocalBackend(lease, local_upstream(run, self._keys)), path)

    def _addressed(self, raw_path: bytes, key: ClientKey | None) -> tuple[Target, bytes]:
        """The model and the path at its server; raises `ModelNotFound`, and `ModelForbidden` by the key."""
        if raw_path.startswith(COMFYUI.encode()):
            model, path = self._names.model(COMFYUI_MODEL), inside(raw_path[len(COMFYUI) - 1 :])
        else:
            model, path = addressed_model(self._names, raw_path)
        require_target(key, model)
        return model, path or b"/"

    def _ready(self, model: str) -> LocalBackend:
        """The process of a model that is loaded anyway; raises `ModelNotLoaded`."""
        lease = self._pool.look(model)
        with lease as run:
            return LocalBackend(lease, local_upstream(run, self._keys))


async def refuse(scope: Scope, send: Send, error: SupervisorError) -> None:
    """Answer with an error instead of a websocket."""
    logger.info("websocket refused: %s", error, extra={"request_id": _request_id(scope)})
    accept = header(scope["headers"], b"accept") or b""
    await _deny(send, *error_response(error, dialect_of(scope["path"]), accept))


async def _pass_refusal_on(exc: InvalidStatus, scope: Scope, send: Send) -> None:
    """Answer as the server has."""
    response = exc.response
    logger.info("websocket refused by the server: %s", exc, extra={"request_id": _request_id(scope)})
    status = response.status_code if response.status_code in _STATUSES else HTTPStatus.BAD_GATEWAY
    kind = response.headers.get("content-type")
    headers = [(b"content-type", kind.encode("latin-1"))] if kind else []
    await _deny(send, status, headers, bytes(response.body or b""))


async def _deny(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """The answer of a websocket that does not open (ASGI's extension `websocket.http.response`)."""
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def _tunnel(client: WebSocket, backend: Backend, path: bytes) -> None:
    query = client.scope["query_string"]
    server = None
    with Disconnect(client.receive):
        server = await open_socket(backend, path + b"?" + query if query else path, client.scope)
    if server is None:
        return
    async with closing(server):
        await client.accept(subprotocol=server.subprotocol, headers=returned(server))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_to_server, client, server, tasks.cancel_scope)
            await _to_client(server, client)
            tasks.cancel_scope.cancel()


async def _to_server(client: WebSocket, server: ClientConnection, scope: anyio.CancelScope) -> None:
    try:
        while True:
            message = await client.receive()
            if message["type"] == "websocket.disconnect":
                await server.close(_sendable(message.get("code")), message.get("reason") or "")
                break
            data = message.get("text")
            await server.send(message["bytes"] if data is None else data)
    except (ConnectionClosed, WebSocketDisconnect):
        pass
    scope.cancel()


async def _to_client(server: ClientConnection, client: WebSocket) -> None:
    try:
        async for message in server:
            await (client.send_text(message) if isinstance(message, str) else client.send_bytes(message))
    except (ConnectionClosed, WebSocketDisconnect):
        pass
    with contextlib.suppress(WebSocketDisconnect):  # or it was the client that ended it
        await client.close(_sendable(server.close_code), server.close_reason)


def _sendable(code: int | None) -> int:
    """A close code as it may be sent: some only say that none came (RFC 6455, 7.4.1)."""
    match code:
        case None | 1005:
            return 1000
        case 1006 | 1015:
            return ENDED_ABNORMALLY
        case _:
            return code


def named(scope: Scope, send: Send) -> Send:
    """A way to answer that adds the request's name to the head, as every answer has it."""

    async def send_named(message: Message) -> None:
        if message["type"] in {"websocket.accept", "websocket.http.response.start"}:
            name = (REQUEST_ID, _request_id(scope).encode())
            message = {**message, "headers": [*message.get("headers", ()), name]}
        await send(message)

    return send_named


def _request_id(scope: Scope) -> str:
    return (header(scope["headers"], REQUEST_ID) or b"").decode()


class Upgrade:
    """The request that a websocket begins with, as the record sees it, if its answer goes through `send`."""

    method = "GET"

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self.scope = scope
        self.path: str = scope["path"]
        self.raw_path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self.request_id = _request_id(scope)
        self.headers: Headers = scope["headers"]
        self.fields = fields_of(self.headers)
        self.version: str = scope["http_version"]
        self.address: tuple[str, int] | None = scope["client"]
        self.status = 0
        self.written = 0
        self.key: ClientKey | None = None
        self.deed = ""
        self.watcher: Watcher | None = None

    async def send(self, message: Message) -> None:
        """Send this, and remember what the answer was."""
        match message["type"]:
            case "websocket.accept":
                self.status = HTTPStatus.SWITCHING_PROTOCOLS
            case "websocket.http.response.start":
                self.status = message["status"]
            case "websocket.http.response.body":
                self.written += len(message["body"])
        await self._send(message)
