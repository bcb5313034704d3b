"""Who may manage: a question of where a request comes from, as long as there are no keys."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from supervisor.config.values import Management
from supervisor.errors import Forbidden

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

_FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-real-ip"))


def require_management(scope: Scope, rule: Management) -> None:
    """Let a management request pass, or raise `Forbidden`."""
    if rule is Management.OPEN:
        return
    if _came_through_a_proxy(scope["headers"]):
        raise Forbidden(
            "management is not open to requests that came through a proxy",
            hint="call it on this machine directly, or set `server.management`",
        )
    client = scope.get("client")
    if client is not None and not _is_near(client[0], rule):
        raise Forbidden(
            f"management is for {'this machine' if rule is Management.LOCAL else 'private networks'} only",
            hint='call it from there, or set `server.management = "private"` or `"open"`',
        )


def _came_through_a_proxy(headers: Iterable[tuple[bytes, bytes]]) -> bool:
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
