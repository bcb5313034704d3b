"""The names under which a service may be asked for, so that no page can reach it by making its own name lead here.

A page of `evil.example` whose name begins to lead to this machine (DNS rebinding) is in the same origin as we are, for
its browser. Its name still stands in Host: only names count that nobody out there can point at us.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ALWAYS = frozenset(("localhost", "host.docker.internal", "host.containers.internal"))
"""Names that resolvers answer by themselves."""
HOME = (".localhost", ".local", ".lan", ".home.arpa", ".ts.net")
"""Ends of names that no public server of names gives out, or that only a network's own members get."""
ANY = "*"
KEPT = 256
"""Values of Host that are remembered."""

_AUTHORITY = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[0-9A-Za-z._-]{1,253}))(?::(?P<port>\d{0,5}))?"
)


class Hosts:
    """The values of Host that are ours. `own` are this machine's names, `allowed` those of the config."""

    def __init__(self, allowed: Iterable[str] = (), own: Iterable[str] = ()) -> None:
        allowed = tuple(allowed)
        self.are_all_allowed = ANY in allowed
        self._names = ALWAYS | {name.lower().rstrip(".") for name in (*allowed, *own)}
        self._ends = (*HOME, *(name[1:] for name in allowed if name.startswith("*.")))
        self.known: set[bytes | None] = {None}
        """Values that are ours, for who has no time to ask; None, which only HTTP/1.0 may send, is no browser's."""

    def allow(self, host: bytes | None) -> bool:
        """Whether a request with this Host means us."""
        is_ours = host is None or self.are_all_allowed or self._is_ours(name_of(host))
        if is_ours and len(self.known) < KEPT:
            self.known.add(host)
        return is_ours

    def _is_ours(self, name: str | None) -> bool:
        if not name:
            return False
        # A name without a dot is one of a hosts file, a home router or a container network: no public server has it.
        return "." not in name or name in self._names or name.endswith(self._ends) or is_address(name)


def name_of(authority: bytes) -> str | None:
    """The name or address in a value of Host, in small letters and without its port; None if it is none."""
    parts = parts_of(authority)
    return parts[0] if parts else None


def parts_of(authority: bytes) -> tuple[str, int | None] | None:
    """The name or address in a value of Host, and its port if it has one."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    if port is not None and port > 65535:
        return None
    if match["ipv6"] is None:
        return match["name"].decode().lower().rstrip("."), port
    address = match["ipv6"].decode().lower()
    return (address, port) if is_address(address) else None


def is_address(name: str) -> bool:
    """Whether it is an address as a browser writes it: one cannot be made to lead elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
