"""Peers of a config, as they see us and as we know them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from supervisor.config.values import Config, Filters, Peer, Server, Timeouts
from supervisor.fleet.names import Target
from supervisor.proxy.answer import Answer
from supervisor.proxy.call import Call
from supervisor.proxy.client import Client
from supervisor.proxy.dialects import Dialect
from supervisor.proxy.exchange import Exchange
from supervisor.proxy.peers import Peers
from tests.conftest import DEADLINE
from tests.proxy.conftest import Wire
from tests.proxy.tls import server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SENT = [
    (b"host", b"supervisor:8080"),
    (b"x-forwarded-for", b"10.0.0.1"),
    (b"authorization", b"Bearer ours"),
    (b"x-api-key", b"theirs"),
    (b"accept", b"*/*"),
]


@contextlib.asynccontextmanager
async def box(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[list[bytes]]]]:
    """Another service: its port, and the heads it has seen."""
    seen: list[list[bytes]] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                seen.append(head.removesuffix(b"\r\n\r\n").split(b"\r\n"))
                writer.write(OK)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        with anyio.fail_after(DEADLINE):
            yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def peers_of(**peers: Peer) -> Peers:
    return Peers(Config(Path("/"), Server(api_keys=("ours",)), peers=peers))


async def ask(peers: Peers, name: str) -> bytes:
    """A request to a peer; what its client got."""
    wire, ended = Wire(), asyncio.Event()
    transport: Any = wire
    address = ("10.9.9.9", 1)
    client = Client(transport, "GET", ("/v1", b"/v1", b""), SENT, version="1.1", address=address, ended=ended.set)
    client.is_whole = True
    call = Call(b"GET", b"/v1/models", SENT, b"", Target("m", "m", Filters()))
    Exchange(call, Answer(client, Dialect.OPENAI), peers.backend(name)).start()
    await ended.wait()
    return wire.written


async def test_what_a_peer_sees() -> None:
    """A peer sees its own host, the client's credentials unless they are ours, and not whom we serve."""
    async with box() as (port, seen):
        peers = peers_of(far=Peer(f"http://127.0.0.1:{port}", ("m",)))
        answer = await ask(peers, "far")
        peers.close()

    assert answer == OK
    host = b"host: 127.0.0.1:%d" % port
    assert seen == [[b"GET /v1/models HTTP/1.1", host, b"x-api-key: theirs", b"accept: */*"]]


async def test_key_and_base_path() -> None:
    """A peer with a key and a path gets both."""
    async with box() as (port, seen):
        peers = peers_of(far=Peer(f"http://127.0.0.1:{port}/llm/", ("m",), api_key="secret"))
        await ask(peers, "far")
        peers.close()

    key = [b"authorization: Bearer secret", b"x-api-key: secret"]
    assert seen == [[b"GET /llm/v1/models HTTP/1.1", b"host: 127.0.0.1:%d" % port, b"accept: */*", *key]]


