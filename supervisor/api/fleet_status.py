"""`GET /status`: the whole fleet as JSON, for `ps`, `why` and whoever watches."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from supervisor import __version__
from supervisor.api import memory_status
from supervisor.api.listing import state_of, status
from supervisor.fleet.memory import Reading
from supervisor.fleet.waiting import expected_wait
from supervisor.runtime.vitals import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.api.service import Service
    from supervisor.config.values import Model

MOST_EXPECTED = 100
"""Models of those that are waited for whose wait is told."""


def fleet_status(service: Service, reading: Reading | None = None) -> dict[str, object]:
    """Models with their processes, the queue, and the last failure of each model; devices if they have been read."""
    now = time.monotonic()
    fleet = service.pool.fleet
    expected = {
        model: round(expected_wait(fleet, model, now), 1) for model in islice(fleet.queue.wanted, MOST_EXPECTED)
    }
    return {
        "version": __version__,
        "uptime_seconds": round(time.time() - service.started_at),
        "closing": fleet.closing,
        "max_loaded": service.config.server.max_loaded,
        "devices": memory_status.devices(reading or Reading(), service.config.memory),
        "models": [_model(service, model, now) for model in (*service.config.models.values(), *_former(service))],
        "queue": [
            {
                "ticket": ticket.id,
                "model": ticket.model,
                "position": position,
                "waiting_seconds": round(now - ticket.since, 3),
                "expected_seconds": expected.get(ticket.model),
            }
            for position, ticket in enumerate(fleet.queue, 1)
        ],
        "decisions": [decided.as_json() for decided in service.pool.decisions],
        "failures": {
            name: {"message": report.message, **report.as_json(), "current": name in fleet.failures}
            for name, report in service.pool.reports.items()
        },
    }


def _former(service: Service) -> Iterable[Model]:
    """Models that are in the config no more, and still serve the requests they had."""
    known = service.config.models
    return {run.model.id: run.model for run in service.pool.fleet.runs if run.model.id not in known}.values()


def _model(service: Service, model: Model, now: float) -> dict[str, object]:
    inspection = service.inspection(model.id)
    header = inspection.header if inspection else None
    context = model.options.get("ctx-size")
    return {
        "id": model.id,
        "state": state_of(service, model.id),
        "status": status(service, model.id),
        "cause": service.pool.fleet.failures[model.id].cause if model.id in service.pool.fleet.failures else None,
        "pinned": model.pinned,
        "size_bytes": inspection.size if inspection else None,
        "quantisation": header.quantisation if header else None,
        "context": context or (header.context_length if header else None),
        "memory": memory_status.footprint(service.launcher.ledger.footprint(model.id)),
        "waiting": service.pool.fleet.queue.waiting_for(model.id),
        "warnings": service.warnings(model.id),
        "problems": [problem.cause for problem in inspection.problems] if inspection else [],
        "process": _process(service, model, now),
    }


def _process(service: Service, model: Model, now: float) -> dict[str, object] | None:
    live = service.pool.live(model.id)
    run = service.pool.fleet.run_of(model.id)
    if live is None or run is None:
        return None
    idle_left = None if model.ttl is None or live.leases else max(0.0, live.used_at + model.ttl - now)
    return {
        "run": live.id,
        "pid": live.pid,
        "endpoint": str(live.endpoint) if live.endpoint else None,
        "memory_bytes": resident_bytes(live.pid) if live.pid else None,
        "requests": live.leases,
        "age_seconds": round(now - live.started_at, 3),
        "ready_after_seconds": round(live.ready_seconds, 3) if live.ready_seconds is not None else None,
        "load": live.load.as_json() if live.load else None,
        "unload_in_seconds": round(idle_left, 3) if idle_left is not None and run.is_open else None,
        "retiring": run.retiring.value if run.retiring else None,
        "tokens_per_second": live.child.tokens_per_second if live.child else None,
    }
