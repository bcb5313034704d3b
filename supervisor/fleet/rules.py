"""The planner's rules, each `(fleet, now) -> (fleet, actions)`, in the order in which they are applied."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from supervisor.fleet import reasons
from supervisor.fleet.actions import Action, Load, Look, Spawn, Terminate
from supervisor.fleet.books import LOOK_EVERY, STALE_SECONDS
from supervisor.fleet.breaker import refusal
from supervisor.fleet.constraints import may_start, outlook
from supervisor.fleet.grants import grant, on_hand
from supervisor.fleet.placing import Ways, best
from supervisor.fleet.room import Room, expected_limits, limits
from supervisor.fleet.values import PLACES, Fleet, Phase, Reason, Run, RunId
from supervisor.fleet.victims import choose

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from supervisor.config.values import Model
    from supervisor.fleet.victims import Eviction

QUIET_SECONDS = 60.0
"""After the last request, before what is to be there when nothing is asked for is loaded."""


def in_turn(fleet: Fleet, now: float) -> Fleet:
    """Higher priorities first, in order of arrival among equals; who waits for longer than `max_wait` before all."""
    queue = fleet.queue
    if not queue or queue[0].rank == queue[-1].rank:
        return fleet
    return replace(fleet, queue=queue.with_first(now - fleet.config.server.max_wait))


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
    all_who_stay = [run for run in fleet.runs if run.id in marked or not run.is_leaving]
    ahead = outlook(fleet)
    by_rule = [run for run in all_who_stay if run.model.id in ahead.evicted]
    staying = [run for run in all_who_stay if run.model.id not in ahead.evicted]
    evictions = choose(fleet, staying, ahead.coming, marked=marked, now=now)
    victims = _ids(by_rule, evictions)
    if marked - victims and _ids(by_rule, choose(fleet, staying, ahead.coming, marked=victims, now=now)) != victims:
        victims |= marked  # who would be told to leave again at once is not told to stay
    if victims == marked:
        return fleet, ()
    told: list[Action] = [reasons.kept(run) for run in fleet.runs if run.id in marked - victims]
    if new := [run for run in by_rule if run.id not in marked]:
        told.append(reasons.evicted_by_rule(fleet.config.routing, ahead.coming, new, now))
    for each in evictions:
        if new := [run for run in each.victims if run.id not in marked]:
            told.append(reasons.evicted(each, new, now))
    fleet = _marked(_marked(fleet, marked - victims, None), victims - marked, Reason.EVICTED)
    fleet, granted = grant(fleet, now) if marked - victims else (fleet, ())
    return fleet, (*told, *granted)


def _ids(by_rule: Iterable[Run], evictions: Iterable[Eviction]) -> set[RunId]:
    return {run.id for run in chain(by_rule, *(each.victims for each in evictions))}


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
    if not fleet.queue.wanted.keys() - on_hand(fleet):
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
    ways = Ways(fleet, to_come.limits)
    coming = outlook(fleet).coming
    if not any(here.fits(each.footprint) for name in coming for each in ways.of(name)):
        return fleet, ()  # as most of the time
    actions: list[Action] = []
    runs = fleet.by_model()
    for name in coming:
        if here.free(PLACES) == 0:
            break
        options = ways.of(name)
        placed = best(fleet, here, [each for each in options if to_come.fits(each.footprint)])
        if placed is not None and name not in runs and may_start(fleet, name):
            run = _new_run(fleet, fleet.config.models[name], now)
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
    if home in on_hand(fleet) or refusal(fleet, home, -inf) is not None:
        return None
    used = [run.used_at for run in fleet.runs] + [habit.used_at for habit in fleet.habits.values()]
    return max(used, default=-inf) + QUIET_SECONDS
