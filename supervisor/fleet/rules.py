"""The planner's rules, each `(fleet, now) -> (fleet, actions)`, in the order in which they are applied."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from math import inf
from typing import TYPE_CHECKING

from supervisor.errors import CannotFit, QueueFull, ShuttingDown, SupervisorError
from supervisor.fleet.breaker import refusal
from supervisor.fleet.constraints import evicted_by, may_start, outlook
from supervisor.fleet.values import (
    Action,
    Amounts,
    Fleet,
    Grant,
    Phase,
    Queue,
    Reason,
    Refuse,
    Run,
    RunId,
    Spawn,
    Terminate,
    Ticket,
    TicketId,
    needs,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Set

QUEUE_FULL_RETRY_AFTER = 5.0
"""Seconds; a guess that spreads retries, for nobody knows how long the requests ahead will take."""


def in_turn(fleet: Fleet, now: float) -> Fleet:
    """Higher priorities first, in order of arrival among equals; who waits for longer than `max_wait` before all."""
    priorities = fleet.config.priorities
    ranks = {model: -priorities.get(model, 0) for model in fleet.queue.wanted} if priorities else {}
    if len(set(ranks.values())) < 2:
        return fleet
    overdue = now - fleet.config.server.max_wait
    turns = [(-inf if ticket.since < overdue else ranks[ticket.model], ticket.since) for ticket in fleet.queue]
    order = sorted(range(len(turns)), key=turns.__getitem__)
    if order == list(range(len(turns))):
        return fleet
    return replace(fleet, queue=Queue(fleet.queue[place] for place in order))


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
        retry_after=QUEUE_FULL_RETRY_AFTER,
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
    pinned = [run for run in fleet.runs if run.model.pinned and not run.is_leaving]
    room = _minus(fleet.budget, pinned)
    errors = ((model, refusal(fleet, model, now) or _never_fits(fleet, model, room, pinned)) for model in cold)
    return {model: error for model, error in errors if error is not None}


def _never_fits(fleet: Fleet, model: str, room: Amounts, pinned: Sequence[Run]) -> SupervisorError | None:
    """Pinned models leave only where a constraint says so; what else they hold is not part of anybody's budget."""
    needed = needs(fleet.config.models[model])
    if _fits(needed, room):
        return None
    evicted = evicted_by(fleet.config.routing, model, frozenset(run.model.id for run in pinned))
    if evicted and _fits(needed, _minus(fleet.budget, (run for run in pinned if run.model.id not in evicted))):
        return None
    names = ", ".join(f"`{run.model.id}`" for run in pinned)
    return CannotFit(
        f"`{model}` can never be loaded: pinned models ({names}) hold all {fleet.budget['models']} places",
        hint="raise `server.max_loaded`, or unpin one of them",
    )


