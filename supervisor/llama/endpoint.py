"""Where a server listens: a child of ours, one that a `proxy` URL names, or a peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

_PORTS = {"http": 80, "https": 443}
_AS_WRITTEN = "/%!$&'()*+,;=:@~"
"""What a path may hold beside letters and digits."""
_OURSELVES = frozenset(("localhost", "127.0.0.1"))


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """A socket file in a directory only we can enter."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A port on loopback."""

    port: int
    host: str = "127.0.0.1"

    @property
    def authority(self) -> str:
        """What a client of it writes into Host."""
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}"


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """A server that a URL names: anywhere, perhaps behind TLS, perhaps below a path."""

    host: str
    port: int
    tls: bool = False
    base_path: str = ""
    """What stands before the path of every request, without a slash at its end."""

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def authority(self) -> str:
        """What a client of it writes into Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.base_path}"


Endpoint: TypeAlias = UnixEndpoint | TcpEndpoint | HttpEndpoint


def endpoint_of(url: str) -> TcpEndpoint | HttpEndpoint:
    """Where the server of an `http` or `https` URL listens; a user, a query and a fragment in it say nothing of that.

    Raises `ValueError`.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f'expected an http or https URL, got "{url}"')
    host = parts.hostname.encode("idna").decode()
    port = parts.port or _PORTS[parts.scheme]
    base_path = quote(parts.path.rstrip("/"), safe=_AS_WRITTEN)
    if parts.scheme == "http" and host in _OURSELVES and not base_path:
        return TcpEndpoint(port, host)
    return HttpEndpoint(host, port, tls=parts.scheme == "https", base_path=base_path)
