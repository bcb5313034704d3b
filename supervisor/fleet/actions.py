"""What the planner wants done. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from supervisor.errors import SupervisorError
    from supervisor.fleet.decisions import Decision
    from supervisor.fleet.queue import TicketId
    from supervisor.fleet.values import Run, RunId


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
