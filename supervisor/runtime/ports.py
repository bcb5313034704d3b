"""Who listens on a TCP port of this machine, and whether that can be a child of ours."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from supervisor.runtime.marks import MARK
from supervisor.runtime.vitals import relations_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTENING = "0A"
PAUSE = 0.05

_LOOPBACK = {"localhost": ("127.0.0.1", "::1"), "0.0.0.0": ("127.0.0.1",), "::": ("::1",)}
"""What connecting to these names comes to."""
_FORWARDERS = ("docker", "rootless", "slirp4netns", "pasta", "passt", "conmon", "podman", "containerd", "systemd")
"""Programs that listen in the name of somebody whom a child has asked them to run."""


def listener_of(port: int, host: str | None = None) -> str | None:
    """The process that listens there, as far as we may see it: `nginx (pid 812)`.

    With a host of this machine, only one that a connection to that host would reach.
    """
    inodes = set(_inodes(port, host))
    if not inodes:
        return None
    return next((_described(pid) for pid in _owners(inodes)), "a process of another user")


async def lasting_listener(port: int, host: str, *, patience: float) -> str | None:
    """Who still listens there after a while: a process that was killed a moment ago may not be gone yet."""
    deadline = anyio.current_time() + patience
    while holder := await anyio.to_thread.run_sync(listener_of, port, host, abandon_on_cancel=True):
        if anyio.current_time() >= deadline:
            return holder
        await anyio.sleep(PAUSE)
    return None


def stranger_at(port: int, host: str, *, leader: int, mark: str = "") -> str | None:
    """Who listens there, if that is certainly nobody whom the leader of a group has started.

    It is not certain of a process in a container, of one that forwards for others, and of one that we may not see.
    """
    owners = list(_owners(set(_inodes(port, host))))
    if not owners or any(_descends(pid, leader, mark) or _may_act_for_others(pid) for pid in owners):
        return None
    return _described(owners[0])


def _inodes(port: int, host: str | None) -> Iterator[str]:
    """The listening sockets on a port, as their file descriptors are shown."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for row in (Path("/proc/net") / name).read_text().splitlines()[1:]:
                _, local, _, state, *rest = row.split()
                address, _, number = local.rpartition(":")
                if state == LISTENING and int(number, 16) == port and (host is None or _reaches(address, host)):
                    yield f"socket:[{rest[5]}]"


def _reaches(bound: str, host: str) -> bool:
    """Whether a connection to a host of this machine comes to a socket bound to this address."""
    words = (int(bound[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(bound), 8))
    address = ipaddress.ip_address(b"".join(words))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_unspecified or str(address) in _LOOPBACK.get(host, (host,))


def _owners(inodes: set[str]) -> Iterator[int]:
    """The processes that hold one of these sockets, as far as we may see them."""
    if inodes and Path("/proc").is_dir():
        with contextlib.suppress(OSError):  # where we may open no more files
            for process in Path("/proc").iterdir():
                if process.name.isdecimal() and not inodes.isdisjoint(_sockets(process)):
                    yield int(process.name)


def _sockets(process: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # one that has been closed meanwhile, such as that of this listing
                found.add(os.readlink(link))  # noqa: PTH115 - they are no paths
    return found


def _descends(pid: int, leader: int, mark: str) -> bool:
    """Whether a process is in the group or the tree below a leader, or has its mark."""
    return leader in {relations_of(pid)[1], *_ancestors(pid)} or (bool(mark) and _has(pid, f"{MARK}={mark}"))


def _ancestors(pid: int) -> Iterator[int]:
    """The process itself, its parent, and so on."""
    while pid:
        yield pid
        pid = relations_of(pid)[0]


def _has(pid: int, variable: str) -> bool:
    try:
        return variable.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _may_act_for_others(pid: int) -> bool:
    """Whether it is a program that others ask to run servers, or lives in a container."""
    if _name(pid).startswith(_FORWARDERS):
        return True
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()
    except OSError:
        return True


def _described(pid: int) -> str:
    return f"{_name(pid)} (pid {pid})"


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process"
