"""The planner's rules, each `(fleet, now) -> (fleet, actions)`, in the order in which they are applied."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from math import ceil, inf
from typing import TYPE_CHECKING

from supervisor.errors import CannotFit, QueueFull, ShuttingDown, SupervisorError
from supervisor.fleet import reasons
from supervisor.fleet.books import LOOK_EVERY, STALE_SECONDS
from supervisor.fleet.breaker import refusal
from supervisor.fleet.constraints import evicted_by, may_start, outlook
from supervisor.fleet.queue import Queue, Ticket, TicketId
from supervisor.fleet.room import Room, best, expected_limits, limits, placements, takes
from supervisor.fleet.values import (
    PLACES,
    Action,
    Fleet,
    Grant,
    Load,
    Look,
    Phase,
    Reason,
    Refuse,
    Run,
    RunId,
    Spawn,
    Terminate,
)
from supervisor.fleet.victims import choose
from supervisor.fleet.waiting import expected_wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Set

    from supervisor.config.values import Model

CLOSEST = 64
"""How many models of those that are waited for are looked at for who has waited for too long."""
QUIET_SECONDS = 60.0
"""After the last request, before what is to be there when nothing is asked for is loaded."""
TAKEN_RETRY_AFTER = 10.0
"""Seconds; nobody knows what the other processes are about to do."""
SHORTEST_RETRY = 1.0


def in_turn(fleet: Fleet, now: float) -> Fleet:
    """Higher priorities first, in order of arrival among equals; who waits for longer than `max_wait` before all."""
    queue = fleet.queue
    if not queue or queue[0].rank == queue[-1].rank:
        return fleet
    return replace(fleet, queue=queue.with_first(now - fleet.config.server.max_wait))


def refusal_of_one_more(fleet: Fleet, ticket: Ticket, now: float) -> QueueFull | None:
    """Why the newest ticket is one too many; who need not wait is not, and those before it have their places."""
    waiting = len(fleet.queue)
    run = fleet.run_of(ticket.model)
    if waiting < fleet.config.server.max_queue or (run is not None and run.is_open and not run.is_full):
        return None
    if fleet.closing or _hopeless(replace(fleet, queue=Queue([ticket])), now):
        return None  # there is more to say
    return QueueFull(
        f"{waiting} requests are waiting already",
        hint="try again later, or raise `server.max_queue`",
        retry_after=ceil(max(expected_wait(fleet, ticket.model, now), SHORTEST_RETRY)),
    )


def refuse(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Answer at once who will not be served: closing, failing, never fits."""
    hopeless = _hopeless(fleet, now)
    if not fleet.queue or not (fleet.closing or hopeless):
        return fleet, ()
    refused: dict[TicketId, SupervisorError] = {
        ticket.id: ShuttingDown("shutting down") if fleet.closing else hopeless[ticket.model]
        for ticket in fleet.queue
        if fleet.closing or ticket.model in hopeless
    }
    actions = tuple(Refuse(ticket, error) for ticket, error in refused.items())
    return replace(fleet, queue=fleet.queue.without(refused)), actions


def _hopeless(fleet: Fleet, now: float) -> Mapping[str, SupervisorError]:
    """The wanted models that will not be started, and why."""
    runs = fleet.by_model()
    cold = [model for model in fleet.queue.wanted if model not in runs or runs[model].is_leaving]
    if not cold:
        return {}
    budget = limits(fleet, now, by_reading=False)
    pinned = [run for run in fleet.runs if run.model.pinned and not run.is_leaving]
    beside = Room(budget, (run.footprint for run in pinned))
    errors: dict[str, SupervisorError | None] = {
        model: refusal(fleet, model, now) for model in cold if model in fleet.breakers
    }
    for model in {*cold[:CLOSEST], cold[-1]}:  # the others were the last once
        errors[model] = errors.get(model) or _never_fits(fleet, model, beside, pinned, now)
    return {model: error for model, error in errors.items() if error is not None}


