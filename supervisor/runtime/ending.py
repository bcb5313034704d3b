"""Ending processes that are no children of ours, or not any more: known by their mark, and awaited by nobody."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from dataclasses import dataclass

import anyio
import anyio.to_thread

from supervisor.runtime.marks import Carrier, carriers, still_is

logger = logging.getLogger("supervisor.child")

GRACE = 2.0
"""Seconds what a child has left behind gets to end by itself."""
KILL_PATIENCE = 5.0
"""Seconds after SIGKILL until we stop waiting: what is stuck in the kernel dies when that lets go of it."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.005, 0.1


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of the processes with a mark."""

    told: frozenset[Carrier] = frozenset()
    """All that were found."""
    killed: frozenset[Carrier] = frozenset()
    """Those of them that did not end by SIGTERM in time."""
    left: frozenset[Carrier] = frozenset()
    """Those that have not even died of SIGKILL yet, or may not be signalled."""


async def end_carriers(mark: str, *, grace: float = GRACE) -> Ended:
    """End every process with this mark, what they start meanwhile included; SIGKILL after `grace` seconds."""
    told: set[Carrier] = set()
    killed: set[Carrier] = set()
    begun, pause = anyio.current_time(), SHORTEST_PAUSE
    while found := await anyio.to_thread.run_sync(_all_carriers, mark):
        waited = anyio.current_time() - begun
        if waited >= grace + KILL_PATIENCE:
            return Ended(frozenset(told), frozenset(killed), frozenset(found))
        if waited >= grace:
            killed |= _signal(found, signal.SIGKILL)
        else:
            _signal([each for each in found if each not in told], signal.SIGTERM, signal.SIGCONT)
        told.update(found)
        await anyio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    return Ended(frozenset(told), frozenset(killed))


def _all_carriers(mark: str) -> list[Carrier]:
    """Nobody only if nobody is seen twice: what forks and exits while we look is in neither place at its time."""
    return carriers(mark) or carriers(mark)


async def end_left_behind(mark: str, leader: int, *, grace: float = GRACE) -> None:
    """End what a child that has ended, once `leader`, has started in groups of their own."""
    ended = await end_carriers(mark, grace=grace)
    for each in sorted(ended.told):
        logger.info("ended pid %s, which pid %s had left behind", each.pid, leader)
    for each in sorted(ended.left):
        logger.warning("pid %s, which pid %s had left behind, does not die", each.pid, leader)


def _signal(found: list[Carrier], *signals: signal.Signals) -> set[Carrier]:
    """Signal these very processes, and what is in a group that one of them leads; those that could be."""
    return {carrier for carrier in found if all(_send(carrier, signum) for signum in signals)}


def _send(carrier: Carrier, signum: signal.Signals) -> bool:
    with contextlib.suppress(OSError):  # it has ended meanwhile, or is not ours to signal
        pidfd = os.pidfd_open(carrier.pid)
        try:
            if still_is(carrier):
                # The process is held by the pidfd, and so is the group that has its number.
                os.killpg(carrier.pid, signum) if carrier.leads_group else signal.pidfd_send_signal(pidfd, signum)
                return True
        finally:
            os.close(pidfd)
    return False
