"""Looking at models without starting them: at all of them once, and again at those whose files have changed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.config.values import Model
    from supervisor.errors import Failure
    from supervisor.runtime.launcher import Launcher

logger = logging.getLogger("supervisor.checks")

PAUSE = 10.0
"""Seconds between looks at the files' sizes and times."""


async def keep_checking(
    models: Sequence[Model],
    launcher: Launcher,
    *,
    tell: Callable[[Model, Failure | None], None],
    done: Callable[[], None],
    pause: float = PAUSE,
) -> None:
    """Tell what is wrong with each model, then what a change of its files has mended or broken; runs until cancelled.

    `done` is called once every model has been looked at.
    """
    known = await launcher.fingerprints(models)
    for model in models:
        await _check(model, launcher, tell)
    done()
    while True:
        await anyio.sleep(pause)
        seen = await launcher.fingerprints(models)
        for model in models:
            if seen[model.id] != known[model.id]:
                logger.info("the files of %s have changed", model.id)
                await _check(model, launcher, tell)
        known = seen


async def _check(model: Model, launcher: Launcher, tell: Callable[[Model, Failure | None], None]) -> None:
    try:
        failure = await launcher.check(model)
    except Exception:  # a bug met in one model must not fell the house; its first start will tell
        logger.exception("the look at %s broke", model.id)
    else:
        tell(model, failure)
