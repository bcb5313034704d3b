"""The event bus: what has happened, told to whoever watches. Who publishes never waits, and knows no listener."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_EVENTS = 1024
"""Events that wait for one subscriber; with one more it has to start afresh."""


@dataclass(slots=True)
class Event:
    """Something that happened."""

    kind: str
    data: object = None
    """What it is about, or a function that tells it when it is wanted."""
    _shown: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def told(self) -> object:
        """The data as it is now."""
        return self.data() if callable(self.data) else self.data

    def shown(self, encode: Callable[[str, object], bytes]) -> bytes:
        """How it looks to all who listen, as it was when the first of them wanted it."""
        if self._shown is None:
            self._shown = encode(self.kind, self.told())
        return self._shown


class Subscription:
    """What one subscriber has not taken yet."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: dict[object, Event] = {}
        self._news = asyncio.Event()
        self._urgent = asyncio.Event()
        self._has_missed = False
        self.is_closed = False

    def take(self) -> list[Event] | None:
        """What has come since the last call, in order; None if some of it is lost, so that only a fresh look helps."""
        events = None if self._has_missed else list(self._events.values())
        self._has_missed = False
        self._events.clear()
        self._news.clear()
        self._urgent.clear()
        return events

    def wake(self) -> None:
        """Let `wait` return, for there is something to see elsewhere."""
        self._news.set()
        self._urgent.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for news, at most so long; whether there is any. `take` is what makes it wait again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._news.wait()
        return False

    async def gather(self, seconds: float) -> None:
        """Wait at most so long for more of what can wait, until something comes that cannot."""
        timer = asyncio.get_running_loop().call_later(seconds, self._urgent.set)  # half the cost of a timeout
        try:
            await self._urgent.wait()
        finally:
            timer.cancel()

    def put(self, key: object, event: Event, *, can_wait: bool = False) -> None:
        """Add an event, in the place of a waiting one with the same key."""
        if len(self._events) >= self._limit and key not in self._events:
            self._events.clear()
            self._has_missed = True
        if not self._has_missed:
            self._events[key] = event
        self._news.set()
        if not can_wait:
            self._urgent.set()

    def close(self) -> None:
        """Nothing more will come."""
        self.is_closed = True
        self.wake()

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "behind" if self._has_missed else "open"
        return f"<Subscription [{state} | {len(self._events)} waiting]>"


class Bus:
    """Everybody who wants to know what happens."""

    def __init__(self, limit: int = MOST_EVENTS) -> None:
        self._limit = limit
        self._subscriptions: set[Subscription] = set()
        self._numbers = count()
        self._is_closed = False

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens; who builds what it publishes asks first."""
        return bool(self._subscriptions)

    def publish(self, kind: str, data: object = None, *, key: object = None, can_wait: bool = False) -> None:
        """Tell everybody. Of events with the same kind and key, a subscriber that is slow gets only the last.

        What can wait for a moment costs less, where there is much of it.
        """
        if self._subscriptions:
            event = Event(kind, data)
            name = next(self._numbers) if key is None else (kind, key)
            for subscription in self._subscriptions:
                subscription.put(name, event, can_wait=can_wait)

    @contextlib.contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Listen from now on."""
        subscription = Subscription(self._limit)
        if self._is_closed:
            subscription.close()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End whoever listens, now and later."""
        self._is_closed = True
        for subscription in self._subscriptions:
            subscription.close()

    def __repr__(self) -> str:
        return f"<Bus [{'closed' if self._is_closed else f'{len(self._subscriptions)} listening'}]>"
