"""The forward proxy between us and a peer: which one the environment names, and a tunnel through it.

`HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` mean what they mean to Go, and so to llama-swap. What is on this machine is
never asked for through one.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from supervisor.llama.endpoint import HttpEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from supervisor.llama.endpoint import Endpoint

    ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)

_HEAD_LIMIT = 16 * 1024
"""Bytes of a proxy's answer to CONNECT."""


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """One that takes HTTP."""

    host: str
    port: int
    authorization: bytes | None = None
    """What it wants to see in Proxy-Authorization."""
    objection: str = ""
    """Why it cannot be used."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def forward_proxy(endpoint: Endpoint, environ: Mapping[str, str]) -> ForwardProxy | None:
    """The proxy through which a server is to be reached."""
    if not isinstance(endpoint, HttpEndpoint) or _is_direct(endpoint, _said(environ, "NO_PROXY")):
        return None
    name = "HTTPS_PROXY" if endpoint.tls else "HTTP_PROXY"
    url = _said(environ, name)
    return _parsed(name, url if "://" in url else f"http://{url}") if url else None


def _said(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.lower()) or "").strip()


def _parsed(name: str, url: str) -> ForwardProxy:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        parts, host, port = urlsplit(""), None, 0
    if not host:
        return ForwardProxy("", 0, objection=f"`{name}` is no URL of a proxy, such as http://proxy:3128")
    if parts.scheme != "http":
        return ForwardProxy(host, port, objection=f"`{name}` names a proxy of the kind {parts.scheme}; http is known")
    if parts.username is None:
        return ForwardProxy(host, port)
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return ForwardProxy(host, port, b"Basic " + base64.b64encode(user))


def _is_direct(endpoint: HttpEndpoint, exceptions: str) -> bool:
    """Whether a server is reached without a proxy: for being this machine, or among the exceptions."""
    host, address = endpoint.host.lower().rstrip("."), _address(endpoint.host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_is_meant(entry.strip().lower(), host, endpoint.port) for entry in exceptions.split(","))


def _is_meant(entry: str, host: str, port: int) -> bool:
    """Whether a server is one that this part of `NO_PROXY` means: `*`, a network, an address, or a domain."""
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry:
        return address is not None and address in _network(entry)
    name, only_port = _split(entry)
    if not name or only_port not in {"", str(port)}:
        return False
    if address is not None:
        return address == _address(name)
    domain = name.removeprefix("*")
    return host == domain or host.endswith(domain if domain.startswith(".") else f".{domain}")


def _split(entry: str) -> tuple[str, str]:
    """A host and the port that may stand behind it."""
    if _address(entry) is not None:
        return entry, ""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        return host, port.removeprefix(":")
    host, _, port = entry.partition(":")
    return host, port


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return ipaddress.ip_network("255.255.255.255/32")  # nobody's


async def connected_through(
    proxy: ForwardProxy, endpoint: HttpEndpoint, make: Callable[[], ProtocolT]
) -> tuple[asyncio.Transport, ProtocolT]:
    """A connection to a server: for TLS as if it were direct, else one to the proxy, which reads whom to ask.

    Raises `OSError`.
    """
    loop = asyncio.get_running_loop()
    if proxy.objection:
        raise OSError(proxy.objection)
    if not endpoint.tls:
        return await loop.create_connection(make, proxy.host, proxy.port)
    transport, tunnel = await loop.create_connection(lambda: _Tunnel(proxy, endpoint), proxy.host, proxy.port)
    try:
        await tunnel.opened
        protocol = make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
    except BaseException:
        transport.abort()
        raise
    return transport, protocol


class _Tunnel(asyncio.Protocol):
    """Asks a proxy to connect us; what follows its answer is between us and the server."""

    def __init__(self, proxy: ForwardProxy, endpoint: HttpEndpoint) -> None:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        lines = [b"CONNECT %b HTTP/1.1", b"host: %b"]
        self._request = b"\r\n".join(line % f"{host}:{endpoint.port}".encode() for line in lines)
        if proxy.authorization is not None:
            self._request += b"\r\nproxy-authorization: " + proxy.authorization
        self._answer = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request + b"\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if b"\r\n\r\n" in self._answer or len(self._answer) > _HEAD_LIMIT:
            _, _, status = self._answer.split(b"\r\n", 1)[0].partition(b" ")
            shown = ascii(status[:60].decode("latin-1"))[1:-1]
            self._end(None if status[:1] == b"2" else OSError(f"it answers `{shown}`"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(OSError("it closed the connection"))

    def _end(self, error: OSError | None) -> None:
        if self.opened.done():
            return
        if error is None:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(error)
