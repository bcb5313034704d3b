"""What a process holds of the host's memory: its own, and the pages of files it maps (proc(5), `smaps`).

Its own is anonymous memory, what the kernel has swapped out of it, and what is shared without a file. The kernel walks
the page tables for the answer: 3 ms for a small model, some tenths of a second for a hundred gigabytes, so ask in a
thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ (\S+) (\d+) *(.*)")
_KIB = 1024


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes."""

    own: int = 0
    files: Mapping[str, int] = field(default_factory=dict)
    """Pages in memory of each mapped file, by its path."""

    @property
    def total(self) -> int:
        return self.own + sum(self.files.values())


def memory_of(pids: Iterable[int], *, root: Path = Path("/")) -> ProcessMemory | None:
    """Of all these processes together; a file that several map counts once. None when nothing can be known of any."""
    found = [memory for pid in pids if (memory := _memory(root / f"proc/{pid}/smaps")) is not None]
    if not found:
        return None
    files: dict[str, int] = {}
    for memory in found:
        for path, size in memory.files.items():
            files[path] = max(files.get(path, 0), size)
    return ProcessMemory(sum(memory.own for memory in found), files)


def _memory(path: Path) -> ProcessMemory | None:
    try:
        text = path.read_text(errors="replace")
    except OSError:  # it is gone, or another user's
        return None
    own = 0
    files: dict[str, int] = {}
    for file, resident, anonymous, swapped in _mappings(text):
        own += anonymous + swapped + (0 if file else resident - anonymous)
        if file:
            files[file] = files.get(file, 0) + resident - anonymous
    return ProcessMemory(own, files)


def _mappings(text: str) -> Iterator[tuple[str, int, int, int]]:
    """Of each mapping the file, if there is one on a disk, and what of it is resident, anonymous and swapped out."""
    file, sizes = "", {"Rss": 0, "Anonymous": 0, "Swap": 0}
    is_first = True
    for line in text.splitlines():
        if match := _MAPPING.fullmatch(line):
            if not is_first:
                yield file, sizes["Rss"], sizes["Anonymous"], sizes["Swap"]
            is_first, sizes = False, dict.fromkeys(sizes, 0)
            file = match[3] if match[2] != "0" and match[3].startswith("/") and not _is_memory(match[3]) else ""
            continue
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0]) * _KIB
    if not is_first:
        yield file, sizes["Rss"], sizes["Anonymous"], sizes["Swap"]


def _is_memory(path: str) -> bool:
    """Whether the path only names memory: a memfd, System V's segments, what a device lends."""
    return path.startswith(("/memfd:", "/SYSV", "/dev/", "/anon_hugepage"))
