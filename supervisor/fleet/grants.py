"""Who is let through to a run, and for whom all others wait."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from supervisor.fleet.actions import Action, Grant
from supervisor.fleet.constraints import evicted_by
from supervisor.fleet.queue import CLOSEST, Ticket, TicketId
from supervisor.fleet.room import Room, best, expected_limits, limits, placements, takes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.fleet.values import Fleet, Run


def grant(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Let tickets through to open runs, oldest first.

    Once a ticket has waited for its model to start longer than `max_wait`, nobody behind it is let through to a run
    that is in the way; but who has waited for a load goes with it, or each of them would need a load of his own.
    """
    open_runs = {run.model.id: run for run in fleet.runs if run.is_open and run.model.id in fleet.queue.wanted}
    if all(run.is_full for run in open_runs.values()):
        return fleet, ()
    line = _Line(fleet, open_runs.values(), now)
    granted: list[TicketId] = []
    actions: list[Action] = []
    for ticket in fleet.queue:
        run = open_runs.get(ticket.model)
        if run is None or run.is_full or (ticket.model in line.closed and run.ready_at != now):
            line.stand(ticket)
        else:
            open_runs[ticket.model] = replace(run, leases=run.leases + 1, used_at=now)
            granted.append(ticket.id)
            actions.append(Grant(ticket.id, run.id))
    if not granted:
        return fleet, ()
    for run in open_runs.values():
        fleet = fleet.with_run(run)
    return replace(fleet, queue=fleet.queue.without(granted)), tuple(actions)


class _Line:
    """Who waits for a start, in order, and what is closed to those behind who has waited for too long."""

    def __init__(self, fleet: Fleet, open_runs: Iterable[Run], now: float) -> None:
        self.closed: set[str] = set()
        self._fleet = fleet
        self._now = now
        self._house = on_hand(fleet)
        self._cold = {name for name in islice(fleet.queue.wanted, CLOSEST) if name not in self._house}
        self._unpinned = [run for run in open_runs if not run.model.pinned]
        self._room: Room | None = None

    def stand(self, ticket: Ticket) -> None:
        """One more is in front of those who come now."""
        if ticket.model not in self._cold:
            return
        self._cold.remove(ticket.model)
        in_the_way = self._in_the_way(ticket.model)
        if self._now >= ticket.since + self._fleet.config.server.max_wait:
            self.closed |= in_the_way
            if all(run.model.id in self.closed for run in self._unpinned):
                self._cold.clear()

    def _in_the_way(self, model: str) -> set[str]:
        """The open runs that could make the room it lacks, and those that it cannot live beside."""
        fleet = self._fleet
        if self._room is None:
            self._room = Room(limits(fleet, self._now), (run.footprint for run in fleet.runs))
        options = placements(fleet, fleet.config.models[model], expected_limits(fleet, self._now))
        placed = best(fleet, self._room, options)
        lacking = set() if placed else {name for each in options for name in self._room.lacks(each.footprint)}
        self._room.take((placed or options[0]).footprint)
        out = evicted_by(fleet.config.routing, model, frozenset(self._house))
        return {*out, *(run.model.id for run in self._unpinned if lacking & takes(run.footprint))}


def on_hand(fleet: Fleet) -> set[str]:
    """Models with a run that is there to stay."""
    return {run.model.id for run in fleet.runs if not run.is_leaving}
