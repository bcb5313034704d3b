"""The routes that answer by themselves: listing, management, logs, health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec.json
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from supervisor.api import listing
from supervisor.api.access import require_management
from supervisor.api.fleet_status import fleet_status
from supervisor.errors import InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from supervisor.api.service import Service
    from supervisor.runtime.logs import LogRing

BODY_LIMIT = 64 * 1024

_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}


class Json(Response):
    """A JSON answer, encoded by msgspec: ten thousand models take 9 ms."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


class Api:
    """The endpoints, with the service they ask."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._listing = listing.Listing(service)

    def routes(self) -> list[Route]:
        """For Starlette; GET includes HEAD."""
        return [
            Route("/v1/models", self.models),
            Route("/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/health", self.health),
            Route("/v1/health", self.health_json),
            Route("/running", self.running),
            Route("/models/load", self.load, methods=["POST"]),
            Route("/models/unload", self.unload, methods=["POST"]),
            Route("/unload", self.unload_all),
            Route("/status", self.status),
            Route("/logs", self.log),
            Route("/logs/stream", self.log_stream),
            Route("/logs/stream/{name:path}", self.log_stream),
            Route("/logs/{name:path}", self.log),
        ]

    # For everybody.

    async def models(self, request: Request) -> Response:
        return Json(self._listing(), headers=_cors(request))

    async def model(self, request: Request) -> Response:
        return Json(listing.model(self._service, request.path_params["name"]), headers=_cors(request))

    async def health(self, request: Request) -> Response:
        if "application/json" in request.headers.get("accept", ""):
            return await self.health_json(request)
        return PlainTextResponse("OK")

    async def health_json(self, request: Request) -> Response:
        return Json({"status": "ok"})

    # For those who may manage.

    async def running(self, request: Request) -> Response:
        self._require(request)
        return Json(listing.running(self._service))

    async def status(self, request: Request) -> Response:
        self._require(request)
        return Json(fleet_status(self._service))

    async def load(self, request: Request) -> Response:
        """Start loading; with `"wait": true`, answer when the model is ready or with the reason why it is not.

        A model that is there already is no error.
        """
        self._require(request)
        fields = await _fields(request)
        model = self._named(fields)
        if fields.get("wait") is True:
            await self._service.pool.load(model)
        else:
            self._service.pool.start_loading(model)
        return Json({"success": True})

    async def unload(self, request: Request) -> Response:
        """Start unloading: requests in flight get `drain_timeout`, with `"force": true` none."""
        self._require(request)
        fields = await _fields(request)
        self._service.pool.start_unloading(self._named(fields), force=fields.get("force") is True)
        return Json({"success": True})

    async def unload_all(self, request: Request) -> Response:
        """Unload everything and answer when it is done."""
        self._require(request)
        await self._service.pool.unload()
        return PlainTextResponse("OK")

    async def log(self, request: Request) -> Response:
        self._require(request)
        return PlainTextResponse(self._ring(request).text())

    async def log_stream(self, request: Request) -> Response:
        self._require(request)
        history = "no-history" not in request.query_params
        return StreamingResponse(
            _text(self._ring(request), history=history), media_type="text/plain", headers=_STREAM_HEADERS
        )

    def _require(self, request: Request) -> None:
        require_management(request.scope["headers"], request.client, self._service.config.server.management)

    def _named(self, fields: dict[str, Any]) -> str:
        name = fields.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidRequest('expected {"model": "NAME"}')
        return self._service.names.resolve(name).model

    def _ring(self, request: Request) -> LogRing:
        name = request.path_params.get("name", "proxy")
        try:
            return self._service.logs.of(self._service.names.resolve(name).model)
        except ModelNotFound:
            match name:
                case "proxy":
                    return self._service.logs.proxy
                case "upstream":
                    return self._service.logs.upstream
                case _:
                    raise


async def _fields(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise InvalidRequest(f"the request body has more than {BODY_LIMIT} bytes")
    try:
        fields = msgspec.json.decode(body)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise InvalidRequest('expected a JSON object such as {"model": "NAME"}')
    return fields


async def _text(ring: LogRing, *, history: bool) -> AsyncIterator[str]:
    async for lines in ring.follow(history=history):
        yield "".join(f"{line.text}\n" for line in lines)


def _cors(request: Request) -> dict[str, str]:
    origin = request.headers.get("origin")
    return {"access-control-allow-origin": origin} if origin else {}
