"""Zombies that become ours because their parent has died: a container's first process has to reap them.

Our own children are reaped by who awaits them, within milliseconds of their end; to reap one here would rob it of its
exit code. So only what has been a zombie for a whole pause is taken for nobody's.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys

import anyio
import anyio.to_thread

from supervisor.runtime.marks import zombies_below

logger = logging.getLogger("supervisor.reaper")

PAUSE = 1.0
TURN = 0.05
"""Seconds that let those who await their child go first, if we have been held up for long."""
PR_GET_CHILD_SUBREAPER = 37


def adopts_orphans() -> bool:
    """Whether processes that lose their parent become our children."""
    return os.getpid() == 1 or _is_subreaper()


def _is_subreaper() -> bool:
    if sys.platform != "linux":
        return False
    answer = ctypes.c_int(0)
    failed = ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return not failed and bool(answer.value)


async def keep_reaping(*, pause: float = PAUSE) -> None:
    """Reap what nobody awaits, until cancelled."""
    seen: set[tuple[int, int]] = set()
    while True:
        await anyio.sleep(pause)
        await anyio.sleep(TURN)
        found = await anyio.to_thread.run_sync(zombies_below, os.getpid())
        for pid, _ in seen & found:
            _reap(pid)
        seen = found


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # it has been reaped meanwhile
        return
    logger.debug("reaped pid %s, which nobody awaited", pid)
