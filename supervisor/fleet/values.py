"""What the planner knows: what runs, how starts went, and all of it together. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, NewType, TypeAlias

from supervisor.fleet.books import Books
from supervisor.fleet.memory import Footprint
from supervisor.fleet.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Config, Model
    from supervisor.errors import Failure
    from supervisor.fleet.books import Habit
    from supervisor.fleet.memory import DeviceId

RunId = NewType("RunId", int)

Amounts: TypeAlias = "Mapping[str, int]"
"""How much of each resource: bytes of devices, and `PLACES`."""

PLACES = "models"
"""The resource that `max_loaded` limits: every run takes one."""


class Phase(Enum):
    """Where a run is in its life, in llama-swap's words. A model without a run is cold."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class Reason(Enum):
    """Why a run takes no new leases and leaves when its last one ends."""

    IDLE = "idle"
    EVICTED = "evicted"
    UNLOADED = "unloaded"
    RELOADED = "reloaded"
    """Its model is another one in the config now, or none, or has no place any more."""
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Run:
    """One child process, from the decision to spawn it until it is gone."""

    id: RunId
    model: Model
    phase: Phase
    started_at: float
    used_at: float
    leases: int = 0
    retiring: Reason | None = None
    cut_at: float | None = None
    """When its leases are no longer waited for."""
    footprint: Footprint = field(default_factory=Footprint)
    """What it takes of every device."""
    devices: tuple[DeviceId, ...] = ()
    """Where the planner has put it; empty: where its own options say, or wherever there is."""
    ready_at: float | None = None
    gap: float | None = None
    """Seconds between two visits, as in `Habit`."""

    @property
    def is_open(self) -> bool:
        """Whether it may be given another lease at all."""
        return self.phase is Phase.READY and self.retiring is None

    @property
    def is_full(self) -> bool:
        return self.model.concurrency is not None and self.leases >= self.model.concurrency

    @property
    def is_leaving(self) -> bool:
        """Whether its memory comes back without anybody doing more."""
        return self.retiring is not None or self.phase is Phase.STOPPING


class Count(NamedTuple):
    """How a run is used, as it is counted outside the planner."""

    leases: int
    used_at: float
    gap: float | None = None


@dataclass(frozen=True, slots=True)
class Breaker:
    """What a model's failures mean for its next start."""

    failed: int = 0
    """Starts in a row that failed for a reason that may pass."""
    crashes: tuple[float, ...] = ()
    """When its child died while serving, of late."""
    retry_at: float = 0.0
    """When another start may be tried; infinity: not before something changes."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything the planner knows."""

    config: Config
    runs: tuple[Run, ...] = ()
    queue: Queue = field(default_factory=Queue)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """The last failure of each model that has not become ready since."""
    breakers: Mapping[str, Breaker] = field(default_factory=dict)
    books: Books = field(default_factory=Books)
    habits: Mapping[str, Habit] = field(default_factory=dict)
    corrected: frozenset[str] = frozenset()
    """Models whose last start ran out of memory against the books, and that are tried once more."""
    going_home: bool = False
    """Whether the model that is to be there when nothing is asked for has been sent for."""
    spawned: int = 0
    closing: bool = False

    def run_of(self, model: str) -> Run | None:
        """The run that serves or will serve this model: the one that is not leaving, else the youngest leaving one."""
        found = None
        for run in self.runs:
            if run.model.id == model:
                if not run.is_leaving:
                    return run
                found = run
        return found

    def by_model(self) -> Mapping[str, Run]:
        """`run_of` every model that has one."""
        found: dict[str, Run] = {}
        for run in self.runs:
            other = found.get(run.model.id)
            if other is None or other.is_leaving:
                found[run.model.id] = run
        return found

    def with_run(self, run: Run) -> Fleet:
        """The same fleet with this run in the place of its former self."""
        return replace(self, runs=tuple(run if run.id == old.id else old for old in self.runs))

    def recounted(self, counts: Mapping[RunId, Count]) -> Fleet:
        """The same fleet with leases, last use and the gap between visits as they were counted outside the planner."""
        return replace(self, runs=tuple(_recounted(run, counts.get(run.id)) for run in self.runs))

    def __repr__(self) -> str:
        phases = [run.phase for run in self.runs]
        counts = ", ".join(f"{phases.count(phase)} {phase.value}" for phase in Phase if phase in phases)
        return f"<Fleet [{counts or 'cold'} | {len(self.queue)} queued{' | closing' if self.closing else ''}]>"


def _recounted(run: Run, count: Count | None) -> Run:
    return run if count is None else replace(run, leases=count.leases, used_at=count.used_at, gap=count.gap)
