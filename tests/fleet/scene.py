"""A stage for planner tests: the planner's own events and actions, with names where it has numbers.

A ticket is called by its model and a digit (`a1`, `a2`), a run by its model. Leases are counted outside the planner, as
the pool does it. The time is what `at` says; it stands still otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from supervisor.config.expressions import parsed
from supervisor.config.routing import Matrix
from supervisor.config.values import Config, Model, Server
from supervisor.errors import Failure
from supervisor.fleet.actions import Action, Grant, Refuse, Spawn, Tell, Terminate
from supervisor.fleet.essence import Essence
from supervisor.fleet.events import Abandoned, BecameReady, Event, Exited, Released, Requested
from supervisor.fleet.planner import decide, next_deadline
from supervisor.fleet.queue import Ticket, TicketId
from supervisor.fleet.step import Step
from supervisor.fleet.values import Count, Fleet, Run
from tests.fleet.again import assert_same_again

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.routing import Groups
    from supervisor.errors import SupervisorError


def given(
    *models: str | Model,
    routing: Groups | Matrix | None = None,
    priorities: Mapping[str, int] | None = None,
    **server: float | str | None,
) -> Scene:
    """An empty stage with these models in the config and these `[server]` settings."""
    config = replace(config_of(*models, **server), routing=routing, priorities=priorities or {})
    return Scene(Fleet(config))


def config_of(*models: str | Model, **server: float | str | None) -> Config:
    whole = [Model(model) if isinstance(model, str) else model for model in models]
    return Config(
        Path("/"), Server(**{"max_loaded": 1, "max_wait": 60.0, **server}), {model.id: model for model in whole}
    )


def matrix_of(*sets: str, **costs: int) -> Matrix:
    """A matrix with these sets, `s1`, `s2`, …, and these costs of eviction."""
    return Matrix({f"s{number}": parsed(text, str) for number, text in enumerate(sets, 1)}, costs)


def failure_of(model: str, *, phase: str = "loading") -> Failure:
    return Failure(
        "f1", model, "out_of_memory", "it did not fit", "use a smaller `ctx-size`", phase, "2026-01-01T00:00:00Z"
    )


@dataclass
class Scene:
    """A fleet, the time, and what the planner said last."""

    fleet: Fleet
    now: float = 0.0
    actions: tuple[Action, ...] = ()

    def __post_init__(self) -> None:
        self._names: dict[TicketId, str] = {}
        self._runs: dict[str, Run] = {run.model.id: run for run in self.fleet.runs}
        self._granted: dict[str, Run] = {}
        self._essence = Essence()

    def when(self, event: Event, *, at: float | None = None) -> Self:
        """Something happens."""
        self.now = self.now if at is None else at
        numbered = self._numbered(event)  # first, for it may end a lease
        before = self.fleet
        self.fleet, actions = decide(before, numbered, self.now)
        assert_same_again(self._essence, Step(self.now, before, numbered, actions), self.fleet)
        self.told = [action.decision for action in actions if isinstance(action, Tell)]
        self.actions = tuple(action for action in actions if not isinstance(action, Tell))
        for action in self.actions:
            match action:
                case Spawn(run):
                    self._runs[run.model.id] = run
                case Grant(ticket, run_id):
                    self._granted[str(self._name(ticket))] = next(
                        run for run in self._runs.values() if run.id == run_id
                    )
        return self

    def then(self, *expected: Action) -> Self:
        """The planner answers with exactly this, in this order."""
        assert [self._named(action) for action in self.actions] == list(expected)
        return self

    def has(self, *models: str) -> Self:
        """These models are loaded, one after the other, and idle."""
        for model in models:
            self.when(Requested(f"{model}0")).when(BecameReady(model)).when(Released(f"{model}0"))
            assert self.run(model).is_open
            assert not self.run(model).leases
        return self

    def counted(self, model: str, leases: int, *, used_at: float, gap: float | None = None) -> Self:
        """This model is used, and the planner is not told; its requests end as `Released(model)`."""
        self.fleet = self.fleet.recounted({self.run(model).id: Count(leases, used_at, gap)})
        return self

    def run(self, model: str) -> Run:
        run = self.fleet.run_of(model)
        assert run is not None, f"`{model}` is not running"
        return run

    @property
    def refusal(self) -> SupervisorError:
        """The error of the only refusal among the last answers."""
        (error,) = [action.error for action in self.actions if isinstance(action, Refuse)]
        return error

    @property
    def waiting(self) -> list[str]:
        return [str(self._name(ticket.id)) for ticket in self.fleet.queue]

    @property
    def deadline(self) -> float | None:
        return next_deadline(self.fleet, self.now)

    def _numbered(self, event: Event) -> Event:
        match event:
            case Requested(Ticket()):
                return event
            case Requested(name):
                number = TicketId(len(self._names) + 1)
                self._names[number] = str(name)
                return Requested(Ticket(number, str(name).rstrip("0123456789"), self.now))
            case Abandoned(str(name)):
                return Abandoned(next(number for number, known in self._names.items() if known == name))
            case Released(name) if name in self._granted:
                return Released(self._end_lease(str(name)))
            case Released(name):
                return Released(self._runs[str(name)].id)
            case BecameReady(name) | Exited(name):
                return replace(event, run=self._runs[str(name)].id)
            case _:
                return event

    def _end_lease(self, ticket: str) -> int:
        granted = self._granted.pop(ticket).id
        for run in self.fleet.runs:
            if run.id == granted:
                self.fleet = self.fleet.recounted({run.id: Count(run.leases - 1, self.now, run.gap)})
        return granted

    def _name(self, ticket: TicketId) -> str | TicketId:
        """What a request is called; it may have come as the ticket that it is."""
        return self._names.get(ticket, ticket)

    def _named(self, action: Action) -> Action:
        models = {run.id: name for name, run in self._runs.items()}
        match action:
            case Spawn(run):
                return Spawn(run.model.id)
            case Terminate(run):
                return Terminate(models[run])
            case Grant(ticket, run):
                return Grant(self._name(ticket), models[run])
            case Refuse(ticket, error):
                return Refuse(self._name(ticket), type(error))
            case _:
                return action
