"""What the planner decided and why: values that are told to people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What was decided."""

    STARTED = "started"
    EVICTED = "evicted"
    KEPT = "kept"
    """What was to leave stays after all."""
    WAITED = "waited"
    REFUSED = "refused"
    RETRIED = "retried"
    RETIRED = "retired"
    """Unloaded because nobody used it."""
    CUT = "cut"
    """Ended though it still served requests."""
    UNLOADED = "unloaded"
    """Because somebody asked for that."""
    RELOADED = "reloaded"
    """What runs is not what another config says."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that was decided."""

    kind: Kind
    model: str
    """Whom it was done for."""
    reason: str
    """A whole sentence."""
    others: tuple[str, ...] = ()
    """Models it was done to."""
