"""A request's hold on a run: while it lasts the run stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.runtime.live import LiveRun


class Lease:
    """A counted hold on a run, given back by hand or on leaving its `with` block."""

    __slots__ = ("_give_back", "run")

    def __init__(self, run: LiveRun, give_back: Callable[[LiveRun], None]) -> None:
        self.run = run
        self._give_back = give_back

    def give_back(self) -> None:
        """End the hold; once."""
        self._give_back(self.run)

    def __enter__(self) -> LiveRun:
        return self.run

    def __exit__(self, *_: object) -> None:
        self._give_back(self.run)
