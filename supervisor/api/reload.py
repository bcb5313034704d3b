"""`/api/reload`: what the files of the config would change, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec.json
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from supervisor.api.service import Service


class ReloadRoutes:
    """The endpoints; `require` raises unless a request may manage. A config that is no good is answered 422."""

    def __init__(self, service: Service, require: Callable[[Request], None]) -> None:
        self._configuration = service.configuration
        self._require = require

    def routes(self) -> list[Route]:
        """For Starlette; GET includes HEAD."""
        return [Route("/api/reload", self.reload, methods=["GET", "POST"])]

    async def reload(self, request: Request) -> Response:
        """POST: reload, and tell what that has changed, though processes may take longer. GET: tell what it would."""
        self._require(request)
        doing = self._configuration.reload() if request.method == "POST" else self._configuration.plan()
        return Response(msgspec.json.encode((await doing).as_json()), media_type="application/json")