def _never_fits(fleet: Fleet, name: str, beside: Room, pinned: Sequence[Run], now: float) -> SupervisorError | None:
    """Pinned models leave only where a constraint says so; what else they hold is not part of anybody's budget."""
    options = placements(fleet, fleet.config.models[name], beside.limits)
    if best(fleet, beside, options) is None:
        evicted = evicted_by(fleet.config.routing, name, frozenset(run.model.id for run in pinned))
        staying = [run for run in pinned if run.model.id not in evicted]
        if not evicted or best(fleet, Room(beside.limits, (run.footprint for run in staying)), options) is None:
            return CannotFit(reasons.never_fits(name, options, beside, pinned), hint=reasons.hint(options, beside))
    return _taken_by_others(fleet, name, now)


def _taken_by_others(fleet: Fleet, name: str, now: float) -> SupervisorError | None:
    """There is nobody of ours left who could make room, and the machine says that other processes hold it."""
    if not fleet.books.are_fresh(now) or fleet.books.are_settling(now):
        return None
    if any(not run.model.pinned or run.is_leaving for run in fleet.runs):
        return None
    within = limits(fleet, now)
    room = Room(within, (run.footprint for run in fleet.runs))
    options = placements(fleet, fleet.config.models[name], within)
    if best(fleet, room, options) is not None:
        return None
    return CannotFit(
        reasons.taken_by_others(name, options, room),
        hint="end what else uses that memory, or lower `ctx-size`",
        retry_after=TAKEN_RETRY_AFTER,
    )


