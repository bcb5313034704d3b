"""What the kernel knows of a process: whether it does anything, and how much memory it holds."""

from __future__ import annotations

from pathlib import Path

_TICKS = slice(11, 13)
_MAJOR_FAULTS = 9
_SESSION = 3


def signs_of_life(pid: int) -> tuple[int, ...]:
    """Numbers that change while the process works: CPU ticks, major faults, bytes read. Empty when unknown."""
    fields = _stat(pid)
    return (*map(int, fields[_TICKS]), int(fields[_MAJOR_FAULTS]), _read_bytes(pid)) if fields else ()


def signs_of_session(leader: int) -> tuple[int, ...]:
    """The same of all processes in a session: a wrapper sleeps while its server works."""
    signs_of_all = (signs for pid in session_of(leader) if (signs := signs_of_life(pid)))
    return tuple(map(sum, zip(*signs_of_all, strict=True)))


def session_of(leader: int) -> list[int]:
    """The processes in a session."""
    try:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    except OSError:  # we may open no more files; that is no fault of the child's
        return []
    return [pid for pid in pids if (fields := _stat(pid)) and int(fields[_SESSION]) == leader]


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
