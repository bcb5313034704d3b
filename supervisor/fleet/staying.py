"""How long a busy model goes on taking requests though another one waits for its place.

A swap costs a load, and another one when its victim is asked for again. To swap at once makes everybody wait for loads
all the time where two models are asked for by many; never to swap lets one of them wait for ever. So both costs are
held to be equal: the swap begins once waiting has cost as much as it would. Who comes first cannot be known, and by
this rule what is spent is never far from what who knew it would have spent.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from supervisor.fleet.constraints import LOOKAHEAD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from supervisor.fleet.queue import Crowd
    from supervisor.fleet.values import Fleet, Run

SWAPS = 4.0
"""How many swaps' time those who wait spend together before one begins; a load delays others than who asked for it."""


def stays_until(fleet: Fleet, run: Run, model: str) -> float:
    """Until when it may go on taking requests, though this model waits; an idle one leaves at once.

    1. `min_residency` after its load, where that is asked for;
    2. else until those who wait have together waited as long as the swap and the way back take, `SWAPS` times;
    3. in any case no longer than `max_wait` after the first of them has come.
    """
    crowd = fleet.queue.wanted.get(model)
    if not run.leases or run.ready_at is None or crowd is None:
        return -inf
    server = fleet.config.server
    if server.min_residency is not None:
        until = run.ready_at + server.min_residency
    else:
        until = _breaks_even_at(crowd, _load(fleet, model) + _load(fleet, run.model.id))
    return min(until, crowd.first.since + server.max_wait)


def turning_points(fleet: Fleet, now: float) -> Iterator[float]:
    """When somebody will have waited for too long, and when one who is busy may be told to make room for him."""
    if not fleet.queue:
        return
    here = {run.model.id for run in fleet.runs if not run.is_leaving}
    cold = {model: crowd.tickets[0] for model, crowd in fleet.queue.wanted.items() if model not in here}
    if not cold:
        return
    max_wait = fleet.config.server.max_wait
    yield min((at for ticket in cold.values() if (at := ticket.since + max_wait) > now), default=inf)
    busy = Busy(fleet, (run for run in fleet.runs if run.is_open))
    for model in islice(cold, LOOKAHEAD):
        yield from (stays_until(fleet, run, model) for run in busy.going_on(model, now)[:1])


class Busy:
    """Those of some runs that serve requests; whoever comes, they may be told to leave in the same order."""

    def __init__(self, fleet: Fleet, runs: Iterable[Run]) -> None:
        self._fleet = fleet
        self._runs = sorted((run for run in runs if run.leases and run.ready_at is not None), key=self._turn)

    def going_on(self, model: str, now: float) -> Sequence[Run]:
        """Who may go on though this model waits, first who may do so for the shortest time."""
        runs = self._runs
        if not runs or now >= stays_until(self._fleet, runs[-1], model):
            return ()
        return runs[bisect_right(runs, now, key=lambda run: stays_until(self._fleet, run, model)) :]

    def _turn(self, run: Run) -> float:
        if self._fleet.config.server.min_residency is None:
            return _load(self._fleet, run.model.id)
        return 0.0 if run.ready_at is None else run.ready_at


def _breaks_even_at(crowd: Crowd, loads: float) -> float:
    return (SWAPS * loads + crowd.arrivals) / crowd.count


def _load(fleet: Fleet, model: str) -> float:
    """What its last load took; what is not known costs nothing, so that nobody waits for it."""
    habit = fleet.habits.get(model)
    return habit.load_seconds if habit is not None and habit.load_seconds is not None else 0.0
