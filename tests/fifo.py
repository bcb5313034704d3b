"""First come, first served: what plain swapping makes of the same clients, worked out without starting anything.

Nobody is let through before who came earlier; when the model of the first in line has no place, the one used longest
ago that is idle leaves for it, and until it is loaded all wait.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Call(NamedTuple):
    """One request of a client: how long it thinks before, whom it asks, and how long the answer takes."""

    pause: float
    model: str
    work: float


@dataclass
class Fifo:
    """The line, the places, and what came of it."""

    clients: Sequence[Sequence[Call]]
    """Closed loops: each asks again once it was answered."""
    places: int
    load: float
    """Seconds to load a model."""
    waits: list[float] = field(default_factory=list)
    loads: int = 0

    def run(self, seconds: float) -> Fifo:
        """So long, or until every client has nothing more to ask."""
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._line: deque[tuple[float, Call, int]] = deque()
        self._busy: dict[str, int] = {}
        self._used: dict[str, float] = {}
        self._is_loading = False
        self._todo = [deque(calls) for calls in self.clients]
        for client in range(len(self.clients)):
            self._think(client)
        while self._events and self._events[0][0] <= seconds:
            self._now, _, happens = heapq.heappop(self._events)
            happens()
            self._serve()
        return self

    def _at(self, after: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + after, next(self._numbers), happens))

    def _think(self, client: int) -> None:
        if self._todo[client]:
            call = self._todo[client].popleft()
            self._at(call.pause, lambda: self._line.append((self._now, call, client)))

    def _serve(self) -> None:
        while self._line and not self._is_loading:
            since, call, client = self._line[0]
            if call.model in self._busy:
                self._line.popleft()
                self._busy[call.model] += 1
                self.waits.append(self._now - since)
                self._at(call.work, lambda call=call, client=client: self._answer(call, client))  # type: ignore[misc]
            elif not self._make_room():
                return
            else:
                self._is_loading = True
                self.loads += 1
                self._at(self.load, lambda model=call.model: self._loaded(model))  # type: ignore[misc]

    def _make_room(self) -> bool:
        if len(self._busy) < self.places:
            return True
        idle = [model for model, requests in self._busy.items() if not requests]
        if idle:
            del self._busy[min(idle, key=lambda model: self._used[model])]
        return bool(idle)

    def _loaded(self, model: str) -> None:
        self._is_loading = False
        self._busy[model], self._used[model] = 0, self._now

    def _answer(self, call: Call, client: int) -> None:
        self._busy[call.model] -= 1
        self._used[call.model] = self._now
        self._think(client)
