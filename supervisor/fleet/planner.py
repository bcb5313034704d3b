"""Who may run now. One event in, one fleet and some actions out; no clock, no I/O, no await.

Record what happened, put those who wait in their order, then apply the rules one after the other until they have
nothing more to do. Grant stands before make_room, so a swap first serves everybody who waits for the loaded model;
victims are marked at once, so later requests for a victim queue behind the swap.
"""

from __future__ import annotations

from itertools import cycle, islice
from math import inf
from typing import TYPE_CHECKING

from supervisor.fleet import reasons
from supervisor.fleet.grants import grant
from supervisor.fleet.recorded import record
from supervisor.fleet.refusals import refuse
from supervisor.fleet.rules import go_home, home_at, idle_until, in_turn, look, look_at, make_room, retire, spawn, stop
from supervisor.fleet.staying import turning_points
from supervisor.fleet.values import Fleet, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.fleet.actions import Action
    from supervisor.fleet.events import Event


RULES: tuple[Callable[[Fleet, float], tuple[Fleet, tuple[Action, ...]]], ...] = (
    refuse,
    grant,
    retire,
    make_room,
    stop,
    look,
    spawn,
    go_home,
)


MOST_PASSES = 100
"""Through all rules, after which a step ends even if they take back for ever what others do: better one odd decision
than a service that hangs. Two or three are usual."""


def decide(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """The fleet after this event, and what has to be done about it, in order."""
    first = fleet
    fleet, actions = record(fleet, event, now)
    fleet = in_turn(fleet, now)
    idle = 0
    for rule in islice(cycle(RULES), MOST_PASSES * len(RULES)):  # what one did may be what an earlier one waits for
        before = fleet
        fleet, more = rule(before, now)
        actions += more
        idle = idle + 1 if fleet == before else 0
        if idle == len(RULES):
            break
    return fleet, (*actions, *reasons.told(first, event, fleet, actions, now))


def next_deadline(fleet: Fleet, now: float) -> float | None:
    """When the planner wants to hear a `Tick`, if nothing else happens before.

    A busy run's idle time starts when it is released, at the earliest now; looking again then costs less than
    telling the planner of every lease.
    """
    idle = [
        idle_until(fleet, run) + (now - run.used_at if run.leases else 0.0)
        for run in fleet.runs
        if run.is_open and run.model.ttl is not None
    ]
    cuts = [run.cut_at for run in fleet.runs if run.cut_at is not None and run.phase is not Phase.STOPPING]
    times = (*idle, *cuts, *turning_points(fleet, now), look_at(fleet, now), home_at(fleet))
    return min((at for at in times if at is not None and at < inf), default=None)
