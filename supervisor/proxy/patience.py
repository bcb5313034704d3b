"""Waiting for a model on behalf of a stream: after a while the client is told, in comments, how it goes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.proxy.answer import Answer
    from supervisor.runtime.live import Lease
    from supervisor.runtime.pool import Pool

LONGEST_SILENCE = 5.0
"""Seconds between comments; reverse proxies and clients give up on silence, the strictest after 30 s or so."""


async def patient_lease(pool: Pool, model: str, answer: Answer) -> Lease:
    """As `pool.lease`; a wait longer than `comment_after` begins the stream. Until then errors have true statuses."""
    if pool.is_open(model):
        return await pool.lease(model)
    pause = pool.config.server.comment_after
    waiting = asyncio.ensure_future(pool.lease(model))
    try:
        while not (await asyncio.wait({waiting}, timeout=pause))[0]:
            answer.comment(news(pool, model))
            pause = min(pause, LONGEST_SILENCE) or LONGEST_SILENCE
        return waiting.result()
    except asyncio.CancelledError:
        await give_up(waiting)
        raise


def news(pool: Pool, model: str) -> str:
    """How far the load of a model is, or who is before it."""
    live = pool.live(model)
    if live is not None and live.child is not None and live.child.progress is not None:
        return f"loading {model} {live.child.progress.fraction:.0%}"
    if live is not None:
        return f"loading {model}"
    ahead = pool.fleet.queue.places.get(model, 0)
    others = "next in line" if not ahead else f"{ahead} other model{'s' if ahead > 1 else ''} before it"
    return f"waiting for {model}, {others}, {pool.expected_wait(model):.0f} s of loading at least"


async def give_up(waiting: asyncio.Task[Lease]) -> None:
    """End the wait, and give back a lease that came in the same moment."""
    waiting.cancel()
    (result,) = await asyncio.gather(waiting, return_exceptions=True)
    if not isinstance(result, BaseException):
        result.give_back()
