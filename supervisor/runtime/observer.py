"""Asking the machine what memory is free, in a thread, for drivers may take their time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from supervisor.fleet.events import Observed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.fleet.values import RunId
    from supervisor.runtime.readings import Readings

logger = logging.getLogger("supervisor.observer")

PATIENCE = 2.0
"""Seconds; a driver that answers later is not waited for, and the ledger decides alone."""


async def observe(readings: Readings, pids: Mapping[RunId, int], tell: Callable[[Observed], None]) -> None:
    """Tell what is free now, and what these processes hold of GPUs as far as their drivers say."""
    observed = Observed(None)
    try:
        with anyio.move_on_after(PATIENCE) as patience:
            observed = await anyio.to_thread.run_sync(_observed, readings, pids, abandon_on_cancel=True)
        if patience.cancelled_caught:
            logger.warning("the machine did not say within %g s what memory is free", PATIENCE)
    except Exception:  # of a driver; who waits for this must not wait for ever
        logger.exception("the look at the machine's memory broke")
    tell(observed)


def _observed(readings: Readings, pids: Mapping[RunId, int]) -> Observed:
    held = {run: dict(readings.used_by([pid])) for run, pid in pids.items()}
    return Observed(readings.read(), {run: amounts for run, amounts in held.items() if amounts})
