"""The queue keeps its order and its counts without sorting or counting: whatever comes and goes, they are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.fleet.queue import FIRST, Queue, Ticket

RANKS = {"a": 0, "b": 0, "c": -1, "d": 2}
CHANGES = st.lists(
    st.sampled_from([*RANKS]) | st.floats(0, 20) | st.sets(st.integers(0, 30), min_size=1, max_size=4), max_size=30
)


@given(CHANGES)
def test_queue_is_in_order_and_counted_right(changes: list[str | float | set[int]]) -> None:
    """A name is a ticket more, a number is who came by then going first, a set is who is gone."""
    queue, whole = Queue(), list[Ticket]()
    for number, change in enumerate(changes):
        match change:
            case str(model):
                ticket = Ticket(number, model, number // 2, RANKS[model])
                queue, whole = queue.with_one(ticket), [*whole, ticket]
            case set(gone):
                queue = queue.without([ticket for ticket in whole if ticket.id in gone])
                whole = [ticket for ticket in whole if ticket.id not in gone]
            case arrived_by:
                queue = queue.with_first(arrived_by)
                whole = [replace(each, rank=FIRST) if each.since <= arrived_by else each for each in whole]

        assert list(queue) == sorted(whole, key=lambda ticket: (ticket.rank, ticket.since, ticket.id))
        counted = Queue(queue)
        assert [*queue.counts().items()] == [*counted.counts().items()]
        assert [crowd.tickets for crowd in queue.wanted.values()] == [
            tuple(ticket for ticket in queue if ticket.model == model) for model in queue.wanted
        ]
        assert [*queue.places.items()] == [*counted.places.items()]
        arrivals = {model: crowd.arrivals for model, crowd in counted.wanted.items()}
        assert {model: crowd.arrivals for model, crowd in queue.wanted.items()} == pytest.approx(arrivals)
        assert sum(queue.counts().values()) == len(queue)


def test_who_came_first_is_first_among_equals() -> None:
    """Ranks go before arrival, and those who waited for too long before ranks."""
    a, b, c = Ticket(1, "a", 1.0), Ticket(2, "b", 2.0, rank=-1), Ticket(3, "a", 3.0)
    queue = Queue().with_one(a).with_one(c).with_one(b)

    assert [ticket.id for ticket in queue] == [2, 1, 3]
    assert [ticket.id for ticket in queue.with_first(1.5)] == [1, 2, 3]
    assert queue.with_first(0.5) is queue
