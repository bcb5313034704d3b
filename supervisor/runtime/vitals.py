"""What the kernel knows of a process: whether it does anything, and how much memory it holds."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import anyio.to_thread

_TICKS = slice(11, 13)
_MAJOR_FAULTS = 9
_PARENT, _GROUP = 1, 2
_MOST = 4096


async def signs_of(pid: int, *, is_wrapper: bool) -> tuple[int, ...]:
    """Signs of life of a child, and of its whole family where it may be a mere wrapper that sleeps meanwhile."""
    if not is_wrapper:
        return signs_of_life(pid)
    return await anyio.to_thread.run_sync(signs_of_family, pid)  # there may be thousands of processes to look at


def signs_of_life(pid: int) -> tuple[int, ...]:
    """Numbers that change while the process works: CPU ticks, major faults, bytes read. Empty when unknown."""
    fields = _stat(pid)
    return (*map(int, fields[_TICKS]), int(fields[_MAJOR_FAULTS]), _read_bytes(pid)) if fields else ()


def signs_of_family(leader: int) -> tuple[int, ...]:
    """The same of a whole family. Blocks."""
    signs_of_all = (signs for pid in family_of(leader) if (signs := signs_of_life(pid)))
    return tuple(map(sum, zip(*signs_of_all, strict=True)))


def family_of(leader: int) -> list[int]:
    """The processes in the group of a leader, and those that one of them has started, in whatever group they are."""
    try:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    except OSError:  # we may open no more files; that is no fault of the child's
        return []
    relations = {pid: relations for pid in pids if any(relations := relations_of(pid))}
    family = {pid for pid, (_, group) in relations.items() if leader in {pid, group}}
    while found := {pid for pid, (parent, _) in relations.items() if parent in family} - family:
        family |= found
    return sorted(family)


def relations_of(pid: int) -> tuple[int, int]:
    """The parent and the group of a process; zeros when it is gone."""
    fields = _stat(pid)
    return (int(fields[_PARENT]), int(fields[_GROUP])) if fields else (0, 0)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)); empty when the process is gone."""
    # The command name in parentheses may hold anything, so count from its end.
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def resident_bytes(pid: int) -> int | None:
    """Bytes of physical memory the process holds, mapped files included; None when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _read_bytes(pid: int) -> int:
    for line in _read(f"/proc/{pid}/io").splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    return 0


def _read(path: str) -> str:
    """A small file of the kernel's; empty when it is not there. Half the calls of `read_text`, for there are many."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, _MOST).decode(errors="replace")
        finally:
            os.close(file)
    return ""
