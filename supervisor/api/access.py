"""Who may manage: a question of where a request comes from, as long as there are no keys."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from supervisor.config.values import Management
from supervisor.errors import Forbidden

Headers = Iterable[tuple[bytes, bytes]]

_FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-real-ip"))


def require_management(headers: Headers, address: tuple[str, int] | None, rule: Management) -> None:
    """Let a management request from this address pass, or raise `Forbidden`."""
    if rule is Management.OPEN:
        return
    if _came_through_a_proxy(headers):
        raise Forbidden(
            "management is not open to requests that came through a proxy",
            hint="call it on this machine directly, or set `server.management`",
        )
    if address is not None and not _is_near(address[0], rule):
        raise Forbidden(
            f"management is for {'this machine' if rule is Management.LOCAL else 'private networks'} only",
            hint='call it from there, or set `server.management = "private"` or `"open"`',
        )


def _came_through_a_proxy(headers: Headers) -> bool:
    """Then the address we see is the proxy's, and says nothing about who asks."""
    return any(name in _FORWARDED for name, _ in headers)


def _is_near(host: str, rule: Management) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or (rule is Management.PRIVATE and address.is_private)
