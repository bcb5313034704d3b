"""How long a model stays though another one waits for its place.

A swap costs a load, and another one when its victim is asked for again. To swap at once makes everybody wait for loads
all the time where two models are asked for by many; never to swap lets one of them wait for ever. So both costs are
held to be equal: the swap begins once waiting has cost as much as it would. Who comes first cannot be known, and by
this rule what is spent is never far from what who knew it would have spent.

An idle model leaves at once, unless a busy one would be less of a loss: that may be idle in a moment, and is worth
waiting for as long as that costs no more than the swap.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from supervisor.fleet.constraints import LOOKAHEAD, stays

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from supervisor.fleet.values import Fleet, Run

SWAPS = 4.0
"""How many swaps' time those who wait spend together before a busy one leaves, for each model that is waited for: a
load delays others than who asked for it. For an idle one once is enough: it waits only for another one to end."""

LINGERING = 1 / 3
"""The share of `max_wait` for which somebody may wait though an idle one could leave for him."""


def turning_points(fleet: Fleet, now: float) -> Iterator[float]:
    """When somebody will have waited for too long, and when one who stays may be told to make room for him."""
    if not fleet.queue:
        return
    here = {run.model.id for run in fleet.runs if not run.is_leaving}
    cold = {model: crowd.tickets[0] for model, crowd in fleet.queue.wanted.items() if model not in here}
    if not cold:
        return
    max_wait = fleet.config.server.max_wait
    yield min((at for ticket in cold.values() if (at := ticket.since + max_wait) > now), default=inf)
    turns = Turns(fleet, (run for run in fleet.runs if run.is_open))
    for model in islice(cold, LOOKAHEAD):
        for some in (turns.going_on(model, now), turns.lingering(model, now)):
            yield from (turns.until(run, model) for run in some[:1])


class Turns:
    """Until when those of some runs may stay; whoever comes, they may be told to leave in the same order."""

    def __init__(self, fleet: Fleet, runs: Iterable[Run] = ()) -> None:
        self._fleet = fleet
        self._waited_for = _waited_for(fleet)
        ready = sorted((run for run in runs if run.ready_at is not None), key=self._turn)
        self._busy = [run for run in ready if run.leases]
        self._idle = [run for run in ready if not run.leases]

    def going_on(self, model: str, now: float) -> Sequence[Run]:
        """The busy ones that may go on though this model waits, first who may do so for the shortest time."""
        return self._staying(self._busy, model, now)

    def lingering(self, model: str, now: float) -> Sequence[Run]:
        """The idle ones that need not leave yet, if one who goes on would be less of a loss."""
        return self._staying(self._idle, model, now)

    def until(self, run: Run, model: str) -> float:
        """Until when it may stay, though this model waits.

        1. Where `min_residency` is asked for, a busy one so long after its load, and an idle one not at all;
        2. else until those who wait have together waited, for each model that is waited for, as long as the swap and
           the way back take: `SWAPS` times if it is busy, once if it is idle;
        3. in any case no longer than `max_wait` after the first of them has come, and `LINGERING` of it if it is idle.
        """
        crowd = self._fleet.queue.wanted.get(model)
        server = self._fleet.config.server
        if run.ready_at is None or crowd is None:
            return -inf
        if server.min_residency is None:
            loads = _load(self._fleet, model) + _load(self._fleet, run.model.id)
            times = SWAPS if run.leases else 1.0
            until = (times * self._waited_for * loads + crowd.arrivals) / crowd.count
        else:
            until = run.ready_at + server.min_residency if run.leases else -inf
        longest = server.max_wait if run.leases else server.max_wait * LINGERING
        return min(until, crowd.first.since + longest)

    def _staying(self, runs: Sequence[Run], model: str, now: float) -> Sequence[Run]:
        if not runs or now >= self.until(runs[-1], model):
            return ()
        return runs[bisect_right(runs, now, key=lambda run: self.until(run, model)) :]

    def _turn(self, run: Run) -> float:
        if self._fleet.config.server.min_residency is None:
            return _load(self._fleet, run.model.id)
        return 0.0 if run.ready_at is None else run.ready_at


def _waited_for(fleet: Fleet) -> int:
    """How many models are waited for that have no process; to be told to leave for another one makes no difference."""
    wanted = fleet.queue.wanted
    return max(1, len(wanted) - len({run.model.id for run in fleet.runs if stays(run) and run.model.id in wanted}))


def _load(fleet: Fleet, model: str) -> float:
    """What its last load took; what is not known costs nothing, so that nobody waits for it."""
    habit = fleet.habits.get(model)
    return habit.load_seconds if habit is not None and habit.load_seconds is not None else 0.0
