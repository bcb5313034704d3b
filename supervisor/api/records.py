"""What has happened, and how the machine fares: activity, statistics, captures, samples, metrics.

In llama-swap's words, and for Prometheus (spec: llama-swap.md, 1.13 to 1.15 and 5).
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec.json
from starlette.responses import Response
from starlette.routing import Route

from supervisor import __version__
from supervisor.api.json_answer import Json
from supervisor.errors import InvalidRequest, RouteNotFound
from supervisor.record import metrics
from supervisor.record.metrics import Gauges
from supervisor.record.queries import models_of, query_of, time_of
from supervisor.record.turns import in_turns, pause
from supervisor.runtime.hardware import hardware
from supervisor.runtime.scrape import Scraper
from supervisor.runtime.vitals import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from starlette.requests import Request

    from supervisor.api.service import Service
    from supervisor.record.metrics import Numbers
    from supervisor.record.rows import StoredRow

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ROWS_AT_ONCE = 32
"""Shown between two pauses."""
logger = logging.getLogger("supervisor.api")


class RecordRoutes:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._scraper = Scraper()
        self._hardware: dict[str, object] | None = None
        self._looking = anyio.Lock()

    def routes(self) -> list[Route]:
        """For Starlette; GET includes HEAD."""
        return [
            Route("/api/metrics/activity", self.activity),
            Route("/api/metrics/stats", self.statistics),
            Route("/api/captures/{id}", self.capture),
            Route("/api/performance", self.performance),
            Route("/api/hardware", self.hardware),
            Route("/metrics", self.metrics),
        ]

    async def activity(self, request: Request) -> Response:
        """One page of the requests that have ended."""
        query = query_of(request.query_params.multi_items())
        activity = self._service.records.activity
        rows, total = await activity.page(query)
        return Json(
            {
                "data": await anyio.to_thread.run_sync(_shown, rows, activity.captures.numbers()),
                "page": query.page,
                "limit": query.limit,
                "total": total,
                "total_pages": math.ceil(total / query.limit),
            }
        )

    async def statistics(self, request: Request) -> Response:
        """Sums and spreads over all of them, or over those of some models."""
        models = models_of(request.query_params.multi_items())
        return Json(await self._service.records.activity.statistics(models))

    async def capture(self, request: Request) -> Response:
        """A whole request with its answer, if it was kept."""
        name = request.path_params["id"]
        if not (name.isascii() and name.isdecimal()):
            raise InvalidRequest(f"`id`: expected the number of a row, got `{name[:50]}`")
        number = int(name[:20])
        capture = self._service.records.activity.captures.get(number)
        if capture is None:
            raise RouteNotFound("capture not found", hint="only the newest are kept, up to `capture_buffer`")
        return Json(capture.as_json(number))

    async def performance(self, request: Request) -> Response:
        """The host and its GPUs during the last hour, or after a time."""
        after = request.query_params.get("after", "")
        try:
            since = time_of(after.replace(" ", "+")) if after else None
        except (ValueError, OverflowError) as exc:
            expected = "a time as RFC 3339 has it, such as 2026-08-22T09:29:57Z"
            raise InvalidRequest(f"`after`: expected {expected}, got `{after[:50]}`") from exc
        samples = self._service.records.samples
        # Some clients look at the status, some at `enabled`.
        return Json(samples.as_json(since), status_code=200 if samples.is_enabled else 503)

    async def hardware(self, request: Request) -> Response:
        """What this machine is; looked at once."""
        async with self._looking:
            if self._hardware is None:
                self._hardware = await anyio.to_thread.run_sync(hardware, abandon_on_cancel=True)
        return Json(self._hardware)

    async def metrics(self, request: Request) -> Response:
        """Everything for Prometheus: ours, the machine's, and the children's own."""
        await self._service.records.activity.settle()
        texts = await self._scraper.scrape(self._service.pool)
        counted, gauges = self._service.records.metrics.numbers(), self._gauges()
        body = await anyio.to_thread.run_sync(exposition, counted, gauges, texts)
        return Response(body, headers={"content-type": CONTENT_TYPE})

    def _gauges(self) -> Gauges:
        service, gauges = self._service, Gauges()
        gauges.add(metrics.BUILD, 1, __version__)
        runs = service.pool.fleet.by_model()
        nobody = dict.fromkeys(runs, 0)  # a series that comes and goes cannot be drawn
        for told, counts in (
            (metrics.IN_FLIGHT, service.in_flight.by_model()),
            (metrics.WAITING, service.pool.fleet.queue.counts()),
        ):
            gauges.add_all(told, (((name,), count) for name, count in (nobody | dict(counts)).items()))
        for name, run in sorted(runs.items()):
            gauges.add(metrics.STATE, 1, name, run.phase.value)
            gauges.add_all(metrics.MEMORY, (((name, device), size) for device, size in run.footprint.total().items()))
            live = service.pool.live_run(run.id)
            if live is not None and live.pid is not None:
                gauges.add(metrics.RESIDENT, resident_bytes(live.pid), name)
        service.records.samples.tell(gauges)
        return gauges


def _shown(rows: Sequence[StoredRow], captured: Collection[int]) -> list[msgspec.Raw]:
    """Rows as JSON; there may be many, and nobody else should wait for them."""
    told = (row.as_json(has_capture=row.id in captured) for row in rows)
    return [msgspec.Raw(msgspec.json.encode(each)) for each in in_turns(told, ROWS_AT_ONCE)]


def exposition(counted: Numbers, gauges: Gauges, texts: Mapping[str, str | None]) -> bytes:
    """All metrics as text; takes milliseconds, and the first time a while, for its library is imported then."""
    from supervisor.record.exposition import Families, Malformed, of_child, own_process, text_of

    families, children = Families(), Families()
    for model, text in sorted(texts.items()):
        is_given = text is not None
        try:
            children.add(of_child(text or "", model))
        except Malformed as exc:
            logger.debug("no metrics of %s: %s", model, exc)
            is_given = False
        gauges.add(metrics.SCRAPED, float(is_given), model)
    families.add(own_process())
    families.add(children.collect())
    ours = text_of({**counted, **gauges.numbers}, pause=pause)
    return ours + families.text()
