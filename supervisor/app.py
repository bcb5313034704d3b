"""The route table: the data plane first, by exact path; everything else through Starlette."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response

from supervisor.api.access import require_management
from supervisor.api.routes import Api
from supervisor.errors import InternalError, MethodNotAllowed, RouteNotFound, SupervisorError
from supervisor.proxy.answer import Answer
from supervisor.proxy.dialects import Dialect, error_response
from supervisor.proxy.relay import Proxy
from supervisor.proxy.routes import ROUTES, UPSTREAM
from supervisor.proxy.websocket import WebSocketProxy

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from supervisor.api.service import Service

logger = logging.getLogger("supervisor.app")

_OPEN_TO_BROWSERS = ROUTES.keys() | {"/v1/models", "/models"}


class App:
    """The ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._proxy = Proxy(service.pool, service.names)
        self._websockets = WebSocketProxy(service.pool, service.names)
        self._api = Starlette(
            routes=Api(service).routes(),
            exception_handlers={SupervisorError: _error, HTTPException: _http_error},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Choose who answers, and let nothing that goes wrong reach the client as a bare 500."""
        try:
            await self._answer(scope, receive, send)
        except SupervisorError as exc:
            await Answer(scope, send, Dialect.OPENAI).fail(exc)
        except Exception:
            logger.exception("bug: %s %s broke", scope.get("method", scope["type"]), scope["path"])
            with contextlib.suppress(RuntimeError):  # the answer may have begun; then uvicorn cuts it
                error = InternalError("something broke; the service's log has the details")
                await Answer(scope, send, Dialect.OPENAI).fail(error)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["method"] == "OPTIONS" and path in _OPEN_TO_BROWSERS:
            await _preflight(scope)(scope, receive, send)
        elif path in ROUTES:
            await self._proxy(scope, receive, send)
        elif path.startswith(UPSTREAM):
            require_management(scope, self._service.config.server.management)
            await self._proxy(scope, receive, send)
        else:
            await self._api(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not scope["path"].startswith(UPSTREAM):
                raise RouteNotFound(f"no websocket at `{scope['path']}`")
            require_management(scope, self._service.config.server.management)
        except SupervisorError as exc:
            logger.info("websocket refused: %s", exc)
            await send({"type": "websocket.close", "code": 1008, "reason": exc.message[:120]})
        else:
            await self._websockets(scope, receive, send)


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
        allowed = (exc.headers or {}).get("Allow", "")
        return await _error(request, MethodNotAllowed(f"`{path}` does not take {method}", allowed=allowed))
    return await _error(request, RouteNotFound(f"there is no `{method} {path}`"))


def _preflight(scope: Scope) -> Response:
    """What a browser asks before it sends a request from another site's page."""
    asked = next((value for name, value in scope["headers"] if name == b"access-control-request-headers"), b"")
    return Response(
        status_code=204,
        headers={
            "access-control-allow-origin": "*",
            "access-control-allow-methods": "GET, POST, OPTIONS",
            "access-control-allow-headers": asked.decode("latin-1") or "authorization, content-type",
            "access-control-max-age": "86400",
        },
    )
