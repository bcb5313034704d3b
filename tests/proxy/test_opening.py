"""Opening connections: TCP and TLS, each within its limit, and why there is none."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from supervisor.config.values import Timeouts
from supervisor.llama.endpoint import HttpEndpoint, TcpEndpoint, UnixEndpoint
from supervisor.proxy.opening import NoConnection, Opener, shortage
from tests.conftest import DEADLINE
from tests.proxy.conftest import scripted
from tests.proxy.tls import server_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from supervisor.llama.endpoint import Endpoint
    from tests.proxy.conftest import Script

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Both loops, for each has its own TLS."""
    return "asyncio", {"use_uvloop": request.param}


class Line(asyncio.Protocol):
    """A connection that keeps what it hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.gone = asyncio.Event()
        self._came = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self._came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()

    async def hear(self, count: int) -> None:
        """Wait for so many bytes."""
        while len(self.heard) < count:
            self._came.clear()
            await self._came.wait()


@contextlib.asynccontextmanager
async def tls_server(
    script: Script, context: ssl.SSLContext | None = None, *, host: str = "localhost"
) -> AsyncIterator[HttpEndpoint]:
    """A server reached over TLS, whether it knows that or not."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.CancelledError):
            await script(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=context)
    try:
        with anyio.fail_after(DEADLINE):
            yield HttpEndpoint(host, server.sockets[0].getsockname()[1], tls=True)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1000):
        pass


async def why_not(endpoint: Endpoint, **timeouts: float | None) -> str:
    """Why there is no connection."""
    with pytest.raises(NoConnection) as caught:
        await Opener(endpoint, Timeouts(**timeouts)).open(Line)
    assert caught.value.message == f"no connection to {endpoint}: {caught.value.why}"
    return caught.value.why


# TLS.


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes go both ways over TLS, and the server is told which name we mean and that we speak HTTP/1.1."""
    context, certificate = server_context(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with tls_server(echo, context) as endpoint:
        opener = Opener(endpoint, Timeouts())
        for _ in range(2):
            line = await opener.open(Line)
            line.transport.write(b"x" * 100_000)
            await line.hear(100_000)

            assert line.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            line.transport.abort()
            await line.gone.wait()

    assert names == ["localhost"] * 2


async def test_pace_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secure connection that is not read slows the server down, and loses nothing."""
    context, certificate = server_context(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    size, blocked = 32 * 1024 * 1024, asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        sent = 0
        while sent < size:
            writer.write(b"x" * 65536)
            sent += 65536
            try:
                await asyncio.wait_for(writer.drain(), 0.1)
            except TimeoutError:
                blocked.set()
                await writer.drain()
        await reader.read()

    async with tls_server(script, context) as endpoint:
        line = await Opener(endpoint, Timeouts()).open(Line)
        line.transport.pause_reading()
        line.transport.write(b"x")
        await blocked.wait()
        assert line.heard == b""
        line.transport.resume_reading()
        await line.hear(size)

        line.transport.abort()
        await line.gone.wait()


async def test_stranger(tmp_path: Path) -> None:
    """A server whose certificate nobody vouches for is not talked to."""
    context, _ = server_context(tmp_path)
    async with tls_server(silence, context) as endpoint:
        assert "certificate is not trusted: self" in await why_not(endpoint)


async def test_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that proves to be somebody else."""
    context, certificate = server_context(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with tls_server(silence, context, host="127.0.0.1") as endpoint:
        assert "certificate is not trusted: IP address mismatch" in await why_not(endpoint)


async def test_no_tls_there() -> None:
    """A server that answers a handshake with something else is told so."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with tls_server(script) as endpoint:
        why = await why_not(endpoint)

    assert "TLS" in why


async def test_closing_at_the_handshake() -> None:
    """A server that hangs up on a handshake is told so."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)

    async with tls_server(script) as endpoint:
        assert "TLS" in await why_not(endpoint)


async def test_endless_handshake() -> None:
    """A handshake ends at its limit, and with it the connection."""
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await silence(reader, writer)
        gone.set()

    async with tls_server(script) as endpoint:
        assert await why_not(endpoint, tls_handshake=0.05) == "no TLS handshake within 0.05 s"
        await gone.wait()


async def test_cancelled_handshake() -> None:
    """Who is cancelled during a handshake leaves no connection behind."""
    came, gone = asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        came.set()
        with contextlib.suppress(ConnectionError):
            await silence(reader, writer)
        gone.set()

    async with tls_server(script) as endpoint:
        opening = asyncio.create_task(Opener(endpoint, Timeouts(tls_handshake=None)).open(Line))
        await came.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await gone.wait()


# TCP and socket files.


async def test_nobody_listens(tmp_path: Path) -> None:
    """Where nobody listens a connection is refused; where there is no socket file there is none."""
    with socket.socket() as taken:  # so that nobody else comes to listen there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert await why_not(HttpEndpoint("127.0.0.1", port)) == "Connection refused"
        assert await why_not(TcpEndpoint(port)) == "Connection refused"
    assert await why_not(UnixEndpoint(tmp_path / "none")) == "No such file or directory"


async def test_unknown_name() -> None:
    """A name that leads nowhere is told as such."""
    assert (await why_not(HttpEndpoint("nobody.invalid", 80))).startswith("its name leads to no address (")


async def test_limit_of_connecting() -> None:
    """A machine that does not answer at all is given up at the limit."""
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # more than may wait to be accepted; the kernel drops what comes then
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())

        assert await why_not(TcpEndpoint(server.getsockname()[1]), connect=0.05) == "no connection within 0.05 s"


@pytest.mark.parametrize(("keepalive", "seconds"), [(0.2, 1), (30.0, 30), (None, None)])
async def test_probes(keepalive: float | None, seconds: int | None) -> None:
    """The kernel probes an idle TCP connection as often as it is told to."""
    async with scripted(silence) as endpoint:
        line = await Opener(endpoint, Timeouts(keepalive=keepalive)).open(Line)
        sock = line.transport.get_extra_info("socket")

        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is (seconds is not None)
        if seconds is not None:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == seconds
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == seconds
        line.transport.abort()
        await line.gone.wait()


async def test_socket_file(tmp_path: Path) -> None:
    """A socket file has no such limits, and needs none."""
    async with scripted(echo, unix=tmp_path / "x.sock") as endpoint:
        line = await Opener(endpoint, Timeouts()).open(Line)
        line.transport.write(b"hello")
        await line.hear(5)
        line.transport.abort()
        await line.gone.wait()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])  # asyncio takes EAGAIN for a connection
async def test_full_backlog(tmp_path: Path) -> None:
    """At a socket file whose queue is full, connections wait for their turn as they would over TCP; none is refused."""
    path = tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        opener = Opener(UnixEndpoint(path), Timeouts(connect=None))
        tasks = [asyncio.ensure_future(opener.open(Line)) for _ in range(8)]
        await asyncio.wait(tasks, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(tasks, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
        assert 0 < sum(task.done() for task in tasks) < 8
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        with anyio.fail_after(DEADLINE):
            accepted = [(await loop.sock_accept(listener))[0] for _ in tasks]
            lines = await asyncio.gather(*tasks)
        for each in accepted:
            each.close()
        for line in lines:
            await line.gone.wait()
            line.transport.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_shortage_of_ours(number: int) -> None:
    """That we may open no more files is not told as a fault of the server."""
    error = shortage(OSError(number, "as an event loop says it"))

    assert (error.status, error.code) == (503, "out_of_resources")
    assert os.strerror(number) in error.message
