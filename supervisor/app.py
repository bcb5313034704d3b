"""Who serves which request: the data plane first, by exact path; everything else is Starlette's."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response

from supervisor.api.access import Access
from supervisor.api.doors import Doors, names_model
from supervisor.api.routes import Api
from supervisor.errors import (
    BodyMemoryFull,
    BodyTooLarge,
    InternalError,
    MethodNotAllowed,
    RouteNotFound,
    SupervisorError,
)
from supervisor.proxy.asgi import AsgiCall
from supervisor.proxy.body_memory import SMALL_BODY, BodyMemory
from supervisor.proxy.dialects import Dialect, error_response
from supervisor.proxy.media import MediaGuard
from supervisor.proxy.relay import Proxy, answer_to
from supervisor.proxy.routes import COMFYUI, ROUTES, UPSTREAM
from supervisor.proxy.websocket import Upgrade, WebSocketProxy, named, refuse
from supervisor.record.access_log import access_log

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from supervisor.api.service import Service
    from supervisor.config.values import Config
    from supervisor.proxy.client import Client
    from supervisor.proxy.peers import Peers

logger = logging.getLogger("supervisor.app")

_OPEN_TO_BROWSERS = ROUTES.keys() | {"/v1/models", "/models"}
METRICS = "/metrics"
_ADDRESSED = (UPSTREAM, COMFYUI)
"""Where the beginning of the path names the child."""


class App:
    """All that clients can ask for; a `Plane`, and for websockets an ASGI application."""

    def __init__(self, service: Service, peers: Peers) -> None:
        self._service = service
        self._scheme = "https" if service.config.server.tls_cert_file else "http"
        self._proxy = Proxy(
            service.pool,
            service.names,
            peers=peers,
            in_flight=service.in_flight,
            activity=service.records.activity if service.config.server.activity else None,
        )
        self._websockets = WebSocketProxy(service.pool, service.names, peers)
        self._tasks: set[asyncio.Task[None]] = set()
        self._body_memory = BodyMemory(0)
        api = Api(service)
        self._access = Access(service.config, Doors(ROUTES, _ADDRESSED, api.routes()))
        self._adopt(service.config)
        service.configuration.followers.append(self._adopt)
        self._api = Starlette(
            routes=api.routes(),
            exception_handlers={SupervisorError: _error, HTTPException: _http_error, Exception: _error},
        )

    def _adopt(self, config: Config) -> None:
        """Let this config hold for every request that begins or grows from now on."""
        self._max_body = config.server.max_body
        self._prefix = config.server.prefix
        self._media = MediaGuard() if config.server.block_private_urls else None
        self._body_memory.limit = max(config.server.body_memory, self._max_body)
        self._access.adopt(config)
        self._access_log = access_log(config.server, partial(self._service.logs.proxy.append, stream="log"))
        self._proxy.adopt(config)
        self._websockets.adopt(config)

    # A request, as it comes.

    def began(self, client: Client) -> None:
        """Refuse at once who may not ask, and what announces too much."""
        if self._prefix:
            client.strip(self._prefix)
        if b"//" in client.raw_path and not client.path.startswith(_ADDRESSED):
            _join_slashes(client)
        if self._access_log is not None:
            self._access_log.began(client)
        if client.method != "OPTIONS":
            try:
                self._access.admit(client)
            except SupervisorError as exc:
                self.refuse(client, exc)
                return
        announced = client.fields.get(b"content-length")
        if announced is not None and int(announced) > self._max_body:
            self.refuse(client, _too_large(int(announced), self._max_body))

    def grew(self, client: Client) -> None:
        """Refuse what has become too much, and pass large uploads on."""
        size = client.body_size
        if size > self._max_body:
            self.refuse(client, _too_large(size, self._max_body))
            return
        if size <= SMALL_BODY:
            return
        try:
            self._body_memory.hold(client)
        except BodyMemoryFull as exc:
            self.refuse(client, exc)
            return
        if _is_data_plane(client) and client.method != "OPTIONS":
            self._guarded(self._early, client)

    def whole(self, client: Client) -> None:
        """Serve it."""
        self._guarded(self._serve, client)

    def refuse(self, client: Client, error: SupervisorError) -> None:
        """Answer with an error in the words of the request's route."""
        answer_to(client).fail(error)

    def _guarded(self, serve: Callable[[Client], None], client: Client) -> None:
        """Let nothing that goes wrong reach a client as a closed connection."""
        try:
            serve(client)
        except SupervisorError as exc:
            self.refuse(client, exc)
        except Exception:
            logger.exception("bug: %s %s broke", client.method, client.path, extra={"request_id": client.request_id})
            self.refuse(client, InternalError("something broke; the service's log has the details"))

    def _guarded_serve(self, client: Client) -> None:
        self._guarded(self._proxy.serve, client)

    def _early(self, client: Client) -> None:
        if self._media is None or client.path in ROUTES:  # of those, only forms are passed on before they are whole
            self._proxy.serve_early(client)

    def _serve(self, client: Client) -> None:
        path = client.path
        if client.method == "OPTIONS":
            _preflight(client, is_open=path in _OPEN_TO_BROWSERS)
        elif _is_data_plane(client):
            if self._media is not None and self._media.concerns(client):
                self._media.look(client, then=self._guarded_serve, refuse=self.refuse)
            else:
                self._proxy.serve(client)
        else:
            task = AsgiCall(self._api, client, scheme=self._scheme).start()
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    # A websocket.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tunnel it to its child."""
        upgrade, since = Upgrade(_without(self._prefix, scope), named(scope, send)), time.perf_counter_ns()
        try:
            await self._websocket(upgrade, receive)
        finally:
            if upgrade.watcher is not None:
                upgrade.watcher.client_ended()
            if self._access_log is not None:
                self._access_log.ended(upgrade, time.perf_counter_ns() - since)

    async def _websocket(self, upgrade: Upgrade, receive: Receive) -> None:
        with contextlib.suppress(RuntimeError, OSError):  # it may have been closed meanwhile
            try:
                self._access.admit(upgrade)
                if not upgrade.path.startswith(_ADDRESSED):
                    raise RouteNotFound(f"no websocket at `{upgrade.path}`")
            except SupervisorError as exc:
                await refuse(upgrade.scope, upgrade.send, exc)
            else:
                await self._websockets(upgrade.scope, receive, upgrade.send, key=upgrade.key)


