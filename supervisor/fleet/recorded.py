"""What an event changes by itself, before the rules are applied; the answers here are those that only it can give."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from supervisor.config.values import Overload
from supervisor.errors import ConcurrencyLimit, ModelFailed, ModelNotFound, ModelUnloaded, SupervisorError
from supervisor.fleet import breaker, reasons
from supervisor.fleet.actions import Action, Refuse
from supervisor.fleet.books import Habit
from supervisor.fleet.events import (
    Abandoned,
    BecameReady,
    Checked,
    Closing,
    Event,
    Exited,
    Observed,
    Reconfigured,
    Released,
    Requested,
    Tick,
    UnloadAsked,
)
from supervisor.fleet.memory import Measured, Source
from supervisor.fleet.placing import Ways
from supervisor.fleet.reconfigured import ranked, reconfigured
from supervisor.fleet.refusals import refusal_of_one_more
from supervisor.fleet.room import Room, limits
from supervisor.fleet.values import Fleet, Phase, Reason, Run
from supervisor.fleet.victims import movable

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config.values import Config
    from supervisor.errors import Failure
    from supervisor.fleet.memory import Footprint
    from supervisor.fleet.queue import Ticket


def record(fleet: Fleet, event: Event, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """Write down what happened; the answers here are those that only this event can give."""
    match event:
        case Requested(ticket):
            return _requested(fleet, ticket, now)
        case Abandoned(ticket_id):
            gone = [ticket for ticket in fleet.queue if ticket.id == ticket_id]
            return replace(fleet, queue=fleet.queue.without(gone)), ()
        case BecameReady(run_id):
            return _became_ready(fleet, run_id, now), ()
        case Exited(run_id, failure, jitter):
            return _exited(fleet, run_id, failure, now, jitter)
        case Measured(model, footprint):
            return _measured(fleet, model, footprint), ()
        case Observed(reading, held):
            return replace(fleet, books=fleet.books.observed(reading, held, now)), ()
        case Checked(model, failure):
            return breaker.with_breaker(breaker.with_failure(fleet, model, failure), model, None), ()
        case UnloadAsked(model, force):
            return _unload(fleet, model, now, force=force)
        case Reconfigured(config):
            return _reconfigure(fleet, config)
        case Closing():
            return _close(fleet, now), ()
        case Released() | Tick():
            return fleet, ()
        case _:
            assert_never(event)


def _requested(fleet: Fleet, ticket: Ticket, now: float) -> tuple[Fleet, tuple[Action, ...]]:
    """A model that refuses what is too much counts who waits for it too (spec: llama-swap.md, 2.6, rule 2)."""
    model = fleet.config.models.get(ticket.model)
    if model is None:  # it has gone between the look at its name and this
        return fleet, (Refuse(ticket.id, _gone(ticket)),)
    if model.overload is Overload.REFUSE and model.concurrency is not None:
        served = sum(run.leases for run in fleet.runs if run.model.id == ticket.model)
        if served + fleet.queue.waiting_for(ticket.model) >= model.concurrency:
            error = ConcurrencyLimit("Too many requests", hint=f"`{model.id}` takes {model.concurrency} at a time")
            return fleet, (Refuse(ticket.id, error),)
    full = refusal_of_one_more(fleet, ticket, now)
    if full is not None:
        return fleet, (Refuse(ticket.id, full),)
    going_home = fleet.going_home and ticket.model != fleet.config.server.on_idle
    queue = fleet.queue.with_one(ranked(ticket, fleet.config))
    return replace(fleet, queue=queue, going_home=going_home), ()


def _measured(fleet: Fleet, model: str, footprint: Footprint) -> Fleet:
    """What it takes is known for its next start and for the run that it was seen in."""
    books = replace(fleet.books, footprints={**fleet.books.footprints, model: footprint})
    runs = tuple(
        replace(run, footprint=footprint) if run.model.id == model and footprint.is_measured else run
        for run in fleet.runs
    )
    return replace(fleet, books=books, runs=runs)


def _became_ready(fleet: Fleet, run_id: int, now: float) -> Fleet:
    run = next((run for run in fleet.runs if run.id == run_id and run.phase is Phase.STARTING), None)
    if run is None:
        return fleet  # it is already being stopped
    name = run.model.id
    run = replace(run, phase=Phase.READY, used_at=now, ready_at=now)
    fleet = replace(_with_habit(fleet, run, now - run.started_at).with_run(run), corrected=fleet.corrected - {name})
    return breaker.after_success(breaker.with_failure(fleet, name, None), name)


def _exited(
    fleet: Fleet, run_id: int, failure: Failure | None, now: float, jitter: float
) -> tuple[Fleet, tuple[Action, ...]]:
    run = next((run for run in fleet.runs if run.id == run_id), None)
    if run is None:
        return fleet, ()
    fleet = replace(fleet, runs=tuple(other for other in fleet.runs if other.id != run_id))
    fleet = replace(_with_habit(fleet, run), books=replace(fleet.books, freed_at=now))
    fleet = breaker.after_exit(fleet, run, now)
    if failure is None or run.retiring is Reason.RELOADED:
        return fleet, ()  # what went wrong with an old config says nothing of the new one
    if run.phase is Phase.STARTING and failure.cause in breaker.MEMORY and (more := _with_more_room(fleet, run, now)):
        return more, (reasons.retried(run, failure.cause),)
    fleet = breaker.after_failure(fleet, run, failure, now, jitter=jitter)
    fleet = replace(fleet, corrected=fleet.corrected - {run.model.id})
    if run.phase is not Phase.STARTING:
        return fleet, ()  # a crash while serving: whoever waits gets a fresh start, unless it crashes too often
    error = ModelFailed(fleet.failures[run.model.id])
    return _dismiss(fleet, lambda ticket: ticket.model == run.model.id, lambda _: error)


def _with_habit(fleet: Fleet, run: Run, load_seconds: float | None = None) -> Fleet:
    before = fleet.habits.get(run.model.id)
    known = before.load_seconds if before is not None and load_seconds is None else load_seconds
    return replace(fleet, habits={**fleet.habits, run.model.id: Habit(run.used_at, run.gap, known, run.devices)})


def _with_more_room(fleet: Fleet, run: Run, now: float) -> Fleet | None:
    """The fleet in which this model needs more than was free where it was, so that somebody leaves for it, or it goes
    elsewhere; None: that is no use.

    The books were wrong, of it or of others. The next measurement will put them right.
    """
    name, footprint = run.model.id, run.footprint
    others = [other for other in fleet.runs if not other.is_leaving]
    if fleet.config.memory is None or name in fleet.corrected or name not in fleet.queue.wanted:
        return None
    room = Room(limits(fleet, now, by_reading=False), (other.footprint for other in others))
    amounts = {device: _at_least(room.free(device), amount) for device, amount in footprint.amounts.items()}
    footprint = replace(footprint, amounts=amounts, source=Source.ESTIMATE)
    books = replace(fleet.books, footprints={**fleet.books.footprints, name: footprint})
    corrected = replace(fleet, books=books, corrected=fleet.corrected | {name})
    own = fleet.queue.places[name]
    if all(place < own for place, _ in movable(fleet, others)):  # who is busy leaves in the end
        options = Ways(corrected, room.limits).of(name)
        if all(option.devices == run.devices or room.lacks(option.footprint) for option in options):
            return None
    return corrected


def _at_least(free: int | None, amount: int) -> int:
    return amount if free is None or not amount else max(amount, free + 1)


def _unload(fleet: Fleet, model: str | None, now: float, *, force: bool) -> tuple[Fleet, tuple[Action, ...]]:
    """An unload ends a load that is under way, or it would be undone by those who wait for it."""
    chosen = [run for run in fleet.runs if model in {None, run.model.id}]
    loading = {run.model.id for run in chosen if run.phase is Phase.STARTING}
    grace = 0.0 if force else fleet.config.server.drain_timeout
    told = tuple(reasons.unloaded(run, grace) for run in chosen if run.retiring in {None, Reason.EVICTED})
    for run in chosen:
        fleet = fleet.with_run(_retired(run, Reason.UNLOADED, cut_at=now + grace))
    fleet, refused = _dismiss(
        fleet,
        lambda ticket: ticket.model in loading,
        lambda ticket: ModelUnloaded(f"`{ticket.model}` was unloaded while it was loading"),
    )
    return fleet, (*told, *refused)


def _reconfigure(fleet: Fleet, config: Config) -> tuple[Fleet, tuple[Action, ...]]:
    """Who waits for a model that has changed waits on, for what it is now."""
    before = {run.id for run in fleet.runs if run.retiring is Reason.RELOADED}
    fleet = reconfigured(fleet, config)
    new = [run for run in fleet.runs if run.retiring is Reason.RELOADED and run.id not in before]
    fleet, refused = _dismiss(fleet, lambda ticket: ticket.model not in config.models, _gone)
    return fleet, (*(reasons.reloaded(run, config) for run in new), *refused)


def _gone(ticket: Ticket) -> ModelNotFound:
    return ModelNotFound(f"`{ticket.model}` is not in the config any more", hint="`GET /v1/models` lists what there is")


def _close(fleet: Fleet, now: float) -> Fleet:
    """The rules refuse who waits, and start nothing for nobody."""
    cut_at = now + fleet.config.server.drain_timeout
    runs = tuple(_retired(run, Reason.CLOSING, cut_at=cut_at) for run in fleet.runs)
    return replace(fleet, runs=runs, closing=True)


def _retired(run: Run, reason: Reason, *, cut_at: float) -> Run:
    earliest = cut_at if run.cut_at is None else min(cut_at, run.cut_at)
    return replace(run, retiring=reason, cut_at=earliest)


def _dismiss(
    fleet: Fleet, chosen: Callable[[Ticket], bool], error: Callable[[Ticket], SupervisorError]
) -> tuple[Fleet, tuple[Action, ...]]:
    gone = [ticket for ticket in fleet.queue if chosen(ticket)]
    if not gone:
        return fleet, ()
    return replace(fleet, queue=fleet.queue.without(gone)), tuple(Refuse(ticket.id, error(ticket)) for ticket in gone)
