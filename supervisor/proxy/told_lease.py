"""Waiting for a model on behalf of a stream that is told how its load goes, where the model's config wants that."""

from __future__ import annotations

import asyncio
import secrets
from time import monotonic, time
from typing import TYPE_CHECKING

from supervisor.proxy.loading.narrator import Narrator, Situation
from supervisor.proxy.loading_state import Telling, loading_state
from supervisor.proxy.patience import give_up

if TYPE_CHECKING:
    from supervisor.proxy.answer import Answer
    from supervisor.runtime.live import Lease
    from supervisor.runtime.pool import Pool

SOON = 0.25
"""Seconds before the first words: a load that ends sooner needs none, and if it fails it has a true status."""
PAUSE = 0.25
"""Seconds between looks at how it goes."""


async def told_lease(pool: Pool, model: str, answer: Answer, telling: Telling) -> Lease:
    """As `pool.lease`; a wait for a model that is not ready is told in the stream from `SOON` on."""
    if pool.is_open(model):
        return await pool.lease(model)
    began, narrator = monotonic(), Narrator(model)
    pause = min(pool.config.server.comment_after, SOON)
    waiting = asyncio.ensure_future(pool.lease(model))
    try:
        while not (await asyncio.wait({waiting}, timeout=pause))[0]:
            if answer.told is None:
                answer.told = loading_state(telling, model, token=secrets.token_hex(12), created=int(time()))
                answer.tell(answer.told.begin())
            if text := narrator.news(situation(pool, model), monotonic() - began):
                answer.tell(answer.told.tell(text))
            pause = PAUSE
        lease = waiting.result()
    except asyncio.CancelledError:
        await give_up(waiting)
        raise
    if answer.told is not None:
        answer.tell(answer.told.tell(narrator.ready(monotonic() - began)) + answer.told.end())
    return lease


def situation(pool: Pool, model: str) -> Situation:
    """How it stands with a model right now."""
    run, live = pool.fleet.run_of(model), pool.live(model)
    if run is None or run.is_leaving or live is None:
        wanted = [*pool.fleet.queue.wanted]
        return Situation(ahead=wanted.index(model) if model in wanted else 0)
    progress = live.child.progress if live.child is not None else None
    return Situation(fraction=None if progress is None else progress.fraction)