def _without(prefix: str, scope: Scope) -> Scope:
    """The scope of a websocket without what a reverse proxy has put before its path."""
    if not prefix or not scope["path"].startswith(f"{prefix}/"):
        return scope
    raw = scope["raw_path"].removeprefix(prefix.encode())
    return {**scope, "path": scope["path"].removeprefix(prefix), "raw_path": raw}


def _join_slashes(client: Client) -> None:
    """Understand `/v1//chat/completions`, which comes of a base URL that ends in a slash."""
    client.raw_path = _SLASHES.sub(b"/", client.raw_path)
    client.path = unquote(client.raw_path.decode("ascii", "replace"))


_SLASHES = re.compile(b"//+")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _is_data_plane(client: Client) -> bool:
    """Whether a child is asked; of metrics, only those of the model that is named."""
    path = client.path
    if path == METRICS and not names_model(client.method, client.query):
        return False
    return path in ROUTES or path.startswith(_ADDRESSED)


async def _error(request: Request, exc: Exception) -> Response:
    error = exc if isinstance(exc, SupervisorError) else InternalError("something broke; the log has the details")
    accept = request.headers.get("accept", "").encode()
    status, headers, body = error_response(error, Dialect.OPENAI, accept)
    response = Response(body, status)
    response.raw_headers = headers
    return response


async def _http_error(request: Request, exc: Exception) -> Response:
    """Starlette's own refusals, in our words."""
    path, method = request.url.path, request.method
    if isinstance(exc, HTTPException) and exc.status_code == MethodNotAllowed.status:
        allowed = ", ".join(sorted((exc.headers or {}).get("Allow", "").split(", ")))
        return await _error(request, MethodNotAllowed(f"`{path}` does not take {method}", allowed=allowed))
    return await _error(request, RouteNotFound(f"there is no `{method} {path}`"))


def _preflight(client: Client, *, is_open: bool) -> None:
    """What a browser asks before it sends a request from another site's page; managing is not for those."""
    asked = client.fields.get(b"access-control-request-headers", b"")
    wanted = [name.strip() for name in asked.split(b",")]
    allowed = b", ".join(name for name in wanted if _TOKEN.fullmatch(name))
    headers = [
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE, OPTIONS"),
        (b"access-control-allow-headers", allowed or b"Content-Type, Authorization, Accept, X-Requested-With"),
        (b"access-control-max-age", b"86400"),
    ]
    client.begin(204, headers if is_open else [])
    client.finish()


def _too_large(size: int, limit: int) -> BodyTooLarge:
    message = f"the request body has {size} bytes or more; at most {limit} are allowed"
    return BodyTooLarge(message, hint="`server.max_body` of models.toml sets it")
