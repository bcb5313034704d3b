"""The planner's rules, each `(fleet, now) -> (fleet, actions)`, in the order in which they are applied."""

from __future__ import annotations

from dataclasses import replace
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
    needs,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

QUEUE_FULL_RETRY_AFTER = 5.0
"""Seconds; a guess that spreads retries, for nobody knows how long the requests ahead will take."""


def refuse(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Answer at once who will not be served: closing, failing, never fits, more than the queue holds."""
    hopeless = {model: error for model in fleet.wanted if (error := _hopeless(fleet, model, now))}
    kept: list[Ticket] = []
    actions: list[Action] = []
    for ticket in fleet.queue:
        error = _refusal(fleet, ticket, hopeless, ahead=len(kept))
        if error is None:
            kept.append(ticket)
        else:
            actions.append(Refuse(ticket.id, error))
    return (replace(fleet, queue=tuple(kept)), tuple(actions)) if actions else (fleet, ())


def _refusal(
    fleet: Fleet, ticket: Ticket, hopeless: dict[str, SupervisorError], *, ahead: int
) -> SupervisorError | None:
    if fleet.closing:
        return ShuttingDown("shutting down")
    if ticket.model in hopeless:
        return hopeless[ticket.model]
    run = fleet.run_of(ticket.model) if ahead >= fleet.config.server.max_queue else None
    if ahead < fleet.config.server.max_queue or (run is not None and run.is_open and not run.is_full):
        return None
    return QueueFull(
        f"{ahead} requests are waiting already",
        hint="try again later, or raise `server.max_queue`",
        retry_after=QUEUE_FULL_RETRY_AFTER,
    )


def _hopeless(fleet: Fleet, model: str, now: float) -> SupervisorError | None:
    run = fleet.run_of(model)
    if run is not None and not run.is_leaving:
        return None
    return refusal(fleet, model, now) or _never_fits(fleet, model)


def _never_fits(fleet: Fleet, model: str) -> SupervisorError | None:
    """Pinned models never leave, so what they hold is not part of anybody's budget."""
    pinned = [run for run in fleet.runs if run.model.pinned and run.model.id != model and not run.is_leaving]
    room = _minus(fleet.budget, pinned)
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
    open_runs = {run.model.id: run for run in fleet.runs if run.is_open}
    if not open_runs or not fleet.queue:
        return fleet, ()
    overdue = False
    kept: list[Ticket] = []
    actions: list[Action] = []
    for ticket in fleet.queue:
        run = open_runs.get(ticket.model)
        if run is None or run.is_full or (overdue and not run.model.pinned):
            kept.append(ticket)
            overdue = overdue or (run is None and _waits_for_room(fleet, ticket, now))
        else:
            open_runs[ticket.model] = replace(run, leases=run.leases + 1, used_at=now)
            actions.append(Grant(ticket.id, run.id))
    for run in open_runs.values():
        fleet = fleet.with_run(run)
    return replace(fleet, queue=tuple(kept)), tuple(actions)


def _waits_for_room(fleet: Fleet, ticket: Ticket, now: float) -> bool:
    if now - ticket.since <= fleet.config.server.max_wait:
        return False
    run = fleet.run_of(ticket.model)
    return run is None or run.is_leaving


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
    for model in fleet.wanted:
        run = fleet.run_of(model)
        if run is not None and not run.is_leaving:
            continue
        needed = needs(fleet.config.models[model])
        if not _fits(needed, room):
            return model
        room = {name: amount - needed.get(name, 0) for name, amount in room.items()}
    return None


def _evictable(fleet: Fleet, model: str) -> list[Run]:
    """Never pinned, never one that an earlier ticket waits for, and no load that somebody waits for."""
    wanted = list(fleet.wanted)
    earlier = set(wanted[: wanted.index(model)])
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
    for model in fleet.wanted:
        if fleet.run_of(model) is not None:
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
