"""Who leaves to make room: idle before busy, as cheap as can be, and never more than needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from itertools import chain, combinations, islice
from math import inf
from typing import TYPE_CHECKING

from supervisor.fleet.books import FIRST_GUESS
from supervisor.fleet.constraints import LOOKAHEAD
from supervisor.fleet.memory import Footprint
from supervisor.fleet.placing import Placement, Ways, best
from supervisor.fleet.room import Room, expected_limits, holds, limits, takes
from supervisor.fleet.staying import Turns
from supervisor.fleet.values import PLACES, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set

    from supervisor.fleet.values import Fleet, Run, RunId

WEIGHED = 6
"""Of so many runs all choices are weighed; of seven there would be twice as many."""
SHORTEST_GAP = 0.1
"""Seconds; nobody counts as used more often than this."""
SHORTEST_LOAD = 0.5
"""Seconds; loads that take less are all alike."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """Who leaves for one model, and the way it is placed then."""

    model: str
    """Empty: they leave because too much is taken as it is."""
    placement: Placement
    victims: tuple[Run, ...]
    room: Room = field(compare=False)
    """What there was for it before, once all had come who come first."""


def choose(
    fleet: Fleet, staying: Iterable[Run], coming: Sequence[str], *, marked: Set[RunId], now: float
) -> tuple[Eviction, ...]:
    """Who of these leaves for those who come, in their order; each finds what those before it leave.

    `marked` are the runs that were told to leave before: they go first, for their requests wait already.
    """
    return _Choice(fleet, staying, marked, now).of(coming)


def lingering(fleet: Fleet, model: str, now: float) -> frozenset[RunId]:
    """The idle runs that need not leave for this model yet: it waits for a busy one that is less of a loss."""
    staying = [run for run in fleet.runs if not run.is_leaving]
    return frozenset(run.id for run in _Choice(fleet, staying, frozenset(), now).lingering(model))


class _Choice:
    """The house as it will be once everybody has left who was chosen, and everybody has come for whom they leave."""

    def __init__(self, fleet: Fleet, staying: Iterable[Run], marked: Set[RunId], now: float) -> None:
        self._fleet = fleet
        self._marked = marked
        self._now = now
        self._losses = losses(fleet, now)
        within = expected_limits(fleet, now)
        self._ways = Ways(fleet, within)
        self._staying = sorted(staying, key=self._turn)
        self._movable = movable(fleet, self._staying)
        self._gone: set[RunId] = set()
        self._turns = Turns(fleet, self._staying)
        self._room = Room(within, (run.footprint for run in self._staying))

    def of(self, coming: Sequence[str]) -> tuple[Eviction, ...]:
        found = [*self._relief()]
        for name in coming[:LOOKAHEAD]:
            options = self._ways.of(name)
            placed = best(self._fleet, self._room, options)
            if placed is None and (eviction := self._cheapest(name, options)):
                found.append(eviction)
                placed = eviction.placement
                self._let_go(eviction.victims)
            self._room.take((placed or options[0]).footprint)
        return tuple(found)

    def lingering(self, name: str) -> Iterator[Run]:
        return self._dearer(name, self._ways.of(name), self._turns.going_on(name, self._now))

    def _relief(self) -> Iterator[Eviction]:
        """Runs have grown, or a limit was lowered: idle ones leave; where there are too many, busy ones too."""
        room = Room(limits(self._fleet, self._now, by_reading=False), (run.footprint for run in self._staying))
        if not room.over():
            return
        before, victims = room.copy(), []
        for run in self._staying:
            over = room.over().keys()
            is_wanted = run.leases > 0 or run.model.id in self._fleet.queue.wanted
            if run.model.pinned or not takes(run.footprint) & (over & {PLACES} if is_wanted else over):
                continue
            victims.append(run)
            room.give_back(run.footprint)
        self._let_go(victims)
        if victims:
            yield Eviction("", Placement(Footprint()), tuple(victims), before)

    def _let_go(self, victims: Iterable[Run]) -> None:
        for victim in victims:
            self._gone.add(victim.id)
            self._room.give_back(victim.footprint)

    def _cheapest(self, name: str, options: Sequence[Placement]) -> Eviction | None:
        own = self._fleet.queue.places[name]
        going_on = self._turns.going_on(name, self._now)
        spared = (*going_on, *self._dearer(name, options, going_on))
        left_out = {run.id for run in spared} - self._marked | self._gone

        def order() -> Iterator[Run]:
            return (run for place, run in self._movable if place >= own and run.id not in left_out)

        found = [(option, victims) for option in options if (victims := self._fewest(option.footprint, order))]
        if not found:
            return None
        option, victims = min(found, key=lambda each: self._price(each[1]))
        return Eviction(name, option, victims, self._room.copy())

    def _dearer(self, name: str, options: Sequence[Placement], going_on: Sequence[Run]) -> Iterator[Run]:
        """The idle ones that stay for a while: one that goes on would be less of a loss, and makes the same room."""
        idle = self._turns.lingering(name, self._now) if going_on else ()
        if not idle:
            return
        own = self._fleet.queue.places[name]
        movable = {run.id for place, run in self._movable if place >= own} - self._gone
        rivals = (
            self._losses[run.id]
            for run in going_on
            if run.id in movable and any(self._is_enough([run], option.footprint) for option in options)
        )
        least = min(rivals, default=inf)
        yield from (run for run in idle if self._losses[run.id] > least)

    def _fewest(self, footprint: Footprint, order: Callable[[], Iterator[Run]]) -> tuple[Run, ...]:
        """Victims none of which can stay; nobody where it would be no use.

        Of a few runs all choices are weighed; of many, several of the cheapest or one that is enough by itself.
        """
        few = [*islice(order(), WEIGHED + 1)]
        if len(few) <= WEIGHED:
            return min(self._enough(footprint, few), key=self._price, default=())
        several = self._several(footprint, order())
        if len(several) < 2:
            return several
        lacking = self._room.lacks(footprint)
        large = (run for run in order() if all(holds(run.footprint, name) >= lacking[name] for name in lacking))
        single = next((run for run in large if self._is_enough([run], footprint)), None)
        return several if single is None else min(several, (single,), key=self._price)

    def _enough(self, footprint: Footprint, order: Sequence[Run]) -> Iterator[tuple[Run, ...]]:
        """All choices that make room, less those that hold another one: they only cost more."""
        if not self._is_enough(order, footprint):
            return
        rest: list[Run] = []
        for run in order:
            if self._is_enough([run], footprint):
                yield (run,)
            else:
                rest.append(run)
        found: list[int] = []
        for mask, places in _choices(len(rest)):
            if any(mask & other == other for other in found):
                continue
            victims = tuple(rest[place] for place in places)
            if self._is_enough(victims, footprint):
                found.append(mask)
                yield victims

    def _several(self, footprint: Footprint, order: Iterable[Run]) -> tuple[Run, ...]:
        """From the cheapest on until there is room, less those who could have stayed, the dearest first."""
        chosen: list[Run] = []
        for run in order:
            chosen.append(run)
            self._room.give_back(run.footprint)
            if is_enough := self._room.fits(footprint):
                break
        else:
            is_enough = False
        for run in chosen[-2::-1] if is_enough else ():
            self._room.take(run.footprint)
            if self._room.fits(footprint):
                chosen.remove(run)
            else:
                self._room.give_back(run.footprint)
        for run in chosen:
            self._room.take(run.footprint)
        return tuple(chosen) if is_enough else ()

    def _is_enough(self, victims: Sequence[Run], footprint: Footprint) -> bool:
        for run in victims:
            self._room.give_back(run.footprint)
        is_enough = self._room.fits(footprint)
        for run in victims:
            self._room.take(run.footprint)
        return is_enough

    def _turn(self, run: Run) -> tuple[bool, bool, float, float, int]:
        """Idle before busy, those that were told to leave before others, then what costs least."""
        return run.leases > 0, run.id not in self._marked, self._losses[run.id], run.used_at, run.id

    def _price(self, victims: Sequence[Run]) -> tuple[int, float, int, float]:
        """How many are busy; what is lost with those who stayed so far; how many leave; when one was used last.

        Not first of all how many leave: two small ones that nobody misses would keep the large ones out for ever.
        """
        busy = sum(run.leases > 0 for run in victims)
        lost = sum(self._losses[run.id] for run in victims if run.id not in self._marked)
        return busy, lost, len(victims), max((run.used_at for run in victims), default=0.0)


@cache
def _choices(count: int) -> Sequence[tuple[int, tuple[int, ...]]]:
    """All choices of several of so many, first those of two: as bits, and as places."""
    each = (combinations(range(count), chosen) for chosen in range(2, count + 1))
    return [(sum(1 << place for place in places), places) for places in chain.from_iterable(each)]


def losses(fleet: Fleet, now: float) -> Mapping[RunId, float]:
    """Seconds of loading that the leaving of each run costs per second of time to come: its load, as often as used.

    How often is told by the usual gap between its visits, or by the present one once that is longer. Who has been used
    only once is taken for the rarest. Shares of the last visits, and counts that fade with time, told no better
    (`scripts/trace`).
    """
    rarest = max((run.gap for run in fleet.runs if run.gap is not None), default=0.0)
    return {run.id: _loss(fleet, run, rarest if run.gap is None else run.gap, now) for run in fleet.runs}


def _loss(fleet: Fleet, run: Run, gap: float, now: float) -> float:
    habit = fleet.habits.get(run.model.id)
    load = habit.load_seconds if habit is not None and habit.load_seconds is not None else FIRST_GUESS
    return max(load, SHORTEST_LOAD) / max(now - run.used_at, gap, SHORTEST_GAP)


def movable(fleet: Fleet, runs: Iterable[Run]) -> list[tuple[float, Run]]:
    """Never pinned, no load that somebody waits for; each with the place of who waits for it.

    It leaves for nobody whose place is further back.
    """
    places = fleet.queue.places
    return [
        (places.get(run.model.id, inf), run)
        for run in runs
        if not run.model.pinned and not (run.phase is Phase.STARTING and run.model.id in places)
    ]
