"""Where a request comes from, when proxies stand in between: they are believed if the config trusts them.

Each proxy adds the address that it sees at the end, so a list is read from there; what stands before the first address
that is no trusted proxy's may be invented.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Headers: TypeAlias = "Iterable[tuple[bytes, bytes]]"
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_SIGNS = frozenset((b"forwarded", b"x-forwarded-for", b"x-real-ip"))
_FOR = re.compile(rb'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,]*)', re.IGNORECASE)
_ELEMENT = re.compile(rb'(?:"(?:[^"\\]|\\.)*"|[^,"])+')


@dataclass(frozen=True, slots=True)
class Whence:
    """Where a request comes from."""

    address: Address | None
    """None: it is not known, or it came over a unix socket."""
    is_hidden: bool = False
    """Whether a proxy that is not trusted stands in between, or one that does not say whom it asks for."""

    @property
    def is_here(self) -> bool:
        """Whether it certainly comes from this machine."""
        return not self.is_hidden and (self.address is None or self.address.is_loopback)

    @property
    def is_private(self) -> bool:
        """Whether it certainly comes from here or a private network."""
        return self.is_here or (not self.is_hidden and self.address is not None and self.address.is_private)

    def __str__(self) -> str:
        if self.address is None:
            return "somebody behind a proxy" if self.is_hidden else "this machine"
        return f"{self.address} or behind it" if self.is_hidden else str(self.address)


class Hops:
    """Tells where requests come from, trusting proxies in these networks."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)

    def whence(self, headers: Headers, peer: tuple[str, int] | None) -> Whence:
        """Where a request comes from; `peer` is the other end of its connection, None for a unix socket."""
        signs = [(name, value) for name, value in headers if name in _SIGNS]
        address = address_of(peer[0]) if peer is not None else None
        if not signs:
            return Whence(address, is_hidden=peer is not None and address is None)
        if address is None or not self._trusts(address):
            return Whence(address, is_hidden=True)
        chains = (
            [hop for name, value in signs if name == b"x-forwarded-for" for hop in value.split(b",")],
            [hop for name, value in signs if name == b"forwarded" for hop in _forwarded(value)],
        )
        # A proxy adds to one of them and passes the other on as the client sent it, so neither may say otherwise.
        found = {self._client(chain) for chain in chains if chain}
        client = found.pop() if len(found) == 1 else None
        return Whence(client, is_hidden=client is None)

    def _client(self, chain: Sequence[bytes]) -> Address | None:
        """The last address in a chain that is no proxy's; the first, if they all are."""
        address = None
        for hop in reversed(chain):
            address = address_of(hop.decode("latin-1"))
            if address is None or not self._trusts(address):
                return address
        return address

    def _trusts(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self._trusted)


def address_of(text: str) -> Address | None:
    """The address in `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]` or `[::1]:5`; None if it is none."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # An IPv4 address on a socket for both kinds.
    return getattr(address, "ipv4_mapped", None) or address


def _forwarded(value: bytes) -> list[bytes]:
    """The clients that a Forwarded header names (RFC 7239); one that names none is empty."""
    found = []
    for element in _ELEMENT.findall(value):
        match = _FOR.search(element)
        found.append(match[1].strip(b'"').replace(b"\\", b"") if match else b"")
    return found
