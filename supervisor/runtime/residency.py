"""How much of a file is in memory already, and how much more memory can take.

A read with RWF_NOWAIT (preadv2(2)) answers truly for every user. mincore and cachestat do not: of another user's file
the one says that all of it is there, the other refuses.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLES = 64

_CANNOT_TELL = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
"""What filesystems without RWF_NOWAIT say (tmpfs, overlayfs, FUSE, NFS), and kernels before 4.14 and 4.6."""
_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
_USES = ("memory.current", "memory.usage_in_bytes")
_RECLAIMABLE = {"active_file", "inactive_file", "slab_reclaimable"}
_RECLAIMABLE_V1 = {"total_active_file", "total_inactive_file"}
_UNLIMITED = 1 << 62


def residency(path: Path) -> float | None:
    """The share of the file that is in the page cache, from samples; None where nobody can tell."""
    with suppress(OSError):
        fd = open_to_sample(path)
        try:
            answers = list(sample(fd, 0, os.fstat(fd).st_size, count=SAMPLES))
        finally:
            os.close(fd)
        if None not in answers:
            return sum(map(bool, answers)) / len(answers) if answers else 1.0
    return None


def open_to_sample(path: Path) -> int:
    """A file descriptor on which a miss brings in that one page, and a read no more than was asked for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a FIFO would wait for a writer
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    except OSError:
        os.close(fd)
        raise
    return fd


def sample(fd: int, begin: int, end: int, *, count: int) -> Iterator[bool | None]:
    """Whether pages from this part of an open file are in memory; None where the filesystem cannot tell."""
    byte = bytearray(1)
    return (_is_resident(fd, page * PAGE, byte) for page in spread(begin // PAGE, -(-end // PAGE), count))


def spread(first: int, last: int, count: int, *, draw: Callable[[int, int], int] = random.randrange) -> list[int]:
    """One page out of each of `count` equal stretches.

    By chance, because a page that was asked for comes in: who asks for the same ones again finds them all.
    """
    count = max(0, min(count, last - first))
    borders = [first + (last - first) * part // count for part in range(count + 1)] if count else []
    return [draw(begin, end) for begin, end in pairwise(borders)]


def _is_resident(fd: int, position: int, byte: bytearray) -> bool | None:
    try:
        return os.preadv(fd, [byte], position, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno in _CANNOT_TELL:
            return None
        raise


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be taken without swapping: of the machine, or of the control groups we are in if that is less.

    The page cache counts as available; so do the pages of a file whose warming is being thought about.
    """
    kilobytes = _sum(root / "proc/meminfo", {"MemAvailable:"})
    if kilobytes is None:
        return None
    rooms = [room for group in _groups(root) if (room := _room(group)) is not None]
    return max(0, min([kilobytes * 1024, *rooms]))


def total_memory(root: Path = Path("/")) -> int | None:
    """Bytes of the machine, or what the control groups we are in may have if that is less."""
    kilobytes = _sum(root / "proc/meminfo", {"MemTotal:"})
    limits = [limit for group in _groups(root) if (limit := _limit(group)) < _UNLIMITED]
    return None if kilobytes is None else min([kilobytes * 1024, *limits])


def _groups(root: Path) -> Iterator[Path]:
    """Our memory control groups and those around them, as far as they are mounted (cgroups(7))."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            group = mount / path.lstrip("/")
            yield from (place for place in (group, *group.parents) if place.is_relative_to(mount))


def _room(group: Path) -> int | None:
    """What a group may still take; None when it has no limit."""
    limit = _limit(group)
    use = next((use for name in _USES if (use := _number(group / name)) is not None), None)
    if limit >= _UNLIMITED or use is None:
        return None
    reclaimable = _sum(group / "memory.stat", _RECLAIMABLE_V1) or _sum(group / "memory.stat", _RECLAIMABLE) or 0
    return limit - use + reclaimable


def _limit(group: Path) -> int:
    return min((limit for name in _LIMITS if (limit := _number(group / name)) is not None), default=_UNLIMITED)


def _number(path: Path) -> int | None:
    """What a file of one number says; None for the word `max` too."""
    return next((int(line) for line in _lines(path) if line.isdecimal()), None)


def _sum(path: Path, names: set[str]) -> int | None:
    """Of the lines that begin with one of these words; None when there are none."""
    rows = [line.split() for line in _lines(path)]
    numbers = [int(row[1]) for row in rows if row and row[0] in names]
    return sum(numbers) if numbers else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
