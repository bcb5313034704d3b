"""A thread that writes: whatever a slow disk or a pipe that nobody reads does, who gives it something never waits."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

Place = TypeVar("Place")
Item = TypeVar("Item")

LAST_SECONDS = 1.0
"""How long the end of the service waits for what is still to be written."""


def dropped(count: int) -> str:
    """What stands in a log where a reader was too slow, as in llama-swap's; nothing if nothing is missing."""
    return f"\n— {count} bytes dropped —\n" if count else ""


@dataclass(slots=True)
class Lot(Generic[Item]):
    """What is to be written to one place."""

    items: list[Item] = field(default_factory=list)
    lost: int = 0
    """How much came after these and was too much."""


class Scribe(ABC, Generic[Place, Item]):
    """What waits to be written, in order and by its place; the rest of what is too much is dropped, and counted."""

    def __init__(self, name: str, *, most: int) -> None:
        self._most = most
        self._lots: dict[Place, Lot[Item]] = {}
        self._size = 0
        self._is_ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)  # it may hang in a write

    @abstractmethod
    def _write(self, place: Place, lot: Lot[Item]) -> None:
        """Write this, however long it takes; must not raise."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join(LAST_SECONDS)

    @property
    def waiting(self) -> int:
        """How much waits to be written."""
        return self._size

    def _give(self, place: Place, item: Item, size: int) -> None:
        """Write this, soon."""
        with self._changed:
            lot = self._lots.setdefault(place, Lot())
            if self._size + size > self._most:
                lot.lost += size
            else:
                lot.items.append(item)
                self._size += size
            self._changed.notify()

    def _run(self) -> None:
        while lots := self._next():
            for place, lot in lots.items():
                self._write(place, lot)

    def _next(self) -> dict[Place, Lot[Item]]:
        """What waits; nothing when that is the end."""
        with self._changed:
            while not self._lots and not self._is_ending:
                self._changed.wait()
            lots, self._lots, self._size = self._lots, {}, 0
        return lots
