"""One step of the planner, as a log keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.fleet.actions import Action
    from supervisor.fleet.events import Event
    from supervisor.fleet.values import Fleet


@dataclass(frozen=True, slots=True)
class Step:
    """What the planner was told, and what it said."""

    now: float
    before: Fleet
    """With leases as they were counted."""
    event: Event
    actions: tuple[Action, ...]