async def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer behind TLS is asked over one connection, again and again."""
    context, certificate = server_context(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with box(context) as (port, seen):
        peers = peers_of(far=Peer(f"https://localhost:{port}", ("m",)))
        answers = [await ask(peers, "far") for _ in range(3)]

        assert answers == [OK] * 3
        assert seen[0][1] == b"host: localhost:%d" % port
        assert "[0 busy, 1 idle]" in repr(peers)
        peers.close()


@contextlib.asynccontextmanager
async def forward_proxy(port: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy for which every name leads to this port; its URL, and the heads it has seen."""
    seen: list[bytes] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        if head.startswith(b"CONNECT"):
            writer.write(b"HTTP/1.1 200 Connection established\r\nvia: us\r\n\r\n")
        else:
            far_writer.write(head)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pass_on(reader, far_writer))
            tasks.create_task(pass_on(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://me:secret@127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


async def test_through_a_forward_proxy(caplog: pytest.LogCaptureFixture) -> None:
    """A peer on HTTP is asked for with its whole URL; what is for the proxy stands beside what is for the peer."""
    caplog.set_level("INFO", "supervisor.proxy")
    async with box() as (port, seen), forward_proxy(port) as (url, _):
        config = Config(Path("/"), Server(), peers={"far": Peer("http://far.example:81/llm", ("m",), api_key="theirs")})
        peers = Peers(config, {"http_proxy": url})
        answers = [await ask(peers, "far") for _ in range(2)]
        peers.close()

    assert answers == [OK, OK]
    (line,) = (record.message for record in caplog.records)
    assert line.startswith("the peer far is asked through the proxy 127.0.0.1:")
    assert "secret" not in line
    assert seen[0] == seen[1]
    first, host, *others = seen[0]
    assert (first, host) == (b"GET http://far.example:81/llm/v1/models HTTP/1.1", b"host: far.example:81")
    assert set(others) >= {b"proxy-authorization: Basic bWU6c2VjcmV0", b"authorization: Bearer theirs"}


async def test_through_a_forward_proxy_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer behind TLS is reached by CONNECT, once for many requests, and the proxy sees nothing else of them."""
    context, certificate = server_context(tmp_path, name="far.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with box(context) as (port, seen), forward_proxy(port) as (url, heads):
        config = Config(Path("/"), Server(), peers={"far": Peer("https://far.example/llm", ("m",))})
        peers = Peers(config, {"HTTPS_PROXY": url})
        answers = [await ask(peers, "far") for _ in range(2)]
        peers.close()

    assert answers == [OK, OK]
    assert [lines[0] for lines in seen] == [b"GET /llm/v1/models HTTP/1.1"] * 2
    assert not [line for line in seen[0] if line.startswith(b"proxy-")]
    assert [head.split(b"\r\n")[0] for head in heads] == [b"CONNECT far.example:443 HTTP/1.1"]


async def test_untrusted(tmp_path: Path) -> None:
    """A peer that cannot prove who it is gets no request, and the client learns why."""
    context, _ = server_context(tmp_path)
    async with box(context) as (port, seen):
        peers = peers_of(far=Peer(f"https://localhost:{port}", ("m",)))
        answer = await ask(peers, "far")

    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"the peer `far` cannot be reached: its TLS certificate is not trusted" in answer
    assert seen == []
    assert peers.reachable("far") is False


async def test_reachable() -> None:
    """Of each peer it is known whether the last request came through, of an unasked one nothing."""
    async with box() as (port, _):
        peer = Peer(f"http://127.0.0.1:{port}", ("m",), timeouts=Timeouts(connect=5))
        peers = peers_of(near=peer, far=Peer("http://nobody.invalid", ("m",)), unasked=peer)
        await ask(peers, "near")
        answer = await ask(peers, "far")

        assert [peers.reachable(name) for name in ("near", "far", "unasked")] == [True, False, None]
        assert b"the peer `far` cannot be reached: its name leads to no address" in answer
        assert "unasked" not in repr(peers), "nothing is made for it"
    peers.close()
    assert b"shutting_down" in await ask(peers, "near")


async def test_one_backend_for_each() -> None:
    """All requests to a peer share its connections."""
    peers = peers_of(a=Peer("http://127.0.0.1:1", ("m",)), b=Peer("http://127.0.0.1:1", ("m",)))

    assert peers.backend("a") is peers.backend("a")
    assert peers.backend("a").upstream is not peers.backend("b").upstream


async def test_after_a_reload() -> None:
    """A peer that stays keeps its connections, whatever else is said of it; one that moved is asked where it is."""
    async with box() as (port, seen), box() as (other_port, other_seen):
        stays, moves = Peer(f"http://127.0.0.1:{port}", ("m",)), Peer(f"http://127.0.0.1:{port}/old", ("m",))
        peers = peers_of(stays=stays, moves=moves, goes=moves)
        for name in ("stays", "moves", "goes"):
            await ask(peers, name)
        kept, former = peers.backend("stays"), peers.backend("moves").upstream
        peers.adopt(
            Config(
                Path("/"),
                Server(api_keys=("theirs",)),
                peers={
                    "stays": replace(stays, api_key="new", timeouts=Timeouts(response_header=7.0)),
                    "moves": Peer(f"http://127.0.0.1:{other_port}", ("m",)),
                },
            )
        )
        assert [await ask(peers, name) for name in ("stays", "moves")] == [OK, OK]

        assert peers.backend("stays") is kept
        assert kept.upstream.response_header == 7.0
        assert seen[-1][-2:] == [b"authorization: Bearer new", b"x-api-key: new"]
        assert [line for line in other_seen[0] if b"ours" in line] == [b"authorization: Bearer ours"]
        assert not any(b"theirs" in line for line in other_seen[0])
        assert "[0 busy, 0 idle]" in repr(former)
        assert peers.reachable("goes") is None
        peers.close()


async def test_an_answer_of_a_former_peer_comes_to_its_end() -> None:
    """It breaks only if the service ends before."""
    async with box() as (port, _):
        peers = peers_of(far=Peer(f"http://127.0.0.1:{port}", ("m",)))
        upstream = peers.backend("far").upstream
        used = await upstream.connect()
        peers.adopt(Config(Path("/")))
        assert not used.is_closed
        peers.adopt(Config(Path("/")))
        peers.close()

        assert used.is_closed or used._transport.is_closing()
