"""What would become of models under a config that does not hold yet: looked at, nothing started or noted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from supervisor.config.secrets import Redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Set

    from supervisor.config.values import Config
    from supervisor.fleet.values import Fleet
    from supervisor.llama.preflight import Inspector

logger = logging.getLogger("supervisor.config")

LONGEST = 10.0
"""Seconds that all looks may take; a network drive may not answer."""


class Foresight:
    """Looks at models before they are taken on."""

    def __init__(self, inspector: Inspector, fleet: Callable[[], Fleet]) -> None:
        self._inspector = inspector
        self._fleet = fleet

    def running(self) -> Set[str]:
        """Models with a process that serves, or is going to."""
        return {run.model.id for run in self._fleet().runs if not run.is_leaving}

    async def broken(self, config: Config, models: Iterable[str]) -> dict[str, str]:
        """Those of these models that certainly could not start, and why; as many as can be looked at in time."""
        redact, running, found = Redactor.of(config), self.running(), {}
        with anyio.move_on_after(LONGEST):
            for name in sorted(models, key=lambda model: model not in running):
                if problem := await self._problem(config, name):
                    found[name] = redact(problem)
        return found

    async def _problem(self, config: Config, name: str) -> str:
        try:
            inspection = await self._inspector.examine(config.models[name])
        except OSError:  # the system gives us no more of something: that says nothing of the model
            return ""
        except Exception:  # its first start will tell
            logger.exception("bug: the look at %s broke", name)
            return ""
        problem = inspection.problem
        if problem is None or not problem.permanent:
            return ""
        return f"{problem.message}; hint: {problem.hint}" if problem.hint else problem.message
