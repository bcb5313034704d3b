"""Wedged but healthy: a child that owes answers and has not sent a byte for too long is replaced."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from supervisor.runtime.live import LiveRun

LOOKS = 8
"""How often to look within one `stall_timeout`."""
LONGEST_PAUSE = 5.0


async def watch_for_stalls(live: LiveRun) -> None:
    """Give the child up once it has owed an answer for `stall_timeout` without a byte; runs until cancelled."""
    limit = live.model.stall_timeout
    if limit is None:
        return
    owing_since = time.monotonic()
    while True:
        await anyio.sleep(min(limit / LOOKS, LONGEST_PAUSE))
        now = time.monotonic()
        if not live.awaited:
            owing_since = now
        elif now - max(owing_since, live.heard_at) >= limit and live.child is not None:
            live.child.give_up("stalled", limit)
            return
