"""How busy the host is, as its kernel tells in /proc (proc(5)). What it does not tell is 0, or not there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.record.samples import HostSample

if TYPE_CHECKING:
    from collections.abc import Iterator

_IDLE, _WAITING_FOR_DISKS, _STEAL = 3, 4, 7
"""Fields of a processor's times; those behind the last one are counted in others already."""
_RECEIVED, _SENT = 0, 8


class Host:
    """The machine; how busy a core is takes two looks."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._times = dict(self._core_times())

    def sample(self) -> HostSample:
        """The host as it is now, and what its cores did since the last time."""
        memory = memory_sizes(self._proc)
        before, self._times = self._times, dict(self._core_times())
        return HostSample(
            at=time.time(),
            cores=tuple(_busy(before.get(core, (0, 0)), now) for core, now in self._times.items()),
            memory_total=memory.get("MemTotal", 0),
            memory_free=memory.get("MemAvailable", 0),
            swap_total=memory.get("SwapTotal", 0),
            swap_used=memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
            load=os.getloadavg(),
            networks=tuple(sorted(self._networks())),
        )

    def _core_times(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Of each core, how long it was busy and how long it was there, in ticks."""
        for line in _lines(self._proc / "stat"):
            name, _, rest = line.partition(" ")
            if name.startswith("cpu") and name != "cpu":
                ticks = [int(field) for field in rest.split()][: _STEAL + 1]
                yield name, (sum(ticks) - ticks[_IDLE] - ticks[_WAITING_FOR_DISKS], sum(ticks))

    def _networks(self) -> Iterator[tuple[str, int, int]]:
        for line in _lines(self._proc / "net/dev"):
            name, colon, rest = line.rpartition(":")
            if colon:
                counts = rest.split()
                yield name.strip(), int(counts[_RECEIVED]), int(counts[_SENT])


def _busy(before: tuple[int, int], now: tuple[int, int]) -> float:
    """In percent; a kernel's counters may go back a little."""
    busy, there = now[0] - before[0], now[1] - before[1]
    return round(min(max(100 * busy / there, 0.0), 100.0), 1) if there > 0 else 0.0


def memory_sizes(proc: Path) -> dict[str, int]:
    """Bytes, by the kernel's names for them."""
    rows = [line.split() for line in _lines(proc / "meminfo")]
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[-1] == "kB"}


def physical_cores(root: Path) -> int | None:
    """Cores, those that take turns as several counted once; None if the kernel does not say."""
    siblings = {
        text for path in root.glob("sys/devices/system/cpu/cpu*/topology/core_cpus_list") for text in _lines(path)
    }
    return len(siblings) or None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
