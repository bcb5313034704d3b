"""The event bus."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from supervisor.record.bus import Bus, Event

pytestmark = pytest.mark.anyio


def test_nobody_listens() -> None:
    """What nobody hears is gone; who publishes may ask first."""
    bus = Bus()
    bus.publish("kind", 1)

    with bus.subscribe() as subscription:
        assert bus.is_heard
        assert subscription.take() == []
    assert not bus.is_heard


def test_everybody_hears() -> None:
    """Every subscriber gets every event, in order, once."""
    bus = Bus()

    with bus.subscribe() as one, bus.subscribe() as other:
        bus.publish("a", 1)
        bus.publish("b")
        assert one.take() == [Event("a", 1), Event("b")]
        bus.publish("a", 1)
        assert one.take() == [Event("a", 1)]
        assert other.take() == [Event("a", 1), Event("b"), Event("a", 1)]


def test_the_latest_counts() -> None:
    """Of events with the same kind and key, only the last waits, in the place of the first."""
    bus = Bus()

    with bus.subscribe() as subscription:
        bus.publish("state", "old", key="x")
        bus.publish("other", 0, key="x")
        bus.publish("state", "new", key="x")

        assert subscription.take() == [Event("state", "new"), Event("other", 0)]


def test_too_slow() -> None:
    """Who is too slow is told to look afresh, once, and then hears what happens after that; others miss nothing."""
    bus = Bus(limit=3)

    with bus.subscribe() as slow, bus.subscribe() as quick:
        heard = []
        for number in range(10):
            bus.publish("n", number)
            heard += quick.take() or []
        assert [event.data for event in heard] == list(range(10))
        assert "behind" in repr(slow)
        assert slow.take() is None
        bus.publish("n", 10)
        assert slow.take() == [Event("n", 10)]


def test_a_key_takes_no_more_room() -> None:
    """A subscriber whose queue is full still gets a new state in the place of the old one."""
    bus = Bus(limit=1)

    with bus.subscribe() as subscription:
        for number in range(5):
            bus.publish("state", number, key="x")

        assert subscription.take() == [Event("state", 4)]


async def test_waiting() -> None:
    """A subscriber waits for events, for a word from elsewhere, and for the end; not for ever."""
    bus = Bus()
    with bus.subscribe() as subscription:
        assert not await subscription.wait(0.001)
        for news in (lambda: bus.publish("a"), subscription.wake, bus.close):
            subscription.take()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_when_blocked, news)
                assert await subscription.wait(30)

        assert subscription.is_closed


async def _when_blocked(news: object) -> None:
    await anyio.wait_all_tasks_blocked()
    news()  # type: ignore[operator]


def test_after_the_end() -> None:
    """Who comes after the end hears of it at once."""
    bus = Bus()
    bus.close()

    with bus.subscribe() as subscription:
        assert subscription.is_closed
    assert repr(bus) == "<Bus [closed]>"


async def test_what_can_wait() -> None:
    """Who gathers goes on gathering what can wait, until something comes that cannot."""
    bus = Bus()
    with bus.subscribe() as news:
        bus.publish("seldom", 1, can_wait=True)
        assert await news.wait(5)
        gathering = asyncio.ensure_future(news.gather(30))
        bus.publish("seldom", 2, can_wait=True)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not gathering.done()

        bus.publish("urgent")
        async with asyncio.timeout(5):
            await gathering
        assert [event.data for event in news.take() or ()] == [1, 2, None]


async def test_told_when_it_is_wanted() -> None:
    """Data may be a function: what is replaced before anybody looks is never made."""
    bus, made = Bus(), []
    with bus.subscribe() as news:
        for number in range(3):
            bus.publish("kind", lambda number=number: made.append(number) or number, key="")
        (event,) = news.take() or ()

        assert (event.told(), made) == (2, [2])


async def test_gathering_ends() -> None:
    """Who gathers waits no longer than it wants to, and then goes on waiting as before."""
    bus = Bus()
    with bus.subscribe() as news:
        bus.publish("seldom", can_wait=True)
        async with asyncio.timeout(30):
            await news.gather(0.001)
        assert news.take() == [Event("seldom")]

        assert not await news.wait(0.001)


def test_shown_once() -> None:
    """However many listen, an event is made and encoded once, when the first of them wants it."""
    bus, made, encoded = Bus(), [], []

    def encode(kind: str, data: object) -> bytes:
        encoded.append((kind, data))
        return b"%d" % len(encoded)

    with bus.subscribe() as one, bus.subscribe() as other:
        bus.publish("kind", lambda: made.append(1) or len(made))
        assert (made, encoded) == ([], [])
        shown = [event.shown(encode) for news in (one, other) for event in news.take() or ()]

    assert (shown, made, encoded) == ([b"1", b"1"], [1], [("kind", 1)])
