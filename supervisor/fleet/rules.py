"""The planner's rules, each `(fleet, now) -> (fleet, actions)`, in the order in which they are applied."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from supervisor.errors import CannotFit, QueueFull, ShuttingDown, SupervisorError
from supervisor.fleet.breaker import refusal
from supervisor.fleet.values import (
    Action,
    Amounts,
    Fleet,
    Grant,
    Phase,
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
    from collections.abc import Iterable, Mapping, Sequence

QUEUE_FULL_RETRY_AFTER = 5.0
"""Seconds; a guess that spreads retries, for nobody knows how long the requests ahead will take."""


def refuse(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Answer at once who will not be served: closing, failing, never fits, more than the queue holds."""
    hopeless = _hopeless(fleet, now)
    if not fleet.closing and not hopeless and len(fleet.queue) <= fleet.config.server.max_queue:
        return fleet, ()
    runs = fleet.by_model()
    refused: dict[TicketId, SupervisorError] = {}
    for number, ticket in enumerate(fleet.queue):
        error = _refusal(fleet, ticket, runs, hopeless, ahead=number - len(refused))
        if error is not None:
            refused[ticket.id] = error
    if not refused:
        return fleet, ()
    actions = tuple(Refuse(ticket, error) for ticket, error in refused.items())
    return replace(fleet, queue=fleet.queue.without(refused)), actions


def _refusal(
    fleet: Fleet, ticket: Ticket, runs: Mapping[str, Run], hopeless: Mapping[str, SupervisorError], *, ahead: int
) -> SupervisorError | None:
    if fleet.closing:
        return ShuttingDown("shutting down")
    if ticket.model in hopeless:
        return hopeless[ticket.model]
    run = runs.get(ticket.model)
    if ahead < fleet.config.server.max_queue or (run is not None and run.is_open and not run.is_full):
        return None
    return QueueFull(
        f"{ahead} requests are waiting already",
        hint="try again later, or raise `server.max_queue`",
        retry_after=QUEUE_FULL_RETRY_AFTER,
    )


def _hopeless(fleet: Fleet, now: float) -> Mapping[str, SupervisorError]:
    """The wanted models that will not be started, and why."""
    runs = fleet.by_model()
    cold = [model for model in fleet.queue.wanted if model not in runs or runs[model].is_leaving]
    pinned = [run for run in fleet.runs if run.model.pinned and not run.is_leaving]
    room = _minus(fleet.budget, pinned)
    errors = ((model, refusal(fleet, model, now) or _never_fits(fleet, model, room, pinned)) for model in cold)
    return {model: error for model, error in errors if error is not None}


def _never_fits(fleet: Fleet, model: str, room: Amounts, pinned: Sequence[Run]) -> SupervisorError | None:
    """Pinned models never leave, so what they hold is not part of anybody's budget."""
    if _fits(needs(fleet.config.models[model]), room):
        return None
    names = ", ".join(f"`{run.model.id}`" for run in pinned)
    return CannotFit(
        f"`{model}` can never be loaded: pinned models ({names}) hold all {fleet.budget['models']} places",
        hint="raise `server.max_loaded`, or unpin one of them",
    )


def grant(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Let tickets through to open runs, oldest first.

    Once a ticket has waited for room longer than `max_wait`, nobody behind it is let through to a run that could
    make that room.
    """
    open_runs = {run.model.id: run for run in fleet.runs if run.is_open and run.model.id in fleet.queue.wanted}
    if all(run.is_full for run in open_runs.values()):
        return fleet, ()
    cold = fleet.queue.wanted.keys() - _on_hand(fleet)
    overdue = False
    granted: list[TicketId] = []
    actions: list[Action] = []
    for ticket in fleet.queue:
        run = open_runs.get(ticket.model)
        if run is None or run.is_full or (overdue and not run.model.pinned):
            overdue = overdue or (ticket.model in cold and now - ticket.since > fleet.config.server.max_wait)
        else:
            open_runs[ticket.model] = replace(run, leases=run.leases + 1, used_at=now)
            granted.append(ticket.id)
            actions.append(Grant(ticket.id, run.id))
    if not granted:
        return fleet, ()
    for run in open_runs.values():
        fleet = fleet.with_run(run)
    return replace(fleet, queue=fleet.queue.without(granted)), tuple(actions)


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
    """Mark victims for the first model in the queue that does not fit; give back those no longer needed."""
    marked = {run.id for run in fleet.runs if run.retiring is Reason.EVICTED and run.phase is not Phase.STOPPING}
    unmarked = replace(
        fleet, runs=tuple(replace(run, retiring=None) if run.id in marked else run for run in fleet.runs)
    )
    victims = _victims(unmarked, marked)
    if victims == marked:
        return fleet, ()
    fleet = replace(
        unmarked,
        runs=tuple(replace(run, retiring=Reason.EVICTED) if run.id in victims else run for run in unmarked.runs),
    )
    return grant(fleet, now) if marked - victims else (fleet, ())


def _victims(fleet: Fleet, marked: set[RunId]) -> set[RunId]:
    """The runs that have to leave: idle before busy, those already told to leave, then least recently used."""
    model = _first_without_room(fleet)
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


def _first_without_room(fleet: Fleet) -> str | None:
    room = _minus(fleet.budget, fleet.runs)
    on_hand = _on_hand(fleet)
    for model in fleet.queue.wanted:
        if model in on_hand:
            continue
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
    """Start what is wanted and fits, in queue order; who does not fit holds the resources it waits for."""
    room = dict(_minus(fleet.budget, fleet.runs))
    actions: list[Action] = []
    runs = fleet.by_model()
    for model in fleet.queue.wanted:
        if model in runs:
            continue  # it is there, on its way, or still on its way out
        needed = needs(fleet.config.models[model])
        fits = _fits(needed, room)
        for name, amount in needed.items():
            if fits or amount > room.get(name, 0):
                room[name] = room.get(name, 0) - amount
        if fits:
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
