"""How much one key may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.access.limits import Limit, Limits
from supervisor.config.clients import ClientKey
from supervisor.errors import KeyBusy, RateLimited


def test_a_rate() -> None:
    """So many requests may come at once; the next one is told when to come again, and may then."""
    limit = Limit(ClientKey("k", rate=6))
    for _ in range(6):
        limit.take(100.0)

    with pytest.raises(RateLimited, match="the key `k` may make 6 requests a minute") as raised:
        limit.take(100.0)
    assert raised.value.retry_after == 10
    with pytest.raises(RateLimited) as raised:
        limit.take(109.0)
    assert raised.value.retry_after == 1
    limit.take(110.0)


def test_refused_requests_do_not_count() -> None:
    """Who asks again and again is let in as soon as who waits."""
    limit = Limit(ClientKey("k", rate=1))
    limit.take(0.0)
    for second in range(1, 60):
        with pytest.raises(RateLimited):
            limit.take(float(second))

    limit.take(60.0)


def test_requests_at_a_time() -> None:
    """So many requests may be under way; each that ends makes room for another."""
    limit = Limit(ClientKey("k", concurrency=2))
    limit.take(0.0)
    limit.take(0.0)
    with pytest.raises(KeyBusy) as raised:
        limit.take(0.0)
    assert raised.value.retry_after == 1

    limit.give_back()
    limit.take(0.0)


def test_keys_do_not_share() -> None:
    """Each key has its own limits, the same one each time; one without limits has none."""
    limits = Limits()

    assert limits.of(ClientKey("free")) is None
    assert limits.of(ClientKey("a", rate=1)) is limits.of(ClientKey("a", rate=1))
    assert limits.of(ClientKey("a", rate=1)) is not limits.of(ClientKey("b", rate=1))


@given(st.integers(1, 20), st.lists(st.floats(0.0, 30.0), max_size=60))
def test_no_more_than_the_bucket_holds(rate: int, pauses: list[float]) -> None:
    """In no stretch of time are more requests let in than were in the bucket, plus what has come into it since."""
    limit, now = Limit(ClientKey("k", rate=rate)), 0.0
    taken: list[float] = []
    pauses_told: list[float] = []
    for pause in pauses:
        now += pause
        try:
            limit.take(now)
        except RateLimited as exc:
            pauses_told.append(exc.retry_after or 0)
        else:
            taken.append(now)

    assert all(0 < pause <= 61 for pause in pauses_told)
    for index, first in enumerate(taken):
        for last in range(index, len(taken)):
            assert last - index + 1 <= rate + (taken[last] - first) * rate / 60 + 1e-6
