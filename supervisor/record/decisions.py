"""The last decisions of the planner, for who asks why."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.fleet.decisions import Decision

MOST = 500


class Decided(NamedTuple):
    """A decision and when it was made, in seconds since the epoch."""

    at: float
    decision: Decision

    def as_json(self) -> dict[str, object]:
        kind, model, reason, others = (
            self.decision.kind.value,
            self.decision.model,
            self.decision.reason,
            list(self.decision.others),
        )
        return {"at": round(self.at, 3), "kind": kind, "model": model, "reason": reason, "others": others}


class Decisions:
    """The last ones, oldest first."""

    def __init__(self, most: int = MOST) -> None:
        self._last: deque[Decided] = deque(maxlen=most)

    def add(self, decision: Decision) -> Decided:
        """One more was made."""
        decided = Decided(time.time(), decision)
        self._last.append(decided)
        return decided

    def of(self, model: str, most: int) -> list[Decided]:
        """The last ones that were made for this model or done to it."""
        concerned = [each for each in self if model == each.decision.model or model in each.decision.others]
        return concerned[-most:]

    def __iter__(self) -> Iterator[Decided]:
        return iter(self._last)
