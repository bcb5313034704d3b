"""Proxies that the environment names between us and peers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.config.values import Timeouts
from supervisor.llama.endpoint import HttpEndpoint, TcpEndpoint, endpoint_of
from supervisor.proxy.forward_proxy import ForwardProxy, forward_proxy
from supervisor.proxy.opening import NoConnection, Opener
from supervisor.proxy.upstream import Connection
from tests.conftest import DEADLINE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SQUID = "http://squid:3128"


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("http://far.example/v1", {"HTTP_PROXY": SQUID}, "squid:3128"),
        ("https://far.example/v1", {"HTTPS_PROXY": SQUID}, "squid:3128"),
        ("https://far.example/v1", {"https_proxy": SQUID}, "squid:3128"),
        ("http://far.example", {"http_proxy": "http://lower:1", "HTTP_PROXY": SQUID}, "squid:3128"),
        ("http://far.example", {"HTTP_PROXY": "squid:3128"}, "squid:3128"),
        ("http://far.example", {"HTTP_PROXY": "http://squid/"}, "squid:80"),
        ("http://10.1.2.3:8080", {"HTTP_PROXY": SQUID}, "squid:3128"),
        ("https://far.example/v1", {"HTTP_PROXY": SQUID, "ALL_PROXY": SQUID}, None),
        ("http://far.example", {"HTTP_PROXY": " "}, None),
        ("http://far.example", {}, None),
    ],
)
def test_which(url: str, environ: dict[str, str], proxy: str | None) -> None:
    """The one for the scheme, in capitals first; a URL may lack its scheme and port."""
    found = forward_proxy(endpoint_of(url), environ)

    assert (str(found) if found else None) == proxy


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8080", "http://127.0.0.1:8080/x", "https://127.9.9.9", "http://[::1]:80", "https://LOCALHOST."],
)
def test_never_to_ourselves(url: str) -> None:
    """What is on this machine is asked directly."""
    assert forward_proxy(endpoint_of(url), {"HTTP_PROXY": SQUID, "HTTPS_PROXY": SQUID}) is None
    assert forward_proxy(TcpEndpoint(80), {"HTTP_PROXY": SQUID}) is None


@pytest.mark.parametrize(
    ("exceptions", "url", "is_direct"),
    [
        ("*", "http://far.example", True),
        ("far.example", "http://far.example", True),
        ("far.example", "http://box.far.example", True),
        ("far.example", "http://sofar.example", False),
        (".far.example", "http://far.example", False),
        (".far.example", "http://box.far.example", True),
        ("*.far.example", "http://box.far.example", True),
        ("*.far.example", "http://far.example", False),
        ("Far.Example", "http://far.example", True),
        ("far.example:8080", "http://far.example:8080", True),
        ("far.example:8080", "http://far.example:8081", False),
        ("other, 10.0.0.0/8 ,x", "http://10.200.0.1:8080", True),
        ("10.0.0.0/8", "http://11.0.0.1", False),
        ("10.0.0.0/8", "http://far.example", False),
        ("10.0.0.1", "http://10.0.0.1:8080", True),
        ("10.0.0.1:80", "http://10.0.0.1:8080", False),
        ("fd00::/8", "http://[fd00::1]:8080", True),
        ("fd00::1", "http://[fd00::1]:8080", True),
        ("[fd00::1]:8080", "http://[fd00::1]:8080", True),
        ("1/2/3,:80,,/", "http://far.example", False),
    ],
)
def test_exceptions(exceptions: str, url: str, *, is_direct: bool) -> None:
    """NO_PROXY has domains, addresses and networks, with or without a port."""
    found = forward_proxy(endpoint_of(url), {"HTTP_PROXY": SQUID, "NO_PROXY": exceptions})

    assert (found is None) == is_direct


def test_credentials() -> None:
    """Those in its URL are for the proxy, and never shown."""
    proxy = forward_proxy(endpoint_of("http://far.example"), {"HTTP_PROXY": "http://me:p%40ss@squid:3128"})

    assert proxy is not None
    assert proxy.authorization == b"Basic bWU6cEBzcw=="
    assert str(proxy) == "squid:3128"


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A proxy that answers so; its port, and the heads it has seen."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "it answers `407 Proxy Authentication Required`"),
        (b"HTTP/1.1 403 \x1b[31m\xff\r\n\r\n", r"it answers `403 \x1b[31m\xff`"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "it answers ``"),
        (b"x" * 20_000, "it answers ``"),
        (b"HTTP/1.1 200 OK\r\n", "it closed the connection"),
        (b"", "it closed the connection"),
    ],
)
async def test_refused(answer: bytes, why: str) -> None:
    """A proxy that does not connect us is named, with what it says."""
    async with answering(answer) as (port, seen):
        proxy = ForwardProxy("127.0.0.1", port, b"Basic secret")
        with anyio.fail_after(DEADLINE), pytest.raises(NoConnection) as raised:
            await Opener(HttpEndpoint("far.example", 443, tls=True), Timeouts(), through=proxy).open(Connection)

    assert raised.value.why == f"the proxy 127.0.0.1:{port}: {why}"
    assert seen == [
        b"CONNECT far.example:443 HTTP/1.1\r\nhost: far.example:443\r\nproxy-authorization: Basic secret\r\n\r\n"
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("socks5://squid:1080", "`HTTP_PROXY` names a proxy of the kind socks5; http is known"),
        ("http://", "`HTTP_PROXY` is no URL of a proxy, such as http://proxy:3128"),
        ("http://squid:port", "`HTTP_PROXY` is no URL of a proxy, such as http://proxy:3128"),
    ],
)
async def test_unknown_kind(url: str, why: str) -> None:
    """One that we cannot use is an error, not a way around it."""
    endpoint = endpoint_of("http://far.example")
    with pytest.raises(NoConnection) as raised:
        await Opener(endpoint, Timeouts(), through=forward_proxy(endpoint, {"HTTP_PROXY": url})).open(Connection)

    assert why in raised.value.why


@pytest.mark.anyio
async def test_a_proxy_that_hangs() -> None:
    """It has the time that a connection has."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        proxy = ForwardProxy("127.0.0.1", server.sockets[0].getsockname()[1])
        opener = Opener(HttpEndpoint("far.example", 443, tls=True), Timeouts(connect=0.05), through=proxy)
        with anyio.fail_after(DEADLINE), pytest.raises(NoConnection, match=r"no connection within 0\.05 s"):
            await opener.open(Connection)
