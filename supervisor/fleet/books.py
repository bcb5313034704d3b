"""What the planner knows of memory and of how models are used: footprints, the machine's own reading, and habits.

A model starts where its footprint fits by both books: by the ledger, which knows what every living run was measured or
estimated to take, and by the machine, which knows what others take.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.fleet.memory import DeviceId, Footprint, Reading

SETTLE_SECONDS = 2.0
"""How long the driver may take to give back what a process held; then what it reports is believed."""
LOOK_EVERY = 0.05
"""Seconds between two looks while memory is expected to come back."""
STALE_SECONDS = 1.0
"""What was read earlier says nothing about now: others on this machine take and give back as they like."""

STEADINESS = 0.8
"""How much of a model's usual gap is kept when another one is counted in."""
FIRST_GUESS = 1.0
"""Seconds to load a model that has not been loaded yet."""


@dataclass(frozen=True, slots=True)
class Books:
    """The memory of the house."""

    footprints: Mapping[str, Footprint] = field(default_factory=dict)
    """What a run of a model takes, by model; who is not here has not been looked at."""
    reading: Reading | None = None
    read_at: float = -inf
    held: Mapping[int, Mapping[DeviceId, int]] = field(default_factory=dict)
    """What processes were seen to hold when it was taken, by run."""
    freed_at: float = -inf
    """When a process that held memory has gone."""
    is_looking: bool = False

    def observed(self, reading: Reading | None, held: Mapping[int, Mapping[DeviceId, int]], now: float) -> Books:
        """The books after a look. Where the machine does not answer, the ledger decides alone."""
        if reading is None and self.reading is not None:
            reading = replace(self.reading, free={})
        return replace(self, reading=reading, held=held, read_at=now, is_looking=False)

    def are_fresh(self, now: float) -> bool:
        """Whether the reading tells what is free now."""
        return self.read_at >= self.freed_at and now - self.read_at <= STALE_SECONDS

    def are_settling(self, now: float) -> bool:
        """Whether more may come back without anybody doing more."""
        return now < self.freed_at + SETTLE_SECONDS


@dataclass(frozen=True, slots=True)
class Habit:
    """How a model is used, whether it is loaded or not."""

    used_at: float
    gap: float | None = None
    """Seconds from the end of one visit to the next, as a moving average; requests in a row are one visit."""
    load_seconds: float | None = None
    """What its last load took."""
    devices: tuple[DeviceId, ...] = ()
    """Where the planner put it last."""

    def visited(self, now: float) -> Habit:
        """The habit with one more visit in it."""
        return replace(self, gap=usual_gap(self.gap, now - self.used_at))


def usual_gap(gap: float | None, latest: float) -> float:
    """The moving average with one more gap in it."""
    return latest if gap is None else STEADINESS * gap + (1 - STEADINESS) * latest
