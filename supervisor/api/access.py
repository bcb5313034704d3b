"""Who may ask, and who may manage: by key where there are keys, else by where a request comes from."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

from supervisor.config.values import Management
from supervisor.errors import Forbidden, Unauthorized

if TYPE_CHECKING:
    from supervisor.config.values import Server

Headers = Iterable[tuple[bytes, bytes]]

_FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-real-ip"))

OPEN = frozenset(("/", "/health", "/v1/health", "/wol-health", "/favicon.ico", "/upstream"))
"""Paths that say nothing of anybody, and need no key (spec: llama-swap.md, section 1.8)."""


class Access:
    """The rules of the config in force."""

    def __init__(self, server: Server) -> None:
        self.adopt(server)

    def adopt(self, server: Server) -> None:
        """Let these settings hold from now on."""
        self._keys = tuple(key.encode() for key in server.api_keys)
        self._management = server.management

    def require_key(self, path: str, headers: Headers) -> None:
        """Let a request pass that brings one of our keys, where there are any; raises `Unauthorized`."""
        if self._keys and path not in OPEN and not self._is_ours(key_of(headers)):
            raise Unauthorized(
                "unauthorized: invalid or missing API key",
                hint="send it as `Authorization: Bearer KEY` or `x-api-key: KEY`",
            )

    def require_management(self, headers: Headers, address: tuple[str, int] | None) -> None:
        """Let a management request pass, or raise `Forbidden`. With keys, whoever has one may manage."""
        if not self._keys:
            require_nearness(headers, address, self._management)

    def _is_ours(self, key: bytes | None) -> bool:
        if key is None:
            return False
        # All of them, and each in constant time: how long it takes tells nothing of a key.
        return sum(hmac.compare_digest(key, ours) for ours in self._keys) > 0


def key_of(headers: Headers) -> bytes | None:
    """The key a request brings: the password of Basic, else a Bearer token, else `x-api-key`."""
    given = dict(headers)
    scheme, _, value = given.get(b"authorization", b"").partition(b" ")
    match scheme.lower():
        case b"basic":
            password = _password(value.strip())
            if password is not None:
                return password
        case b"bearer":
            return value.strip()
    return given.get(b"x-api-key")


def _password(encoded: bytes) -> bytes | None:
    try:
        _, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
    except binascii.Error:
        return None
    return password if colon else None


def require_nearness(headers: Headers, address: tuple[str, int] | None, rule: Management) -> None:
    """Let a request from near enough pass, or raise `Forbidden`."""
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
