"""The memory that request bodies hold together, as far as they are large: one limit for all of them.

Small bodies are not counted: there cannot be more of them than connections, and counting would cost each a little.
"""

from __future__ import annotations

from typing import Protocol

from supervisor.errors import BodyMemoryFull

SMALL_BODY = 64 * 1024
"""Bytes up to which a body is not counted."""


class Owner(Protocol):
    """Whose body it is."""

    body_size: int
    share: Share | None


class BodyMemory:
    """How much of it is taken."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Bytes, of all bodies together."""

    def hold(self, owner: Owner) -> None:
        """Count what has come of a body that is kept; raises `BodyMemoryFull`."""
        share = owner.share
        if share is None:
            share = owner.share = Share(self)
        more = owner.body_size - share.size
        if self.held + more > self.limit:
            share.give_back()
            message = f"the bodies of requests hold {self.held} of {self.limit} bytes of memory, and there is no room"
            raise BodyMemoryFull(f"{message} for this one", hint="`server.body_memory` of models.toml sets it")
        share.size += more
        self.held += more

    def __repr__(self) -> str:
        return f"<BodyMemory [{self.held} of {self.limit} bytes]>"


class Share:
    """What one body holds."""

    __slots__ = ("_memory", "size")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size = 0

    def give_back(self) -> None:
        """The body is kept no longer, or not in memory."""
        self._memory.held -= self.size
        self.size = 0
