"""What the kernel knows of a process: whether it does anything, and how much memory it holds."""

from __future__ import annotations

from pathlib import Path

_TICKS = slice(11, 13)
_MAJOR_FAULTS = 9
_PARENT, _GROUP = 1, 2


def signs_of_life(pid: int) -> tuple[int, ...]:
    """Numbers that change while the process works: CPU ticks, major faults, bytes read. Empty when unknown."""
    fields = _stat(pid)
    return (*map(int, fields[_TICKS]), int(fields[_MAJOR_FAULTS]), _read_bytes(pid)) if fields else ()


def signs_of_family(leader: int) -> tuple[int, ...]:
    """The same of a whole family: a wrapper sleeps while its server works."""
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
    try:
        # The command name in parentheses may hold anything, so count from its end.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


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
    try:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("rchar:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
