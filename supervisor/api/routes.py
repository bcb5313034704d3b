"""The routes that answer by themselves: listing, management, logs, health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec.json
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from supervisor import __version__
from supervisor.api import listing
from supervisor.api.asker import about_model, asker_of, reached, visible
from supervisor.api.events import Events
from supervisor.api.fleet_status import fleet_status
from supervisor.api.json_answer import Json
from supervisor.api.logs import LogRoutes
from supervisor.api.records import RecordRoutes
from supervisor.api.reload import ReloadRoutes
from supervisor.errors import InvalidRequest, RouteNotFound

if TYPE_CHECKING:
    from starlette.requests import Request

    from supervisor.api.service import Service

BODY_LIMIT = 64 * 1024
_ANY = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Api:
    """The endpoints, with the service they ask. Who may ask what is said in `doors`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._listing = listing.Listing(service)
        self._events = Events(service, service.bus)
        self._logs = LogRoutes(service)
        self._records = RecordRoutes(service)
        self._reload = ReloadRoutes(service)
        service.configuration.followers += [self._listing.adopt, self._events.adopt]
        service.configuration.on_end.append(self._events.reloaded)

    def routes(self) -> list[Route]:
        """For Starlette; GET includes HEAD."""
        return [
            Route("/v1/models", self.models),
            Route("/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/health", self.health),
            Route("/wol-health", self.health),
            Route("/favicon.ico", self.favicon),
            Route("/upstream", self.upstream),
            Route("/comfyui", self.comfyui, methods=_ANY),
            Route("/v1/health", self.health_json),
            Route("/running", self.running),
            Route("/models/load", self.load, methods=["POST"]),
            Route("/models/unload", self.unload, methods=["POST"]),
            Route("/unload", self.unload_all),
            Route("/api/models/unload", self.unload_all_told, methods=["POST"]),
            Route("/api/models/unload/{name:path}", self.unload_one, methods=["POST"]),
            Route("/api/profiles", self.profiles),
            Route("/api/profiles/active", self.activate_profile, methods=["PUT"]),
            Route("/api/inflight/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/api/version", self.version),
            Route("/status", self.status),
            Route("/api/events", self._events.stream),
            *self._logs.routes(),
            *self._records.routes(),
            *self._reload.routes(),
        ]

    # For everybody.

    async def models(self, request: Request) -> Response:
        return Json(self._listing(visible(request, self._service.names)), headers=_cors(request))

    async def model(self, request: Request) -> Response:
        about_model(request, self._service.names, request.path_params["name"])
        return Json(listing.model(self._service, request.path_params["name"]), headers=_cors(request))

    async def health(self, request: Request) -> Response:
        if "application/json" in request.headers.get("accept", ""):
            return await self.health_json(request)
        return PlainTextResponse("OK")

    async def health_json(self, request: Request) -> Response:
        return Json({"status": "ok"})

    async def favicon(self, request: Request) -> Response:
        return Response(status_code=204)

    async def upstream(self, request: Request) -> Response:
        """To where models are shown; behind this come their names."""
        return RedirectResponse(reached(request, "/ui/models"), 302)

    async def comfyui(self, request: Request) -> Response:
        """To the page itself, whose links are relative."""
        target = reached(request, "/comfyui/") + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(target, 301 if request.method in {"GET", "HEAD"} else 308)

    async def version(self, request: Request) -> Response:
        return Json({"build_date": "", "commit": "", "version": __version__})

    # For those who may manage.

    async def running(self, request: Request) -> Response:
        return Json(listing.running(self._service))

    async def status(self, request: Request) -> Response:
        # In a thread, for a driver may take its time.
        reading = await anyio.to_thread.run_sync(self._service.launcher.ledger.readings.read)
        return Json(fleet_status(self._service, reading))

    async def load(self, request: Request) -> Response:
        """Start loading; with `"wait": true`, answer when the model is ready or with the reason why it is not.

        A model that is there already is no error.
        """
        fields = await _fields(request)
        model = self._named(request, fields)
        if fields.get("wait") is True:
            await self._service.pool.load(model)
        else:
            self._service.pool.start_loading(model)
        return Json({"success": True})

    async def unload(self, request: Request) -> Response:
        """Start unloading: requests in flight get `drain_timeout`, with `"force": true` none."""
        fields = await _fields(request)
        self._service.pool.start_unloading(self._named(request, fields), force=fields.get("force") is True)
        return Json({"success": True})

    async def unload_all(self, request: Request) -> Response:
        """Unload everything and answer when it is done."""
        await self._service.pool.unload()
        return PlainTextResponse("OK")

    async def unload_all_told(self, request: Request) -> Response:
        """As `unload_all`, in JSON."""
        await self.unload_all(request)
        return Json({"msg": "ok"})

    async def unload_one(self, request: Request) -> Response:
        """Unload one model and answer when it is done."""
        about_model(request, self._service.names, request.path_params["name"])
        await self._service.pool.unload(self._service.local(request.path_params["name"]))
        return PlainTextResponse("OK")

    async def profiles(self, request: Request) -> Response:
        return Json(listing.profiles(self._service))

    async def activate_profile(self, request: Request) -> Response:
        """Choose the profile whose pins hold; null or an empty name: none."""
        fields = await _fields(request)
        if "name" not in fields:
            raise InvalidRequest("profile name is required", hint='expected {"name": "NAME"} or {"name": null}')
        name = fields["name"]
        if name is not None and not isinstance(name, str):
            raise InvalidRequest("profile name must be a string or null")
        asker_of(request).deed = name or "none"
        self._service.names.activate(name or None)
        self._events.profile_changed()
        return Json({"active": self._service.names.active_profile})

    async def cancel(self, request: Request) -> Response:
        """End a request that is being served."""
        if not self._service.in_flight.cancel(request.path_params["id"]):
            raise RouteNotFound("inflight request not found", hint="`GET /api/events` tells which there are")
        return Json({"msg": "ok"})

    def _named(self, request: Request, fields: dict[str, Any]) -> str:
        name = fields.get("model")
        if not isinstance(name, str) or not name:
            raise InvalidRequest('expected {"model": "NAME"}')
        about_model(request, self._service.names, name)
        return self._service.local(name)


async def _fields(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise InvalidRequest(f"the request body has more than {BODY_LIMIT} bytes")
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise InvalidRequest('expected a JSON object such as {"model": "NAME"}')
    return fields


def _cors(request: Request) -> dict[str, str]:
    origin = request.headers.get("origin")
    return {"access-control-allow-origin": origin} if origin else {}
