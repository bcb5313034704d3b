"""Who is let through to a run, and for whom all others wait."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from supervisor.fleet.actions import Action, Grant
from supervisor.fleet.constraints import evicted_by
from supervisor.fleet.placing import Ways, best
from supervisor.fleet.queue import CLOSEST
from supervisor.fleet.room import Room, expected_limits, limits, takes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.fleet.queue import Ticket, Turn
    from supervisor.fleet.values import Fleet, Run


def grant(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Let tickets through to open runs, oldest first.

    Once a ticket has waited for its model to start longer than `max_wait`, nobody behind it is let through to a run
    that is in the way; but who has waited for a load goes with it, or each of them would need a load of his own.
    """
    open_runs = {run.model.id: run for run in fleet.runs if run.is_open and run.model.id in fleet.queue.wanted}
    if all(run.is_full for run in open_runs.values()):
        return fleet, ()
    closed = _Line(fleet, open_runs.values(), now).closed()
    granted: list[Ticket] = []
    for model, run in open_runs.items():
        most = None if run.model.concurrency is None else max(0, run.model.concurrency - run.leases)
        turn = None if run.ready_at == now else closed.get(model)
        let_in = fleet.queue.wanted[model].before(turn, most)
        granted += let_in
        if let_in:
            fleet = fleet.with_run(replace(run, leases=run.leases + len(let_in), used_at=now))
    if not granted:
        return fleet, ()
    granted.sort(key=attrgetter("turn"))
    actions = tuple(Grant(ticket.id, open_runs[ticket.model].id) for ticket in granted)
    return replace(fleet, queue=fleet.queue.without(granted)), actions


class _Line:
    """Who waits for a start, in order, and what is closed to those behind who has waited for too long."""

    def __init__(self, fleet: Fleet, open_runs: Iterable[Run], now: float) -> None:
        self._fleet = fleet
        self._now = now
        self._house = on_hand(fleet)
        self._unpinned = [run for run in open_runs if not run.model.pinned]

    def closed(self) -> Mapping[str, Turn]:
        """The models whose runs are in the way, and whose turn nobody may be let through after any more."""
        max_wait = self._fleet.config.server.max_wait
        closest = ((model, crowd.first) for model, crowd in islice(self._fleet.queue.wanted.items(), CLOSEST))
        cold = [(model, first) for model, first in closest if model not in self._house]
        overdue = [place for place, (_, first) in enumerate(cold, 1) if self._now >= first.since + max_wait]
        closed: dict[str, Turn] = {}
        for model, first in cold[: overdue[-1]] if overdue else ():
            in_the_way = self._in_the_way(model)
            if self._now >= first.since + max_wait:
                closed = dict.fromkeys(in_the_way, first.turn) | closed
                if all(run.model.id in closed for run in self._unpinned):
                    break
        return closed

    @cached_property
    def _room(self) -> Room:
        return Room(limits(self._fleet, self._now), (run.footprint for run in self._fleet.runs))

    @cached_property
    def _ways(self) -> Ways:
        return Ways(self._fleet, expected_limits(self._fleet, self._now))

    def _in_the_way(self, model: str) -> set[str]:
        """The open runs that could make the room it lacks, and those that it cannot live beside."""
        fleet = self._fleet
        options = self._ways.of(model)
        placed = best(fleet, self._room, options)
        lacking = set() if placed else {name for each in options for name in self._room.lacks(each.footprint)}
        self._room.take((placed or options[0]).footprint)
        out = evicted_by(fleet.config.routing, model, frozenset(self._house))
        return {*out, *(run.model.id for run in self._unpinned if lacking & takes(run.footprint))}


def on_hand(fleet: Fleet) -> set[str]:
    """Models with a run that is there to stay."""
    return {run.model.id for run in fleet.runs if not run.is_leaving}
