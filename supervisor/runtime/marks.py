"""By what a process is known to be ours: its mark in /proc/PID/environ, and a start time that no other had.

The environment shown there is the one a process was started with (proc(5)): what it changes later, or starts with an
environment that somebody has cleaned, is not seen. Processes of other users show nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "RUN_OF_LLAMA_SUPERVISE"
"""The variable every process below us has: `TOKEN.RUN`, the token drawn by each service anew.

Not `LLAMA_…`: variables with such names are part of what a start is remembered by.
"""

_STATE, _PARENT, _GROUP, _STARTED = 0, 1, 2, 19
"""Places in /proc/PID/stat behind the name: fields 3, 4, 5 and 22 of proc(5)."""


class Carrier(NamedTuple):
    """A process with a mark. Equal only to itself: a pid is given again, with another start time."""

    pid: int
    started: int
    """Clock ticks since boot."""
    mark: str
    leads_group: bool

    @property
    def run(self) -> str:
        """The part of the mark behind the token."""
        return self.mark.rpartition(".")[2]


def carriers(mark: str) -> list[Carrier]:
    """The living processes with this mark; one that ends in `.` stands for all runs of its service."""
    wanted = f"{MARK}={mark}".encode()
    found = (_carrier(pid, wanted, is_prefix=mark.endswith(".")) for pid in _pids())
    return [carrier for carrier in found if carrier is not None]


def still_is(carrier: Carrier) -> bool:
    """Whether this very process lives and has its mark."""
    return _carrier(carrier.pid, f"{MARK}={carrier.mark}".encode(), is_prefix=False) == carrier


def started_at(pid: int) -> int | None:
    """When a living process was started, in clock ticks since boot; None if there is none, or only its zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[_STATE] == b"Z" else int(fields[_STARTED])


def zombies_below(parent: int) -> set[tuple[int, int]]:
    """The children of a process that have ended and are not reaped, each with its start time."""
    found = ((pid, _stat(pid)) for pid in _pids())
    return {
        (pid, int(fields[_STARTED]))
        for pid, fields in found
        if fields is not None and fields[_STATE] == b"Z" and int(fields[_PARENT]) == parent
    }


def name_of(pid: int) -> str:
    """The name of a program that runs, or ran."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process"


def boot_id() -> str:
    """Another after each boot of the machine; pids and start times mean nothing across one."""
    return _read_or_empty("/proc/sys/kernel/random/boot_id").strip()


def pid_namespace() -> str:
    """The name of the namespace in which our pids have their meaning."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - it is no path
    except OSError:
        return ""


def _pids() -> Iterator[int]:
    own = os.getpid()
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - 400 paths would cost more than what is done with them
    except OSError:
        return
    for name in names:
        if name.isdecimal() and int(name) != own:
            yield int(name)


def _carrier(pid: int, wanted: bytes, *, is_prefix: bool) -> Carrier | None:
    environ = _read(f"/proc/{pid}/environ")
    if environ is None or wanted not in environ:
        return None
    variables = environ.split(b"\0")
    found = next((each for each in variables if each == wanted or (is_prefix and each.startswith(wanted))), None)
    fields = _stat(pid)
    if found is None or fields is None or fields[_STATE] == b"Z":
        return None
    mark = found.partition(b"=")[2].decode(errors="replace")
    return Carrier(pid, int(fields[_STARTED]), mark, int(fields[_GROUP]) == pid)


def _stat(pid: int) -> list[bytes] | None:
    content = _read(f"/proc/{pid}/stat")
    # The name in parentheses may hold anything, so count from its end.
    return None if content is None else content.rpartition(b")")[2].split()


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pieces = []
        while piece := os.read(fd, 65536):
            pieces.append(piece)
        return b"".join(pieces)
    except OSError:  # it has ended meanwhile
        return None
    finally:
        os.close(fd)


def _read_or_empty(path: str) -> str:
    return (_read(path) or b"").decode()
