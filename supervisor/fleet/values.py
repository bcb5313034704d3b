"""The planner's vocabulary: what runs, who waits, what happened (events) and what to do (actions). Values only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, NamedTuple, NewType, TypeAlias

from supervisor.fleet.books import Books
from supervisor.fleet.memory import Footprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.config.values import Config, Model
    from supervisor.errors import Failure, SupervisorError
    from supervisor.fleet.books import Habit
    from supervisor.fleet.decisions import Decision
    from supervisor.fleet.memory import DeviceId, Measured, Reading

RunId = NewType("RunId", int)
TicketId = NewType("TicketId", int)

Amounts: TypeAlias = "Mapping[str, int]"
"""How much of each resource: bytes of devices, and `PLACES`."""

PLACES = "models"
"""The resource that `max_loaded` limits: every run takes one."""


class Phase(Enum):
    """Where a run is in its life. A model without a run is cold."""

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


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request that waits for a run of its model."""

    id: TicketId
    model: str
    since: float


class Count(NamedTuple):
    """How a run is used, as it is counted outside the planner."""

    leases: int
    used_at: float
    gap: float | None = None


class Queue(tuple[Ticket, ...]):
    """Who waits, in the order of their turns. What the rules ask of it is counted once per queue, not once per rule."""

    @cached_property
    def wanted(self) -> Mapping[str, int]:
        """The models somebody waits for, in queue order, and how many do."""
        counts: dict[str, int] = {}
        for ticket in self:
            counts[ticket.model] = counts.get(ticket.model, 0) + 1
        return counts

    @cached_property
    def since(self) -> Mapping[str, float]:
        """When the first of those who wait for a model came."""
        found: dict[str, float] = {}
        for ticket in self:
            if ticket.since < found.get(ticket.model, inf):
                found[ticket.model] = ticket.since
        return found

    @cached_property
    def arrivals(self) -> Mapping[str, float]:
        """The sum of the times at which those who wait for a model came."""
        sums: dict[str, float] = {}
        for ticket in self:
            sums[ticket.model] = sums.get(ticket.model, 0.0) + ticket.since
        return sums

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The models somebody waits for, and how many of them come before."""
        return {model: place for place, model in enumerate(self.wanted)}

    def with_last(self, ticket: Ticket) -> Queue:
        """The queue with one more at its end."""
        queue = Queue((*self, ticket))
        queue.__dict__["wanted"] = {**self.wanted, ticket.model: self.wanted.get(ticket.model, 0) + 1}
        queue.__dict__["since"] = {ticket.model: ticket.since, **self.since}
        return queue

    def without(self, gone: Iterable[TicketId]) -> Queue:
        """The queue without these."""
        left = frozenset(gone)
        return Queue(ticket for ticket in self if ticket.id not in left)


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


# Events: what happened.


@dataclass(frozen=True, slots=True)
class Requested:
    """A request arrived that could not be served on the spot."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A waiting request's client went away."""

    ticket: TicketId


@dataclass(frozen=True, slots=True)
class Released:
    """A lease ended while somebody waits or the run is retiring."""

    run: RunId


@dataclass(frozen=True, slots=True)
class BecameReady:
    """A child says that it can serve."""

    run: RunId


@dataclass(frozen=True, slots=True)
class Exited:
    """A process is gone and its resources with it; `failure` when we did not ask for that."""

    run: RunId
    failure: Failure | None = None
    jitter: float = 0.0
    """Random, 0 to 1: spreads the next tries of models that failed together."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A look at a model without starting it found this; None: nothing, or its files have changed since."""

    model: str
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class UnloadAsked:
    """Somebody wants a model (None: all) out of memory; `force` does not wait for its requests."""

    model: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """Another config holds from now on."""

    config: Config


@dataclass(frozen=True, slots=True)
class Closing:
    """The service is going down."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The machine was asked what memory is free; None: it does not say."""

    reading: Reading | None
    held: Mapping[int, Mapping[DeviceId, int]] = field(default_factory=dict)
    """What our processes were seen to hold at that moment."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = (
    "Requested | Abandoned | Released | BecameReady | Exited | Checked | UnloadAsked | Reconfigured | Measured"
    " | Observed | Closing | Tick"
)

# Actions: what to do.


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the child of this run."""

    run: Run


@dataclass(frozen=True, slots=True)
class Terminate:
    """End the child of this run; requests it still serves are cut."""

    run: RunId


@dataclass(frozen=True, slots=True)
class Grant:
    """Let this request through to this run, and count the lease."""

    ticket: TicketId
    run: RunId


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer this request with an error."""

    ticket: TicketId
    error: SupervisorError


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the machine what memory is free, and say so with `Observed`."""


@dataclass(frozen=True, slots=True)
class Load:
    """Ask for this model as a client would."""

    model: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Let it be known what was decided, and why."""

    decision: Decision


Action: TypeAlias = Spawn | Terminate | Grant | Refuse | Look | Load | Tell
