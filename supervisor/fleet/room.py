"""How much there is of everything, and what some runs leave of it: budgets, and the machine's own reading."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from supervisor.fleet.memory import HOST, budgets
from supervisor.fleet.values import PLACES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.fleet.memory import DeviceId, Footprint
    from supervisor.fleet.values import Amounts, Fleet, Run


class Room:
    """What some runs leave of the limits. What has no limit is endless; a file that several map counts once."""

    __slots__ = ("_files", "_free", "limits")

    def __init__(self, limits: Amounts, holders: Iterable[Footprint] = ()) -> None:
        self.limits = limits
        self._free = dict(limits)
        self._files: dict[str, tuple[int, ...]] = {}
        for holder in holders:
            self.take(holder)

    def copy(self) -> Room:
        """The same as it is now, whatever becomes of this one."""
        room = Room(self.limits)
        room._free = dict(self._free)
        room._files = dict(self._files)
        return room

    def free(self, name: str) -> int | None:
        """What is left of this, below zero if there is too little; None: it has no limit."""
        return self._free.get(name)

    def over(self) -> dict[str, int]:
        """By how much more of each resource is taken than there is."""
        return {name: -free for name, free in self._free.items() if free < 0}

    def fits(self, footprint: Footprint) -> bool:
        """Whether it lacks nothing."""
        free = self._free
        if free.get(PLACES, 1) < 1:
            return False
        for name, amount in footprint.amounts.items():
            if amount and amount > free.get(name, amount):
                return False
        if not footprint.shared or HOST not in free:
            return True
        needed = footprint.amounts.get(HOST, 0) + self._new_of(footprint.shared)
        return not needed or needed <= free[HOST]

    def lacks(self, footprint: Footprint) -> dict[str, int]:
        """By how much each resource is too small; empty: it fits."""
        free = self._free
        return {name: amount - free[name] for name, amount in self.need(footprint).items() if amount > free[name]}

    def need(self, footprint: Footprint) -> dict[str, int]:
        """What it would take of everything that has a limit."""
        needed = {PLACES: 1, **footprint.amounts}
        if footprint.shared:
            needed[HOST] = needed.get(HOST, 0) + self._new_of(footprint.shared)
        return {name: amount for name, amount in needed.items() if amount and name in self._free}

    def take(self, footprint: Footprint) -> None:
        """One more lives here."""
        self._count(footprint, 1)
        for file, size in footprint.shared.items():
            self._files[file] = (*self._files.get(file, ()), size)

    def give_back(self, footprint: Footprint) -> None:
        """One that lived here is gone."""
        for file, size in footprint.shared.items():
            self._files[file] = _less_one(self._files[file], size)
        self._count(footprint, -1)

    def _count(self, footprint: Footprint, sign: int) -> None:
        """What `need` says, without the trouble of saying it: all that lives here is counted many times a step."""
        free = self._free
        if PLACES in free:
            free[PLACES] -= sign
        for name, amount in footprint.amounts.items():
            if name in free:
                free[name] -= sign * amount
        if footprint.shared and HOST in free:
            free[HOST] -= sign * self._new_of(footprint.shared)

    def _new_of(self, files: Mapping[str, int]) -> int:
        """How much of them nobody has mapped yet."""
        mapped = self._files
        new = 0
        for file, size in files.items():
            held = mapped.get(file)
            new += max(0, size - max(held)) if held else size
        return new

    def hold(self, footprint: Footprint) -> None:
        """Keep others from what it lacks, until it can take it."""
        needed = self.need(footprint)
        for name in self.lacks(footprint):
            self._free[name] -= needed[name]

    def spare(self, footprint: Footprint) -> float:
        """What is left of the fullest GPU once it is here; infinity if it takes none."""
        left = (
            self._free[name] - amount for name, amount in self.need(footprint).items() if name not in {PLACES, HOST}
        )
        return min(left, default=inf)


def _less_one(sizes: tuple[int, ...], size: int) -> tuple[int, ...]:
    place = sizes.index(size)
    return sizes[:place] + sizes[place + 1 :]


def takes(footprint: Footprint) -> set[str]:
    """The resources that a run with this footprint holds."""
    host = {HOST} if footprint.shared else set()
    return {PLACES, *host, *(name for name, amount in footprint.amounts.items() if amount)}


def holds(footprint: Footprint, name: str) -> int:
    """How much of this resource it holds, or shares, at most."""
    return 1 if name == PLACES else footprint.amounts.get(name, 0) + (sum(footprint.shared.values()) * (name == HOST))


def limits(fleet: Fleet, now: float, *, by_reading: bool = True) -> dict[str, int]:
    """What all runs together may take: budgets, and of every device no more than others leave.

    What our own runs hold was free before them: where the machine tells how much that is, by what it tells, else by the
    ledger, for those that were ready when it was asked.
    """
    server, memory, books = fleet.config.server, fleet.config.memory, fleet.books
    found = {} if server.max_loaded is None else {PLACES: server.max_loaded}
    if memory is None or books.reading is None:
        return found
    found |= budgets(books.reading.devices, reserve=memory.reserve, asked=memory.budget)
    if by_reading and books.are_fresh(now):
        ours = _in_reading(fleet.runs, books.held, books.read_at)
        for name, free in books.reading.free.items():
            kept = 0 if name in memory.budget else memory.reserve
            found[name] = min(found.get(name, free), max(0, free - kept + ours.get(name, 0)))
    return found


def expected_limits(fleet: Fleet, now: float) -> dict[str, int]:
    """What they may take once the machine has given back what processes held that are gone."""
    return limits(fleet, now, by_reading=not fleet.books.are_settling(now))


def _in_reading(runs: Iterable[Run], held: Mapping[int, Mapping[DeviceId, int]], at: float) -> dict[DeviceId, int]:
    """What our runs held when the machine was asked; pages of files they map count as free there."""
    total: dict[DeviceId, int] = {}
    for run in runs:
        was_ready = run.ready_at is not None and run.ready_at <= at
        known = run.footprint.amounts if was_ready else {}
        if run.id in held:
            known = {**known, **held[run.id]}
        for name, amount in known.items():
            total[name] = total.get(name, 0) + amount
    return total
