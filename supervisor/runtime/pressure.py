"""Whether the machine runs short of memory, or we of files: said when it begins, and when it is over.

Memory: pressure stall information of our control group, else of the machine (Linux 4.20, docs/accounting/psi): how much
of the time all programs stood still because memory was being fetched back. Nothing is unloaded for it: what is loaded
goes on as well as it can, and only the owner knows what may go.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger("supervisor.pressure")

PAUSE = 10.0
"""Seconds between looks; each takes some ten microseconds."""
HIGH = 10.0
"""Percent of the last ten seconds in which everything stood still: answers come noticeably late."""
LOW = 1.0
_FULL = re.compile(r"^full avg10=(\d+\.\d+)", re.MULTILINE)


class PressureWatch:
    """Says when a shortage begins, and when it is over."""

    def __init__(self, loaded: Callable[[], Sequence[str]], root: Path = Path("/")) -> None:
        """`loaded` tells which models are in memory."""
        self._loaded = loaded
        self._path = _source(root)
        self._is_short_of_memory = False
        self._is_short_of_files = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await anyio.sleep(PAUSE)
            self.look()

    def look(self) -> None:
        """Look once."""
        self._look_at_memory(None if self._path is None else full_stall(self._path))
        self._look_at_files(can_open_files())

    def _look_at_memory(self, percent: float | None) -> None:
        if percent is None:
            return
        if percent >= HIGH and not self._is_short_of_memory:
            self._is_short_of_memory = True
            models = ", ".join(self._loaded()) or "no model"
            hint = "unload one, lower `max_loaded` or `ctx-size`, or stop other programs"
            told = "memory is short: programs stand still %.0f %% of the time; loaded: %s; %s"
            logger.warning(told, percent, models, hint)
        elif percent <= LOW and self._is_short_of_memory:
            self._is_short_of_memory = False
            logger.info("memory is no longer short")

    def _look_at_files(self, can_open: bool) -> None:
        if can_open == self._is_short_of_files:
            self._is_short_of_files = not can_open
            if can_open:
                logger.info("files can be opened again")
            else:
                hint = "raise the limit (LimitNOFILE=) or lower `server.max_connections`"
                logger.warning("no more files may be opened: new connections are closed without an answer; %s", hint)


def full_stall(path: Path) -> float | None:
    """Percent of the last ten seconds in which all programs waited for memory; None if the kernel does not tell."""
    try:
        match = _FULL.search(path.read_text())
    except OSError:
        return None
    return float(match[1]) if match else None


def can_open_files() -> bool:
    """Whether one more would be opened."""
    try:
        os.close(os.dup(1))
    except OSError:
        return False
    return True


def _source(root: Path) -> Path | None:
    """The file that tells, nearest to us first; None if there is none that can be read."""
    candidates = [root / "proc/pressure/memory"]
    try:
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                candidates.insert(0, root / "sys/fs/cgroup" / line[3:].lstrip("/") / "memory.pressure")
    except OSError:
        pass
    return next((path for path in candidates if full_stall(path) is not None), None)
