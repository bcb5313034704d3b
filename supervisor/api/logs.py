"""What the service and its children have printed, as text: what there is, and as it comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from supervisor.access.keys import require_model
from supervisor.api.asker import asker_of, reached, visible
from supervisor.api.stream import Stream
from supervisor.errors import InvalidRequest, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

    from supervisor.api.service import Service
    from supervisor.runtime.logs import LogRing

MOST_NAMES = 20
"""Models that an error lists."""


class LogRoutes:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """For Starlette; GET includes HEAD."""
        return [
            Route("/logs", self.shown),
            Route("/logs/stream", self.stream),
            Route("/logs/stream/{name:path}", self.stream),
            Route("/logs/{name:path}", self.one),
        ]

    async def shown(self, request: Request) -> Response:
        """What goes to our own output; a browser is sent to the page that shows it."""
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(reached(request, "/ui/"), 302)
        return PlainTextResponse(self._service.logs.shown.text())

    async def one(self, request: Request) -> Response:
        """The log of one model, of all children (`upstream`), or our own (`proxy`)."""
        return PlainTextResponse(self._ring(request, request.path_params["name"]).text())

    async def stream(self, request: Request) -> Response:
        """One of them as it goes on, after what there is unless the query has `no-history`."""
        try:
            ring = self._ring(request, request.path_params.get("name", ""))
        except ModelNotFound as exc:
            raise InvalidRequest(f"{exc.message}; there are the logs {self._names(request)}", hint=exc.hint) from exc
        history = "no-history" not in request.query_params
        return Stream(_text(ring, history=history), "text/plain; charset=utf-8")

    def _ring(self, request: Request, name: str) -> LogRing:
        """Raises `ModelNotFound`, and `ModelForbidden` for what is not for the key that was sent."""
        logs, names = self._service.logs, self._service.names
        match name.strip("/"):
            case "" | "proxy" | "upstream" as every:
                require_model(asker_of(request).key, every or "all logs")
        match name.strip("/"):
            case "":
                return logs.shown
            case "proxy":
                return logs.proxy
            case "upstream":
                return logs.upstream
            case _:
                target, _ = names.split(name.split("/"))
        if target.peer is not None:
            raise ModelNotFound(f"`{target.name}` is a model of the peer `{target.peer}`, which keeps its log")
        require_model(asker_of(request).key, target.name, target.whole_name)
        return logs.of(target.model)

    def _names(self, request: Request) -> str:
        models = list(filter(visible(request, self._service.names), self._service.config.models))
        shown = ", ".join(f"`{name}`" for name in ["proxy", "upstream", *models[:MOST_NAMES]])
        return f"{shown}, …" if len(models) > MOST_NAMES else shown


async def _text(ring: LogRing, *, history: bool) -> AsyncGenerator[bytes, None]:
    news = asyncio.Event()
    with ring.reader(news.set, history=history) as reader:
        yield b""  # the head goes out now, though there may be nothing for long
        while True:
            news.clear()
            if text := reader.take():
                yield text.encode()
            elif ring.is_closed:
                return
            else:
                await news.wait()
