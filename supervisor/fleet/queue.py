"""Who waits, in the order of their turns.

The queue is never sorted or counted as a whole: one more takes its place, who has waited for too long goes before all
others, and what the rules ask of it is carried along. It may be long, and it changes with almost every event.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TicketId = NewType("TicketId", int)

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
    def turn(self) -> tuple[float, float, TicketId]:
        """By what those who wait are in order."""
        return self.rank, self.since, self.id


@dataclass(frozen=True, slots=True)
class Crowd:
    """All who wait for one model."""

    count: int = 0
    arrivals: float = 0.0
    """The sum of the times at which they came."""

    def with_one(self, ticket: Ticket) -> Crowd:
        return Crowd(self.count + 1, self.arrivals + ticket.since)

    def without(self, ticket: Ticket) -> Crowd:
        return Crowd(self.count - 1, self.arrivals - ticket.since)


class Queue(tuple[Ticket, ...]):
    """Who waits, in order of `turn`. All that wait for one model have its rank, but for those that are first by now."""

    @classmethod
    def of(cls, tickets: Iterable[Ticket]) -> Queue:
        """The queue of these."""
        return cls(sorted(tickets, key=_turn))

    @cached_property
    def wanted(self) -> Mapping[str, int]:
        """The models somebody waits for, in queue order, and how many do."""
        return {model: self.crowds[model].count for model in self.heads}

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The models somebody waits for, and how many of them come before."""
        return {model: place for place, model in enumerate(self.heads)}

    @cached_property
    def heads(self) -> Mapping[str, Ticket]:
        """The models somebody waits for, in queue order, and whose turn it is first; nobody came before that one."""
        return {ticket.model: ticket for ticket in sorted({t.model: t for t in reversed(self)}.values(), key=_turn)}

    @cached_property
    def crowds(self) -> Mapping[str, Crowd]:
        """The models somebody waits for, and what there is to know of all who do."""
        crowds: dict[str, Crowd] = {}
        for ticket in self:
            crowds[ticket.model] = crowds.get(ticket.model, Crowd()).with_one(ticket)
        return crowds

    def with_one(self, ticket: Ticket) -> Queue:
        """The queue with one more in its place."""
        place = bisect_right(self, ticket.turn, key=_turn)
        crowd = self.crowds.get(ticket.model, Crowd())
        heads = self.heads if crowd.count else _in_order({**self.heads, ticket.model: ticket})
        crowds = {**self.crowds, ticket.model: crowd.with_one(ticket)}
        return Queue((*self[:place], ticket, *self[place:]))._known(crowds, heads)

    def with_first(self, arrived_by: float) -> Queue:
        """The queue in which those go before all others who came by then."""
        late: list[Ticket] = []
        others: list[Ticket] = []
        start = bisect_right(self, FIRST, key=_rank)
        first = self[:start]
        while start < len(self):
            end = bisect_right(self, self[start].rank, lo=start, key=_rank)
            until = bisect_right(self, arrived_by, lo=start, hi=end, key=_since)
            late += (replace(ticket, rank=FIRST) for ticket in self[start:until])
            others += self[until:end]
            start = end
        if not late:
            return self
        late.sort(key=_turn)
        place = bisect_right(first, late[0].turn, key=_turn)
        whole = (*first[:place], *sorted((*first[place:], *late), key=_turn), *others)
        ahead = {ticket.model: ticket for ticket in reversed(late) if self.heads[ticket.model].rank != FIRST}
        return Queue(whole)._known(self.crowds, _in_order({**self.heads, **ahead}) if ahead else self.heads)

    def without(self, gone: Iterable[TicketId]) -> Queue:
        """The queue without these."""
        left = frozenset(gone)
        rest = [ticket for ticket in self if ticket.id not in left]
        crowds, heads = dict(self.crowds), dict(self.heads)
        for ticket in self._with_ids(left):
            crowds[ticket.model] = crowds[ticket.model].without(ticket)
            if not crowds[ticket.model].count:
                del crowds[ticket.model], heads[ticket.model]
        for model, head in heads.items():
            if head.id in left:
                heads[model] = next(ticket for ticket in rest if ticket.model == model)
        return Queue(rest)._known(crowds, _in_order(heads))

    def _with_ids(self, ids: frozenset[TicketId]) -> Sequence[Ticket]:
        found: list[Ticket] = []
        for ticket in self:
            if len(found) == len(ids):
                break
            if ticket.id in ids:
                found.append(ticket)
        return found

    def _known(self, crowds: Mapping[str, Crowd], heads: Mapping[str, Ticket]) -> Queue:
        self.__dict__.update(crowds=crowds, heads=heads)
        return self


_turn, _rank, _since = attrgetter("turn"), attrgetter("rank"), attrgetter("since")


def _in_order(heads: Mapping[str, Ticket]) -> Mapping[str, Ticket]:
    return {ticket.model: ticket for ticket in sorted(heads.values(), key=_turn)}
