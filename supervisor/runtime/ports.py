"""Who listens on a TCP port of this machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LISTENING = "0A"


def listener_of(port: int) -> str | None:
    """The process that listens there, as far as we may see it: `nginx (pid 812)`."""
    inodes = {f"socket:[{inode}]" for name in ("tcp", "tcp6") for inode in _inodes(Path("/proc/net") / name, port)}
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and inodes & _sockets(process):
            return f"{_name(process)} (pid {process.name})"
    return "a process of another user"


def _inodes(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port]


def _sockets(process: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # one that has been closed meanwhile, such as that of this listing
                found.add(os.readlink(link))  # noqa: PTH115 - they are no paths
    return found


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
