"""`/api/reload`: what the files of the config would change, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from supervisor.api.asker import asker_of
from supervisor.api.json_answer import Json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from supervisor.api.service import Service


class ReloadRoutes:
    """The endpoints. A config that is no good is answered 422."""

    def __init__(self, service: Service) -> None:
        self._configuration = service.configuration

    def routes(self) -> list[Route]:
        """For Starlette; GET includes HEAD."""
        return [Route("/api/reload", self.reload, methods=["GET", "POST"])]

    async def reload(self, request: Request) -> Response:
        """POST: reload, and tell what that has changed, though processes may take longer. GET: tell what it would."""
        doing = self._configuration.reload() if request.method == "POST" else self._configuration.plan()
        plan = await doing
        asker_of(request).deed = "; ".join(plan.lines())
        return Json(plan.as_json())
