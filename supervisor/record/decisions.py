"""The last decisions of the planner, for who asks why."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.fleet.decisions import Decision

MOST = 500


class Decided(NamedTuple):
    """A decision and when it was made, in seconds since the epoch."""

    at: float
    decision: Decision
    times: int = 1
    """How often in a row, of all that was decided about this model."""

    def as_json(self) -> dict[str, object]:
        kind, model, reason, others = (
            self.decision.kind.value,
            self.decision.model,
            self.decision.reason,
            list(self.decision.others),
        )
        told = {"at": round(self.at, 3), "kind": kind, "model": model, "reason": reason, "others": others}
        return {**told, "times": self.times}


class Decisions:
    """The last ones, oldest first. The same about a model once more is counted, so that it drives out no other."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._numbers = count()
        self._last: dict[int, Decided] = {}
        self._last_of: dict[str, int] = {}
        """The number of the last one about each model."""

    def add(self, decision: Decision) -> Decided:
        """One more was made."""
        before = self._last.get(self._last_of.get(decision.model, -1))
        is_again = before is not None and before.decision == decision
        decided = Decided(time.time(), decision, before.times + 1 if before is not None and is_again else 1)
        if is_again:
            del self._last[self._last_of[decision.model]]
        elif len(self._last) >= self._most:
            del self._last[next(iter(self._last))]
        number = next(self._numbers)
        self._last[number] = decided
        self._last_of |= dict.fromkeys((decision.model, *decision.others), number)
        return decided

    def __iter__(self) -> Iterator[Decided]:
        return iter(self._last.values())
