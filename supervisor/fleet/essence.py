"""What the planner reads of its values, and nothing else: what is enough to decide the same again, and holds no secret.

Of what a process is started with the planner wants to know no more than whether that has changed; a version says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.config.changes import needs_another_run
from supervisor.config.values import Config, Model, Server
from supervisor.errors import ModelFailed
from supervisor.fleet.actions import Refuse, Spawn
from supervisor.fleet.events import Checked, Exited, Reconfigured
from supervisor.fleet.memory import Measured

if TYPE_CHECKING:
    from supervisor.errors import Failure
    from supervisor.fleet.actions import Action
    from supervisor.fleet.events import Event
    from supervisor.fleet.memory import Footprint
    from supervisor.fleet.values import Fleet, Run

_SERVER = ("max_loaded", "max_queue", "max_wait", "min_residency", "drain_timeout", "on_idle")


class Essence:
    """Remembers which processes and files it has seen, so that equal ones are equal afterwards."""

    def __init__(self) -> None:
        self._versions: dict[str, list[Model]] = {}
        self._files: dict[str, str] = {}

    def fleet(self, fleet: Fleet) -> Fleet:
        """All that decides."""
        return replace(
            fleet,
            config=self.config(fleet.config),
            runs=tuple(map(self.run, fleet.runs)),
            failures={name: failure_of(failure) for name, failure in fleet.failures.items()},
            books=replace(
                fleet.books,
                footprints={name: self.footprint(each) for name, each in fleet.books.footprints.items()},
            ),
        )

    def event(self, event: Event) -> Event:
        """What happened."""
        match event:
            case Reconfigured(config):
                return Reconfigured(self.config(config))
            case Exited(failure=failure) | Checked(failure=failure) if failure is not None:
                return replace(event, failure=failure_of(failure))
            case Measured(model, footprint):
                return Measured(model, self.footprint(footprint))
            case _:
                return event

    def action(self, action: Action) -> Action:
        """What came out."""
        match action:
            case Spawn(run):
                return Spawn(self.run(run))
            case Refuse(ticket, ModelFailed() as error):
                return Refuse(ticket, ModelFailed(failure_of(error.failure), retry_after=error.retry_after))
            case _:
                return action

    def config(self, config: Config) -> Config:
        """Models and rules; neither keys, nor names, nor what others read."""
        return Config(
            Path(),
            Server(**{name: getattr(config.server, name) for name in _SERVER}),
            {name: self.model(model) for name, model in config.models.items()},
            routing=config.routing,
            memory=config.memory,
            priorities=config.priorities,
        )

    def run(self, run: Run) -> Run:
        """A process."""
        return replace(run, model=self.model(run.model), footprint=self.footprint(run.footprint))

    def model(self, model: Model) -> Model:
        """Its version stands where its command was."""
        version = self._version(model)
        return Model(
            model.id,
            options=dict.fromkeys(model.options, True),
            binary=None if model.cmd else version,
            cmd=(version,) if model.cmd else (),
            port=model.port,
            ttl=model.ttl,
            pinned=model.pinned,
            concurrency=model.concurrency,
            overload=model.overload,
        )

    def footprint(self, footprint: Footprint) -> Footprint:
        """Files go by numbers: all that counts is which are the same."""
        shared = {
            self._files.setdefault(file, f"file {len(self._files) + 1}"): size
            for file, size in footprint.shared.items()
        }
        return replace(footprint, shared=shared, parts=())

    def _version(self, model: Model) -> str:
        """The same for all that one process can serve."""
        known = self._versions.setdefault(model.id, [])
        for number, other in enumerate(known, 1):
            if not needs_another_run(other, model):
                return f"version {number}"
        known.append(model)
        return f"version {len(known)}"


def failure_of(failure: Failure) -> Failure:
    """The report without what the child printed and how it was started."""
    return replace(failure, evidence=(), stderr_tail=(), command=())