def grant(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Let tickets through to open runs, oldest first.

    Once a ticket has waited for its model to start longer than `max_wait`, nobody behind it is let through to a run
    that is in the way.
    """
    open_runs = {run.model.id: run for run in fleet.runs if run.is_open and run.model.id in fleet.queue.wanted}
    if all(run.is_full for run in open_runs.values()):
        return fleet, ()
    cold = fleet.queue.wanted.keys() - _on_hand(fleet)
    unpinned = {model for model, run in open_runs.items() if not run.model.pinned}
    closed: set[str] = set()
    granted: list[TicketId] = []
    actions: list[Action] = []
    for ticket in fleet.queue:
        run = open_runs.get(ticket.model)
        if run is None or run.is_full or ticket.model in closed:
            if ticket.model in cold and now - ticket.since > fleet.config.server.max_wait:
                cold.remove(ticket.model)
                closed |= _in_the_way(fleet, ticket.model, unpinned)
                if closed >= unpinned:
                    cold.clear()
        else:
            open_runs[ticket.model] = replace(run, leases=run.leases + 1, used_at=now)
            granted.append(ticket.id)
            actions.append(Grant(ticket.id, run.id))
    if not granted:
        return fleet, ()
    for run in open_runs.values():
        fleet = fleet.with_run(run)
    return replace(fleet, queue=fleet.queue.without(granted)), tuple(actions)


def _in_the_way(fleet: Fleet, model: str, unpinned: set[str]) -> set[str]:
    """The open runs that could make the room it lacks, and those that it cannot live beside."""
    out = evicted_by(fleet.config.routing, model, frozenset(_on_hand(fleet)))
    has_room = _fits(needs(fleet.config.models[model]), _minus(fleet.budget, fleet.runs))
    return {*out} if has_room and fleet.config.routing is not None else {*out, *unpinned}


def _on_hand(fleet: Fleet) -> set[str]:
    """Models with a run that is there to stay."""
    return {run.model.id for run in fleet.runs if not run.is_leaving}


def retire(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Let go of runs that nobody has used for their `ttl`."""
    for run in fleet.runs:
        ttl = run.model.ttl
        if ttl is not None and run.is_open and not run.leases and now >= run.used_at + ttl:
            fleet = fleet.with_run(replace(run, retiring=Reason.IDLE))
    return fleet, ()


def make_room(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Mark who has to leave, first by the constraints, then for room; give back who need not leave any more."""
    marked = {run.id for run in fleet.runs if run.retiring is Reason.EVICTED and run.phase is not Phase.STOPPING}
    unmarked = _marked(fleet, marked, None)
    ahead = outlook(unmarked)
    victims = {run.id for run in unmarked.runs if run.model.id in ahead.evicted and not run.is_leaving}
    victims |= _victims(_marked(unmarked, victims, Reason.EVICTED), ahead.coming, marked)
    if victims == marked:
        return fleet, ()
    fleet = _marked(unmarked, victims, Reason.EVICTED)
    return grant(fleet, now) if marked - victims else (fleet, ())


def _marked(fleet: Fleet, chosen: Set[RunId], reason: Reason | None) -> Fleet:
    if not chosen:
        return fleet
    return replace(fleet, runs=tuple(replace(run, retiring=reason) if run.id in chosen else run for run in fleet.runs))


def _victims(fleet: Fleet, coming: Sequence[str], marked: Set[RunId]) -> set[RunId]:
    """The runs that make room for the first model that lacks it.

    Idle before busy, those already told to leave, then least recently used.
    """
    model = _first_without_room(fleet, coming)
    if model is None:
        return set()
    needed = needs(fleet.config.models[model])
    room = _minus(fleet.budget, (run for run in fleet.runs if not run.is_leaving))
    victims: set[RunId] = set()
    order = sorted(
        _evictable(fleet, model), key=lambda run: (run.leases > 0, run.id not in marked, run.used_at, run.id)
    )
    for run in order:
        if _fits(needed, room):
            break
        victims.add(run.id)
        room = {name: amount + needs(run.model).get(name, 0) for name, amount in room.items()}
    return victims if _fits(needed, room) else set()


def _first_without_room(fleet: Fleet, coming: Sequence[str]) -> str | None:
    room = _minus(fleet.budget, fleet.runs)
    for model in coming:
        needed = needs(fleet.config.models[model])
        if not _fits(needed, room):
            return model
        room = {name: amount - needed.get(name, 0) for name, amount in room.items()}
    return None


def _evictable(fleet: Fleet, model: str) -> list[Run]:
    """Never pinned, never one that an earlier ticket waits for, and no load that somebody waits for."""
    wanted = fleet.queue.wanted
    earlier = set(takewhile(lambda name: name != model, wanted))
    return [
        run
        for run in fleet.runs
        if not run.is_leaving
        and not run.model.pinned
        and run.model.id not in earlier
        and not (run.phase is Phase.STARTING and run.model.id in wanted)
    ]


def stop(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """End what is retiring as soon as its last lease ended, or its time to drain is over."""
    actions: list[Action] = []
    for run in fleet.runs:
        if run.retiring is None or run.phase is Phase.STOPPING:
            continue
        if not run.leases or (run.cut_at is not None and now >= run.cut_at):
            fleet = fleet.with_run(replace(run, phase=Phase.STOPPING))
            actions.append(Terminate(run.id))
    return fleet, tuple(actions)


def spawn(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Start what is wanted, has no constraint against it and fits, in queue order.

    Who does not fit holds the resources it waits for; who waits for a model that stays holds none.
    """
    room = dict(_minus(fleet.budget, fleet.runs))
    actions: list[Action] = []
    runs = fleet.by_model()
    for model in outlook(fleet).coming:
        if model in runs:
            continue  # still on its way out
        needed = needs(fleet.config.models[model])
        fits = _fits(needed, room)
        for name, amount in needed.items():
            if fits or amount > room.get(name, 0):
                room[name] = room.get(name, 0) - amount
        if fits and may_start(fleet, model):
            run = Run(RunId(fleet.spawned + 1), fleet.config.models[model], Phase.STARTING, now, now)
            fleet = replace(fleet, runs=(*fleet.runs, run), spawned=fleet.spawned + 1)
            actions.append(Spawn(run))
    return fleet, tuple(actions)


def _fits(needed: Amounts, room: Amounts) -> bool:
    return all(amount <= room.get(name, 0) for name, amount in needed.items())


def _minus(budget: Amounts, runs: Iterable[Run]) -> Amounts:
    room = dict(budget)
    for run in runs:
        for name, amount in needs(run.model).items():
            room[name] = room.get(name, 0) - amount
    return room
