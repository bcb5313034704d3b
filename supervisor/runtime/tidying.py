"""Memory that large requests have left behind, given back to the machine: models can use it.

What was freed stays with the C library, in the gaps between what is in use, and what refers to itself waits until
Python looks for it. To see to both takes some 20 ms of the loop, so it waits for a moment in which nobody is served.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
from typing import TYPE_CHECKING

import anyio

from supervisor.runtime.vitals import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("supervisor.memory")

PAUSE = 5.0
WORTH_IT = 8 * 1024**2
"""Bytes that we have grown by since we held the least, or since the last time."""
MOST_WAITS = 60
"""Looks at which somebody was served, after which it is done all the same."""


def _held() -> int:
    return resident_bytes(os.getpid()) or 0


def _give_back() -> None:
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


class Tidying:
    """Gives back whenever that is worth it, as long as the service runs."""

    def __init__(
        self, is_idle: Callable[[], bool], held: Callable[[], int] = _held, give_back: Callable[[], None] = _give_back
    ) -> None:
        self._is_idle = is_idle
        self._held = held
        self._give_back = give_back
        self._least = held()
        self._waits = 0

    async def run(self) -> None:
        """Look every now and then, until cancelled."""
        while True:
            await anyio.sleep(PAUSE)
            self.look()

    def look(self) -> None:
        """Give back what there is, if that is worth it and nobody has to wait, or has kept us from it for too long."""
        before = self._held()
        self._least = min(self._least, before)
        if before - self._least < WORTH_IT:
            return
        self._waits += 1
        if self._is_idle() or self._waits > MOST_WAITS:
            self._give_back()
            self._least, self._waits = self._held(), 0
            logger.debug("gave back %d of %d MiB", (before - self._least) // 1024**2, before // 1024**2)