def grant(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Let tickets through to open runs, oldest first.

    Once a ticket has waited for its model to start longer than `max_wait`, nobody behind it is let through to a run
    that is in the way.
    """
    open_runs = {run.model.id: run for run in fleet.runs if run.is_open and run.model.id in fleet.queue.wanted}
    if all(run.is_full for run in open_runs.values()):
        return fleet, ()
    line = _Line(fleet, open_runs.values(), now)
    granted: list[TicketId] = []
    actions: list[Action] = []
    for ticket in fleet.queue:
        run = open_runs.get(ticket.model)
        if run is None or run.is_full or ticket.model in line.closed:
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
        self._house = _on_hand(fleet)
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


def _on_hand(fleet: Fleet) -> set[str]:
    """Models with a run that is there to stay."""
    return {run.model.id for run in fleet.runs if not run.is_leaving}


def retire(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Let go of runs that nobody has used for their `ttl`."""
    actions: list[Action] = []
    for run in fleet.runs:
        if now >= idle_until(fleet, run) and run.is_open and not run.leases:
            actions.append(reasons.retired(run, now))
            fleet = fleet.with_run(replace(run, retiring=Reason.IDLE))
    return fleet, tuple(actions)


def idle_until(fleet: Fleet, run: Run) -> float:
    """Until when it may be idle; the model that is to be there when nothing is asked for has no such limit."""
    ttl = run.model.ttl
    return inf if ttl is None or run.model.id == fleet.config.server.on_idle else run.used_at + ttl


def make_room(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Mark who has to leave, first by the constraints, then for room; give back who need not leave any more."""
    marked = {run.id for run in fleet.runs if run.retiring is Reason.EVICTED and run.phase is not Phase.STOPPING}
    unmarked = _marked(fleet, marked, None)
    ahead = outlook(unmarked)
    by_rule = [run for run in unmarked.runs if run.model.id in ahead.evicted and not run.is_leaving]
    constrained = _marked(unmarked, {run.id for run in by_rule}, Reason.EVICTED)
    evictions = choose(constrained, ahead.coming, marked, now)
    victims = {run.id for run in by_rule} | {run.id for each in evictions for run in each.victims}
    if victims == marked:
        return fleet, ()
    told: list[Action] = [reasons.kept(run) for run in unmarked.runs if run.id in marked - victims]
    if new := [run for run in by_rule if run.id not in marked]:
        told.append(reasons.evicted_by_rule(fleet.config.routing, ahead.coming, new, now))
    for each in evictions:
        if new := [run for run in each.victims if run.id not in marked]:
            told.append(reasons.evicted(each, new, now))
    fleet = _marked(unmarked, victims, Reason.EVICTED)
    fleet, granted = grant(fleet, now) if marked - victims else (fleet, ())
    return fleet, (*told, *granted)


def _marked(fleet: Fleet, chosen: Set[RunId], reason: Reason | None) -> Fleet:
    if not chosen:
        return fleet
    return replace(fleet, runs=tuple(replace(run, retiring=reason) if run.id in chosen else run for run in fleet.runs))


def stop(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """End what is retiring as soon as its last lease ended, or its time to drain is over."""
    actions: list[Action] = []
    for run in fleet.runs:
        if run.retiring is None or run.phase is Phase.STOPPING:
            continue
        if not run.leases or (run.cut_at is not None and now >= run.cut_at):
            fleet = fleet.with_run(replace(run, phase=Phase.STOPPING))
            actions += (*([reasons.cut(run)] if run.leases else []), Terminate(run.id))
    return fleet, tuple(actions)


def look(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Have the machine asked what is free, as long as somebody waits for it."""
    due = look_at(fleet, now)
    if due is None or now < due:
        return fleet, ()
    return replace(fleet, books=replace(fleet.books, is_looking=True)), (Look(),)


def look_at(fleet: Fleet, now: float) -> float | None:
    """When it has to be asked next."""
    books = fleet.books
    if fleet.config.memory is None or books.is_looking or fleet.closing:
        return None
    if not fleet.queue.wanted.keys() - _on_hand(fleet):
        return None
    if books.read_at < books.freed_at:
        return now
    return books.read_at + (LOOK_EVERY if books.are_settling(now) else STALE_SECONDS)


def spawn(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Start what is wanted, has no constraint against it and fits, in queue order.

    It has to fit twice: beside all that lives now, and in the house to come, beside what stays and those who come
    before, or it would only be evicted again. Who fits in neither holds the resources it waits for; who waits for a
    model that stays holds none.
    """
    if fleet.config.memory is not None and not fleet.books.are_fresh(now):
        return fleet, ()
    here = Room(limits(fleet, now), (run.footprint for run in fleet.runs))
    to_come = Room(expected_limits(fleet, now), (run.footprint for run in fleet.runs if not run.is_leaving))
    actions: list[Action] = []
    runs = fleet.by_model()
    for name in outlook(fleet).coming[:CLOSEST]:
        if here.free(PLACES) == 0:
            break
        model = fleet.config.models[name]
        options = placements(fleet, model, to_come.limits)
        placed = best(fleet, here, [each for each in options if not to_come.lacks(each.footprint)])
        if placed is not None and name not in runs and may_start(fleet, name):
            run = _new_run(fleet, model, now)
            run = replace(run, footprint=placed.footprint, devices=placed.devices)
            actions += reasons.started(run, placed, here, fleet.habits.get(name)), Spawn(run)
            fleet = replace(fleet, runs=(*fleet.runs, run), spawned=fleet.spawned + 1)
            here.take(placed.footprint)
            to_come.take(placed.footprint)
        elif expected := best(fleet, to_come, options):
            to_come.take(expected.footprint)
        else:
            to_come.hold(options[0].footprint)
    return fleet, tuple(actions)


def _new_run(fleet: Fleet, model: Model, now: float) -> Run:
    habit = fleet.habits.get(model.id)
    gap = habit.visited(now).gap if habit is not None else None
    return Run(RunId(fleet.spawned + 1), model, Phase.STARTING, now, now, gap=gap)


def go_home(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Send for the model that is to be there when nothing is asked for."""
    due = home_at(fleet)
    if due is None or now < due:
        return fleet, ()
    assert fleet.config.server.on_idle is not None
    home = fleet.config.server.on_idle
    return replace(fleet, going_home=True), (reasons.sent_for(home, QUIET_SECONDS), Load(home))


def home_at(fleet: Fleet) -> float | None:
    """When it will have been quiet for long enough; None: it is not quiet, or that model is there or does not start."""
    home = fleet.config.server.on_idle
    if home is None or fleet.going_home or fleet.closing or fleet.queue or any(run.leases for run in fleet.runs):
        return None
    if home in _on_hand(fleet) or refusal(fleet, home, -inf) is not None:
        return None
    used = [run.used_at for run in fleet.runs] + [habit.used_at for habit in fleet.habits.values()]
    return max(used, default=-inf) + QUIET_SECONDS
