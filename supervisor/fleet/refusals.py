"""Who is answered at once with an error: nobody is kept waiting for what will not come."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING

from supervisor.errors import CannotFit, QueueFull, ShuttingDown, SupervisorError
from supervisor.fleet import reasons
from supervisor.fleet.actions import Action, Refuse
from supervisor.fleet.breaker import refusal
from supervisor.fleet.constraints import evicted_by
from supervisor.fleet.placing import Ways, best
from supervisor.fleet.queue import CLOSEST, Queue, Ticket
from supervisor.fleet.room import Room, limits
from supervisor.fleet.same import Same
from supervisor.fleet.waiting import expected_wait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.fleet.values import Fleet


TAKEN_RETRY_AFTER = 10.0
"""Seconds; nobody knows what the other processes are about to do."""

SHORTEST_RETRY = 1.0


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
    refused = [ticket for ticket in fleet.queue if fleet.closing or ticket.model in hopeless]
    actions = tuple(
        Refuse(ticket.id, ShuttingDown("shutting down") if fleet.closing else hopeless[ticket.model])
        for ticket in refused
    )
    return replace(fleet, queue=fleet.queue.without(refused)), actions


def _hopeless(fleet: Fleet, now: float) -> Mapping[str, SupervisorError]:
    """The wanted models that will not be started, and why."""
    runs = fleet.by_model()
    wanted = fleet.queue.wanted

    def is_cold(model: str) -> bool:
        return model not in runs or runs[model].is_leaving

    cold = {*islice(filter(is_cold, wanted), CLOSEST), *islice(filter(is_cold, reversed(wanted)), 1)}
    if not cold:
        return {}
    never = _Never(fleet, now)
    errors: dict[str, SupervisorError | None] = {
        model: refusal(fleet, model, now) for model in fleet.breakers if model in wanted and is_cold(model)
    }
    for model in cold:  # the others were the last once
        errors[model] = errors.get(model) or never.error(model) or _taken_by_others(fleet, model, now)
    return {model: error for model, error in errors.items() if error is not None}


class _Never:
    """What can never be loaded, for it does not fit beside the pinned models.

    Those leave only where a constraint says so; what else they hold is not part of anybody's budget.
    """

    def __init__(self, fleet: Fleet, now: float) -> None:
        self._fleet = fleet
        self._limits = limits(fleet, now, by_reading=False)
        pinned = [run for run in fleet.runs if run.model.pinned]
        self._pinned = [run for run in pinned if not run.is_leaving]
        self._known = _known(
            Same(fleet.config, fleet.books.footprints, *(run.footprint for run in pinned)),
            tuple((run.model.id, run.is_leaving) for run in pinned),
            tuple(self._limits.items()),
        )

    def error(self, name: str) -> CannotFit | None:
        """Why, if it is one of them. Whether it is one is asked at every step, of all that are waited for."""
        fits = self._known.get(name)
        if fits is None:
            self._known[name] = fits = self._fits(name)
        if fits:
            return None
        options = self._ways.of(name)
        return CannotFit(
            reasons.never_fits(name, options, self._beside, self._pinned), hint=reasons.hint(options, self._beside)
        )

    def _fits(self, name: str) -> bool:
        options = self._ways.of(name)
        if best(self._fleet, self._beside, options) is not None:
            return True
        evicted = evicted_by(self._fleet.config.routing, name, frozenset(run.model.id for run in self._pinned))
        staying = [run.footprint for run in self._pinned if run.model.id not in evicted]
        return bool(evicted) and best(self._fleet, Room(self._limits, staying), options) is not None

    @cached_property
    def _beside(self) -> Room:
        return Room(self._limits, (run.footprint for run in self._pinned))

    @cached_property
    def _ways(self) -> Ways:
        return Ways(self._fleet, self._limits)


@lru_cache(maxsize=4)
def _known(_: Same, __: tuple[tuple[str, bool], ...], ___: tuple[tuple[str, int], ...]) -> dict[str, bool]:
    """Which models fit, as far as it has been asked: beside the same pinned ones, by the same config and books."""
    return {}


def _taken_by_others(fleet: Fleet, name: str, now: float) -> SupervisorError | None:
    """There is nobody of ours left who could make room, and the machine says that other processes hold it."""
    if not fleet.books.are_fresh(now) or fleet.books.are_settling(now):
        return None
    if any(not run.model.pinned or run.is_leaving for run in fleet.runs):
        return None
    within = limits(fleet, now)
    room = Room(within, (run.footprint for run in fleet.runs))
    options = Ways(fleet, within).of(name)
    if best(fleet, room, options) is not None:
        return None
    return CannotFit(
        reasons.taken_by_others(name, options, room),
        hint="end what else uses that memory, or lower `ctx-size`",
        retry_after=TAKEN_RETRY_AFTER,
    )
