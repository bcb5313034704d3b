"""What becomes of runs, failures and those who wait when another config takes the place of the old one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.config.changes import needs_another_run
from supervisor.fleet.queue import Queue
from supervisor.fleet.values import Phase, Reason

if TYPE_CHECKING:
    from supervisor.config.values import Config, Model
    from supervisor.fleet.queue import Ticket
    from supervisor.fleet.values import Fleet, Run

_ON_THEIR_WAY = {Reason.UNLOADED, Reason.CLOSING}
"""Reasons that outweigh a reload: somebody has asked for the end of the run itself."""


def reconfigured(fleet: Fleet, config: Config) -> Fleet:
    """The fleet under another config; who waits for a model that is gone is still in the queue."""
    stays = {name for name, model in fleet.config.models.items() if _is_as_before(model, config.models.get(name))}
    return replace(
        fleet,
        config=config,
        queue=Queue.of(ranked(ticket, config) for ticket in fleet.queue),
        runs=tuple(_following(run, config.models.get(run.model.id)) for run in fleet.runs),
        failures={name: failure for name, failure in fleet.failures.items() if name in stays},
        breakers={name: breaker for name, breaker in fleet.breakers.items() if name in stays},
        corrected=fleet.corrected & stays,
        going_home=False,
    )


def ranked(ticket: Ticket, config: Config) -> Ticket:
    """The ticket with the rank that its model's priority gives it."""
    rank = -config.priorities.get(ticket.model, 0)
    return ticket if ticket.rank == rank else replace(ticket, rank=rank)


def _is_as_before(model: Model, other: Model | None) -> bool:
    return other is not None and not needs_another_run(model, other)


def _following(run: Run, model: Model | None) -> Run:
    """The run under what its model has become; one that was to go for an earlier reload may be right again."""
    if run.phase is Phase.STOPPING:
        return run
    if model is None or needs_another_run(run.model, model):
        return run if run.retiring in _ON_THEIR_WAY else replace(run, retiring=Reason.RELOADED)
    return replace(run, model=model, retiring=None if run.retiring is Reason.RELOADED else run.retiring)
