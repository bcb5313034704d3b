"""Wedged but healthy: a child that owes answers, sends no byte and does no work for too long is replaced.

Bytes alone do not tell: an answer that is not streamed comes at once, after minutes of work.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

import anyio

from supervisor.runtime.vitals import signs_of_family, signs_of_life

if TYPE_CHECKING:
    from supervisor.runtime.live import LiveRun

LOOKS = 8
"""How often to look within one `stall_timeout`."""
LONGEST_PAUSE = 5.0
WORKING = 0.02
"""The share of one processor above which a process is at work; a hung one uses none, generating takes most of one."""


async def watch_for_stalls(live: LiveRun) -> None:
    """Give the child up once it has owed an answer for `stall_timeout` without a byte; runs until cancelled."""
    alive_at, worked = time.monotonic(), _work(live)
    while True:
        before = time.monotonic()
        limit = math.inf if live.model.stall_timeout is None else live.model.stall_timeout  # a reload may change it
        await anyio.sleep(min(limit / LOOKS, LONGEST_PAUSE))
        now, work = time.monotonic(), _work(live)
        if not live.awaited or work - worked > WORKING * (now - before):
            alive_at = now
        elif now - max(alive_at, live.heard_at) >= limit and live.child is not None:
            live.child.give_up("stalled", limit)
            return
        worked = work


def _work(live: LiveRun) -> float:
    """Seconds of processor time the child has used."""
    if live.pid is None or live.child is None:
        return 0.0
    signs = signs_of_life(live.pid) if live.child.command.speaks_protocol else signs_of_family(live.pid)
    return sum(signs[:2]) / os.sysconf("SC_CLK_TCK")
