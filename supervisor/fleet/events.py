"""What happened, as the planner is told. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Config
    from supervisor.errors import Failure
    from supervisor.fleet.memory import DeviceId, Measured, Reading
    from supervisor.fleet.queue import Ticket, TicketId
    from supervisor.fleet.values import RunId


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
