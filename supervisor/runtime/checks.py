"""Looking at models without starting them: at all of them once, again at those that are others or whose files are."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import anyio

from supervisor.config.changes import needs_another_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.config.values import Model
    from supervisor.errors import Failure
    from supervisor.llama.preflight import Fingerprint
    from supervisor.runtime.launcher import Launcher

logger = logging.getLogger("supervisor.checks")

PAUSE = 10.0
"""Seconds between looks at the files' sizes and times."""


class Checks:
    """Tells what is wrong with each model, then what a change of its files or its config has mended or broken."""

    def __init__(
        self, launcher: Launcher, *, tell: Callable[[Model, Failure | None], None], pause: float = PAUSE
    ) -> None:
        self.done = asyncio.Event()
        """Set once every model has been looked at."""
        self._launcher = launcher
        self._tell = tell
        self._pause = pause
        self._models: tuple[Model, ...] = ()
        self._known: dict[str, tuple[Model, Fingerprint]] = {}
        """The models as they were when they were looked at, and their files."""
        self._news = asyncio.Event()

    def look_at(self, models: Iterable[Model]) -> None:
        """These are the models from now on."""
        self._models = tuple(models)
        self._news.set()

    async def run(self) -> None:
        """Look, and look again; runs until cancelled."""
        while True:
            self._news.clear()
            await self._look()
            self.done.set()
            with anyio.move_on_after(self._pause):
                await self._news.wait()

    async def _look(self) -> None:
        models = self._models
        seen = await self._launcher.fingerprints(models)
        known, self._known = self._known, {}
        for model in models:
            before = known.get(model.id)
            self._known[model.id] = (model, seen[model.id])
            if before is not None and before[1] != seen[model.id]:
                logger.info("the files of %s have changed", model.id)
            if before is None or before[1] != seen[model.id] or needs_another_run(before[0], model):
                await _check(model, self._launcher, self._tell)


async def _check(model: Model, launcher: Launcher, tell: Callable[[Model, Failure | None], None]) -> None:
    try:
        failure = await launcher.check(model)
    except Exception:  # a bug met in one model must not fell the house; its first start will tell
        logger.exception("the look at %s broke", model.id)
    else:
        tell(model, failure)
