"""Who waits, in the order of their turns.

The queue is never sorted or counted as a whole: one more takes its place, who has waited for too long goes before all
others, and what the rules ask of it is carried along. It may be long, and it changes with almost every event.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, NewType, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

TicketId = NewType("TicketId", int)
Turn: TypeAlias = "tuple[float, float, TicketId]"

CLOSEST = 64
"""How many models of those that are waited for are looked at for who has waited for too long."""
FIRST = -inf
"""The rank of who has waited for longer than anybody should."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request that waits for a run of its model."""

    id: TicketId
    model: str
    since: float
    rank: float = 0.0
    """The lower goes before the higher, whoever came first."""

    @property
    def turn(self) -> Turn:
        """By what those who wait are in order."""
        return self.rank, self.since, self.id


@dataclass(frozen=True, slots=True)
class Crowd:
    """All who wait for one model, in order of `turn`, which among them is that of arrival."""

    tickets: tuple[Ticket, ...] = ()
    arrivals: float = 0.0
    """The sum of the times at which they came."""

    @property
    def count(self) -> int:
        return len(self.tickets)

    @property
    def first(self) -> Ticket:
        return self.tickets[0]

    def before(self, turn: Turn | None, most: int | None) -> tuple[Ticket, ...]:
        """Those whose turn is before this one, if there is one, and no more than so many."""
        end = self.count if turn is None else bisect_left(self.tickets, turn, key=_turn)
        return self.tickets[: end if most is None else min(end, most)]

    def with_one(self, ticket: Ticket) -> Crowd:
        tickets = list(self.tickets)
        insort(tickets, ticket, key=_turn)
        return Crowd(tuple(tickets), self.arrivals + ticket.since)

    def without(self, gone: Collection[Ticket]) -> Crowd:
        return Crowd(tuple(_less(self.tickets, gone)), self.arrivals - sum(ticket.since for ticket in gone))

    def with_first(self, late: Sequence[Ticket]) -> Crowd:
        """The same people; these, who have waited for longest of those that were not first yet, are so now."""
        start = bisect_right(self.tickets, FIRST, key=_rank)
        return Crowd((*self.tickets[:start], *late, *self.tickets[start + len(late) :]), self.arrivals)


class Queue(tuple[Ticket, ...]):
    """Who waits, in order of `turn`. All that wait for one model have its rank, but for those that are first by now."""

    @classmethod
    def of(cls, tickets: Iterable[Ticket]) -> Queue:
        """The queue of these."""
        return cls(sorted(tickets, key=_turn))

    @cached_property
    def wanted(self) -> dict[str, Crowd]:
        """The models somebody waits for, in queue order, and who does."""
        crowds: dict[str, list[Ticket]] = {}
        for ticket in self:
            crowds.setdefault(ticket.model, []).append(ticket)
        return {model: Crowd(tuple(those), sum(each.since for each in those)) for model, those in crowds.items()}

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The models somebody waits for, and how many of them come before."""
        return {model: place for place, model in enumerate(self.wanted)}

    def waiting_for(self, model: str) -> int:
        """How many wait for it."""
        return self.wanted[model].count if model in self.wanted else 0

    def counts(self) -> dict[str, int]:
        """How many wait for each model."""
        return {model: crowd.count for model, crowd in self.wanted.items()}

    def with_one(self, ticket: Ticket) -> Queue:
        """The queue with one more in its place."""
        whole = list(self)
        insort(whole, ticket, key=_turn)
        return self._changed(whole, {ticket.model: self.wanted.get(ticket.model, Crowd()).with_one(ticket)})

    def with_first(self, arrived_by: float) -> Queue:
        """The queue in which those go before all others who came by then."""
        start = first = bisect_right(self, FIRST, key=_rank)
        late: list[Ticket] = []
        left: list[slice] = []
        while start < len(self):
            end = bisect_right(self, self[start].rank, lo=start, key=_rank)
            left.append(slice(start, bisect_right(self, arrived_by, lo=start, hi=end, key=_since)))
            late += (replace(ticket, rank=FIRST) for ticket in self[left[-1]])
            start = end
        if not late:
            return self
        late.sort(key=_turn)
        whole = list(self)
        for span in reversed(left):
            del whole[span]
        place = bisect_right(whole, late[0].turn, hi=first, key=_turn)
        whole[place:first] = sorted((*whole[place:first], *late), key=_turn)
        by_model: dict[str, list[Ticket]] = {}
        for ticket in late:
            by_model.setdefault(ticket.model, []).append(ticket)
        return self._changed(whole, {model: self.wanted[model].with_first(each) for model, each in by_model.items()})

    def without(self, gone: Collection[Ticket]) -> Queue:
        """The queue without these, who are in it."""
        by_model: dict[str, list[Ticket]] = {}
        for ticket in gone:
            by_model.setdefault(ticket.model, []).append(ticket)
        changed = {model: self.wanted[model].without(each) for model, each in by_model.items()}
        return self._changed(_less(self, gone), changed)

    def _changed(self, whole: Iterable[Ticket], crowds: Mapping[str, Crowd]) -> Queue:
        """A queue of these, in which so many crowds are others than in this one."""
        queue = Queue(whole)
        moved = {
            model: crowd
            for model, crowd in crowds.items()
            if model not in self.wanted or not crowd.count or crowd.first.turn != self.wanted[model].first.turn
        }
        if moved:
            entries = [entry for entry in {**self.wanted, **crowds}.items() if entry[0] not in moved]
            for entry in moved.items():
                if entry[1].count:
                    insort(entries, entry, key=lambda entry: entry[1].first.turn)
            queue.__dict__.update(wanted=dict(entries))
        else:
            queue.__dict__.update(wanted={**self.wanted, **crowds}, places=self.places)
        return queue


_turn, _rank, _since = attrgetter("rank", "since", "id"), attrgetter("rank"), attrgetter("since")


def _less(tickets: Sequence[Ticket], gone: Iterable[Ticket]) -> list[Ticket]:
    """Those without these; both are in order, so nobody needs to be looked at but who goes."""
    rest: list[Ticket] = []
    start = 0
    for turn in sorted(map(_turn, gone)):
        place = bisect_left(tickets, turn, lo=start, key=_turn)
        rest += tickets[start:place]
        start = place + 1
    return rest + list(tickets[start:])
