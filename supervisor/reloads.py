"""What another config means for the process itself: how much it logs, how long it drains, what it loads unasked."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from supervisor.errors import SupervisorError
from supervisor.fleet.values import Reason
from supervisor.runtime.budgets import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import uvicorn
    from anyio.abc import TaskGroup

    from supervisor.api.service import Service
    from supervisor.config.values import Config
    from supervisor.runtime.configuration import Outcome

logger = logging.getLogger("supervisor.server")


class Reloads:
    """Follows the config for as long as the service runs; what it starts, it starts in `tasks`."""

    def __init__(self, service: Service, http: uvicorn.Config, tasks: TaskGroup) -> None:
        self._service = service
        self._http = http
        self._tasks = tasks
        self._preloaded = service.config.server.preload
        service.configuration.followers.append(self._adopt)
        service.configuration.on_end.append(self._ended)

    def _adopt(self, config: Config) -> None:
        logging.getLogger("supervisor").setLevel(config.server.log_level.upper())
        self._http.timeout_graceful_shutdown = longest_drain(config)

    def _ended(self, outcome: Outcome) -> None:
        """Load what is to be preloaded now and was not before, and what this reload itself has taken down.

        What has been unloaded for another reason stays so: to load it would push out what is in use.
        """
        if isinstance(outcome, SupervisorError):
            return
        before, self._preloaded = self._preloaded, self._service.config.server.preload
        wanted = [model for model in self._preloaded if model not in before or self._is_taken_down(model)]
        if wanted:
            self._tasks.start_soon(preload, self._service, wanted)

    def _is_taken_down(self, model: str) -> bool:
        run = self._service.pool.fleet.run_of(model)
        return run is not None and run.retiring is Reason.RELOADED


def longest_drain(config: Config) -> int:
    """Seconds that uvicorn waits for requests in flight; we cut them before that, and say so."""
    return math.ceil(config.server.drain_timeout + CONNECTIONS)


async def preload(service: Service, models: Iterable[str]) -> None:
    """Load models that are to be there before anybody asks, one after the other."""
    for model in models:
        try:
            await service.pool.load(model)
        except SupervisorError as exc:
            if service.pool.fleet.closing:
                return
            logger.warning("%s could not be preloaded: %s", model, exc)
