"""Wedged but healthy: a child that owes answers, sends no byte and does no work for too long is replaced.

Bytes alone do not tell: an answer that is not streamed comes at once, after minutes of work.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING

import anyio

from supervisor.runtime.vitals import signs_of

if TYPE_CHECKING:
    from supervisor.runtime.live import LiveRun

LOOKS = 8
"""How often to look within one `stall_timeout`."""
LONGEST_PAUSE = 5.0
WORKING = 0.02
"""The share of one processor above which a process is at work; a hung one uses none, generating takes most of one."""


async def watch_for_stalls(live: LiveRun) -> None:
    """Give the child up once it has owed an answer for `stall_timeout` without a byte; runs until cancelled."""
    alive_at, worked = time.monotonic(), math.inf
    while True:
        before = time.monotonic()
        limit = live.model.stall_timeout  # a reload may change it
        if limit is None:
            await anyio.sleep(LONGEST_PAUSE)
            alive_at = time.monotonic()
            continue
        await anyio.sleep(min(limit / LOOKS, LONGEST_PAUSE))
        now, work = time.monotonic(), await _work(live)
        if not live.awaited or work - worked > WORKING * (now - before):
            alive_at = now
        elif now - max(alive_at, live.heard_at) >= limit and live.child is not None:
            live.child.give_up("stalled", limit)
            return
        worked = work


async def _work(live: LiveRun) -> float:
    """Seconds of processor time the child has used."""
    if live.pid is None or live.child is None:
        return 0.0
    signs = await signs_of(live.pid, is_wrapper=not live.child.command.speaks_protocol)
    return sum(signs[:2]) / os.sysconf("SC_CLK_TCK")
