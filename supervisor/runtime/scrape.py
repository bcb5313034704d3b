"""The metrics that children give of themselves, asked of those that are ready; none is started or woken for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from supervisor.fleet.values import Phase
from supervisor.runtime.asking import Asker, NoAnswer
from supervisor.runtime.health import OK

if TYPE_CHECKING:
    from supervisor.llama.endpoint import Endpoint
    from supervisor.runtime.live import LiveRun
    from supervisor.runtime.pool import Pool

logger = logging.getLogger("supervisor.scrape")

PATIENCE_SECONDS = 2.0
"""A llama-server answers between two batches; Prometheus itself waits for us ten."""
MOST_BYTES = 1024 * 1024
HAS_NONE = frozenset({403, 404, 405, 501})
"""Statuses that say that there are no metrics here; llama-server without `--metrics` answers 501."""


class Scraper:
    """Asks children, each run that has no metrics only once."""

    def __init__(self, *, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._without: set[int] = set()

    async def scrape(self, pool: Pool) -> dict[str, str | None]:
        """What every ready model that has metrics says of itself; None where it did not say so in time."""
        ready = [run for run in pool.fleet.runs if run.phase is Phase.READY]
        self._without &= {run.id for run in ready}
        found: dict[str, str | None] = {}
        async with anyio.create_task_group() as tasks:
            for run in ready:
                live = pool.live_run(run.id)
                if live is not None and live.endpoint is not None and run.id not in self._without:
                    found[run.model.id] = None
                    tasks.start_soon(self._ask, live, live.endpoint, found)
        return found

    async def _ask(self, live: LiveRun, endpoint: Endpoint, found: dict[str, str | None]) -> None:
        model = live.model.id
        try:
            with anyio.fail_after(self._patience):
                found[model] = await self._text(live, endpoint)
        except (NoAnswer, TimeoutError) as exc:
            logger.debug("no metrics of %s: %s", model, exc)
        if live.id in self._without:
            del found[model]

    async def _text(self, live: LiveRun, endpoint: Endpoint) -> str | None:
        """What it says; None if it says nothing, or too much."""
        async with Asker(endpoint, live.api_key).get("/metrics") as answer:
            if answer.status in HAS_NONE or b"text" not in answer.headers.get(b"content-type", b""):
                self._without.add(live.id)
                return None
            if answer.status != OK:
                raise NoAnswer(f"it answered {answer.status}")
            body = await answer.body(MOST_BYTES)
        return None if body is None else body.decode(errors="replace")
