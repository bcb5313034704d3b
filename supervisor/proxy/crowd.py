"""How many connections of clients there may be, and which of them makes room for another.

Each takes a file descriptor, and another one for the child behind it: without a limit of ours the system's would be
met first, by whoever needs a file next.
"""

from __future__ import annotations

import logging
import resource
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

logger = logging.getLogger("supervisor.proxy")

RESERVED_FILES = 128
"""Descriptors that are not for connections: children's pipes, logs, databases, what libraries open."""
FEWEST = 8
MAKES_ROOM_AFTER = 1.0
"""Seconds after which an idle connection may be closed for another one."""


class Idle(Protocol):
    """A connection that may be idle."""

    @property
    def idle_since(self) -> float | None: ...

    def shutdown(self) -> None: ...


def crowd_of(wanted: int) -> Crowd:
    """The limit of connections of this process, so that files are left for all else that needs some."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = connections_for(files, wanted)
    if limit < wanted:
        logger.warning("at most %s connections at a time, for we may open %s files only (LimitNOFILE=)", limit, files)
    return Crowd(limit)


def connections_for(files: int, wanted: int) -> int:
    """How many connections there may be if we may open so many files."""
    return min(wanted, max(FEWEST, (files - RESERVED_FILES) // 2))


class Crowd:
    """The limit of connections; more are refused, unless an idle one can go."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._is_refusing = False
        self._look_again_at = 0.0

    def admits(self, connections: Collection[object], now: float) -> bool:
        """Whether the newest of these connections may stay."""
        if len(connections) <= self.limit:
            if self._is_refusing and len(connections) <= self.limit * 0.9:
                self._is_refusing = False
                logger.info("there is room for connections again")
            return True
        if now >= self._look_again_at:
            idlest = _idlest(connections, now)
            if idlest is not None:
                idlest.shutdown()
                return True
            self._look_again_at = now + MAKES_ROOM_AFTER / 10  # a flood must not cost a look at all of them each time
        if not self._is_refusing:
            self._is_refusing = True
            logger.warning("%s connections are open, as many as may be; further ones are refused", self.limit)
        return False


def _idlest(connections: Collection[object], now: float) -> Idle | None:
    """The connection that has been idle for longest, if any has been for long enough."""
    found, longest_ago = None, now - MAKES_ROOM_AFTER
    for each in connections:
        since = getattr(each, "idle_since", None)
        if since is not None and since < longest_ago:
            found, longest_ago = each, since
    return found  # type: ignore[return-value]  # what has been idle is one that can tell
