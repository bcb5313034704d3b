"""How much one key may ask for: a bucket of requests that fills up again, and requests at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from supervisor.errors import KeyBusy, RateLimited

if TYPE_CHECKING:
    from collections.abc import Collection

    from supervisor.config.clients import ClientKey


class Limit:
    """What is left to one key. Time is given in, as seconds of a clock that never goes back."""

    __slots__ = ("_key", "_seconds_each", "_spent_until", "in_flight")

    def __init__(self, key: ClientKey) -> None:
        self._key = key
        self._seconds_each = 60.0 / key.rate if key.rate is not None else 0.0
        self._spent_until = float("-inf")
        """When the bucket will be full again: one number is all there is to a bucket (GCRA)."""
        self.in_flight = 0

    def take(self, now: float) -> None:
        """Begin a request, to be ended by `give_back`; raises `RateLimited` and `KeyBusy`."""
        key = self._key
        if key.concurrency is not None and self.in_flight >= key.concurrency:
            raise KeyBusy(f"the key `{key.name}` has {self.in_flight} requests under way, as many as it may")
        if key.rate is not None:
            full_at = max(self._spent_until, now) + self._seconds_each
            wait = full_at - now - 60.0
            if wait > 1e-9:
                raise RateLimited(
                    f"the key `{key.name}` may make {key.rate} requests a minute", retry_after=math.ceil(wait)
                )
            self._spent_until = full_at
        self.in_flight += 1

    def give_back(self) -> None:
        """A request has ended."""
        self.in_flight -= 1

    def __repr__(self) -> str:
        return f"<Limit of {self._key.name} [{self.in_flight} under way]>"


class Limits:
    """Those of every key that has any."""

    def __init__(self) -> None:
        self._of: dict[ClientKey, Limit] = {}

    def keep(self, keys: Collection[ClientKey]) -> None:
        """There are these keys now; one of which anything has changed is another one, and begins anew."""
        self._of = {key: limit for key, limit in self._of.items() if key in keys}

    def of(self, key: ClientKey) -> Limit | None:
        """What is left to a key; None if it has no limits."""
        if key.rate is None and key.concurrency is None:
            return None
        limit = self._of.get(key)
        if limit is None:
            limit = self._of[key] = Limit(key)
        return limit
