"""Who answers a request: what a child of ours and a peer are told apart by. What they share: `test_exchange.py`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.access.keys import KeyRing
from supervisor.config.clients import ClientKey, digest_of
from supervisor.config.values import Filters, Model, Timeouts
from supervisor.fleet.names import Target
from supervisor.fleet.values import Phase, Run, RunId
from supervisor.llama.endpoint import Endpoint, HttpEndpoint, TcpEndpoint, UnixEndpoint
from supervisor.proxy.answer import Answer
from supervisor.proxy.backend import Children, PeerBackend, local_upstream
from supervisor.proxy.call import Call
from supervisor.proxy.client import Client
from supervisor.proxy.dialects import Dialect
from supervisor.proxy.exchange import Exchange
from supervisor.proxy.heads import AS_IT_CAME, Forwarding, Trail
from supervisor.proxy.upstream import IDLE_SECONDS, Upstream
from supervisor.runtime.live import Lease, LiveRun
from tests.proxy.conftest import Wire, scripted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.proxy.conftest import Script

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
TARGET = Target("far", "far", Filters())


class Asked:
    """One request to a peer, and what its client got of the answer."""

    def __init__(self, upstream: Upstream) -> None:
        self.wire = Wire()
        self.ended = asyncio.Event()
        transport: Any = self.wire
        headers = [(b"host", b"me")]
        self.client = Client(
            transport, "POST", ("/x", b"/x", b""), headers, version="1.1", address=None, ended=self.ended.set
        )
        self.client.is_whole = True
        self.answer = Answer(self.client, Dialect.OPENAI)
        call = Call(b"POST", b"/x", headers, b"body", TARGET)
        self.backend = PeerBackend("box", upstream)
        Exchange(call, self.answer, self.backend).start()

    async def end(self) -> bytes:
        await self.ended.wait()
        return self.wire.written

    @property
    def status(self) -> int:
        return int(self.wire.written.split()[1])


async def until(fact: Callable[[], object]) -> None:
    while not fact():  # noqa: ASYNC110 - a wire tells its state, but has no event for it
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def peer(script: Script, **timeouts: float | None) -> AsyncIterator[Upstream]:
    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint, timeouts=Timeouts(**timeouts))
        yield upstream
        upstream.close()


def saying(*pieces: bytes) -> Script:
    """A peer that answers with these and closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return script


# A peer.


async def test_unreachable() -> None:
    """A peer where nobody listens is a 502 that names it, says why, and where it should be."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        upstream = Upstream(HttpEndpoint("127.0.0.1", taken.getsockname()[1], base_path="/v1"))
        asked = Asked(upstream)
        await asyncio.wait_for(asked.end(), 30)

    assert asked.status == 502
    assert b"the peer `box` cannot be reached: Connection refused" in asked.wire.written
    assert f"it should serve at {upstream.endpoint}".encode() in asked.wire.written
    assert b'"upstream_unreachable"' in asked.wire.written
    assert upstream.is_reachable is False


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 502, 503])
async def test_errors_pass(status: int) -> None:
    """What a peer that can be reached answers passes as it is, an error too."""
    answer = b'HTTP/1.1 %d Some Phrase\r\nretry-after: 7\r\ncontent-length: 14\r\n\r\n{"error":"no"}' % status
    async with peer(saying(answer)) as upstream:
        asked = Asked(upstream)
        written = await asked.end()

        assert asked.status == status
        assert b"retry-after: 7\r\n" in written
        assert written.endswith(b'\r\n\r\n{"error":"no"}')
        assert upstream.is_reachable is True


async def test_closing_before_an_answer() -> None:
    """A peer that closes instead of answering is a 502 that says that, at once."""
    async with peer(saying()) as upstream:
        asked = Asked(upstream)
        await asked.end()

        assert asked.status == 502
        assert b"the peer `box` closed the connection before the end of its answer" in asked.wire.written


async def test_closing_in_a_stream() -> None:
    """A stream that a peer breaks off ends with an error event, not torn."""
    chunk = b"9\r\ndata: 1\n\n\r\n6\r\ndata: \r\n"
    async with peer(saying(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk)) as upstream:
        asked = Asked(upstream)
        written = await asked.end()

        assert b"data: 1\n\n" in written
        assert b'"code":"upstream_unreachable"' in written
        assert written.endswith(b"0\r\n\r\n")


async def test_closing_in_an_answer() -> None:
    """Any other answer that a peer breaks off is cut, for nothing can be added to it."""
    async with peer(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")) as upstream:
        asked = Asked(upstream)
        written = await asked.end()

        assert written.endswith(b"half")
        assert not asked.client.keep_alive


async def test_stream_until_the_connection_ends() -> None:
    """A stream of a peer that ends with its connection is taken for whole, at once."""
    async with peer(saying(HEAD + b"\r\ndata: 1\n\n")) as upstream:
        asked = Asked(upstream)
        written = await asked.end()

        assert b"data: 1\n\n" in written
        assert b"error" not in written


async def test_late() -> None:
    """A peer that does not answer in time is a 504 that names it, and does not count as reachable."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(script, response_header=0.05) as upstream:
        asked = Asked(upstream)
        await asked.end()

        assert asked.status == 504
        assert b"the peer `box` has not begun to answer within 0.05 s" in asked.wire.written
        assert upstream.is_reachable is False


async def test_peers_are_closed() -> None:
    """A request that is cut because we let go of a peer does not blame the peer."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(script) as upstream:
        cut = Asked(upstream)
        await until(lambda: "[1 busy" in repr(upstream))
        upstream.close()
        await cut.end()
        late = Asked(upstream)
        await late.end()

        assert [each.status for each in (cut, late)] == [503, 503]
        assert b"shutting_down" in cut.wire.written
        assert upstream.is_reachable is True


async def test_heard() -> None:
    """It is known when a peer was last heard."""
    async with peer(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")) as upstream:
        asked = Asked(upstream)
        before = asked.backend.heard_at
        await asked.end()

        assert asked.backend.heard_at > before
        assert asked.backend.name == "peer box"


# A child of ours.


def run_of(model: Model, endpoint: Endpoint) -> LiveRun:
    run = LiveRun(Run(RunId(1), model, Phase.READY, 0.0, 0.0))
    run.endpoint = endpoint
    return run


UNIX = UnixEndpoint(Path("/x.sock"))
SHORT, LONG = Timeouts(idle_connection=1.0, response_header=9.0), Timeouts(idle_connection=None)


@pytest.mark.parametrize(
    ("model", "seconds"),
    [
        (Model("m"), IDLE_SECONDS),
        (Model("m", timeouts=SHORT), 1.0),
        (Model("m", timeouts=LONG), IDLE_SECONDS),
        (Model("m", cmd=("server",)), 90.0),
        (Model("m", cmd=("server",), timeouts=SHORT), 1.0),
        (Model("m", cmd=("server",), timeouts=LONG), float("inf")),
    ],
)
async def test_idle_connections(model: Model, seconds: float) -> None:
    """Connections to a llama-server go before it closes them; for other servers the file decides."""
    upstream = local_upstream(run_of(model, UNIX))

    assert upstream._idle_seconds == seconds
    assert upstream.response_header == model.timeouts.response_header


async def test_who_uses_a_child_shares_a_backend() -> None:
    """Looking at a child is not using it, though the connections are the same; they end when it is asked to leave."""
    run, children, given_back = run_of(Model("m"), UNIX), Children(), list[str]()
    run.lease = Lease(run, lambda _: given_back.append("used"))
    looking = Lease(run, lambda _: given_back.append("looked at"))
    first = children.behind(looking)
    backend = children.behind(run.lease)
    for each in (first, children.behind(looking), children.behind(run.lease)):
        each.begin()
        each.end()

    assert given_back == ["looked at", "looked at", "used"]
    assert children.behind(run.lease) is backend
    assert children.behind(looking).upstream is first.upstream is backend.upstream
    assert not backend.upstream.is_closed
    children.adopt(OWN_KEYS)
    assert backend.upstream.forwarding.own_keys == OWN_KEYS
    run.end(None)
    assert backend.upstream.is_closed
    assert children.behind(run.lease).upstream.forwarding.own_keys == OWN_KEYS


OWN_KEYS = KeyRing((ClientKey("k", digest_of("k")),))


@pytest.mark.parametrize(
    ("model", "endpoint", "keys", "forwarding"),
    [
        (Model("m"), UNIX, KeyRing(), AS_IT_CAME),
        (Model("m", cmd=("server",)), TcpEndpoint(1), KeyRing(), AS_IT_CAME),
        (Model("m"), UNIX, OWN_KEYS, Forwarding(own_keys=OWN_KEYS)),
        (
            Model("m", cmd=("server",), proxy="http://localhost:1"),
            TcpEndpoint(1, "localhost"),
            KeyRing(),
            Forwarding(host=None, trail=Trail.CONTINUED),
        ),
        (
            Model("m", cmd=("server",), proxy="http://box:1/base"),
            HttpEndpoint("box", 1, base_path="/base"),
            OWN_KEYS,
            Forwarding(host=None, base_path=b"/base", trail=Trail.CONTINUED, own_keys=OWN_KEYS),
        ),
    ],
)
async def test_heads(model: Model, endpoint: Endpoint, keys: KeyRing, forwarding: Forwarding) -> None:
    """A model with a `proxy` sees the host and the way of a request; others do not; none sees our keys."""
    upstream = local_upstream(run_of(model, endpoint), keys)

    assert upstream.forwarding == forwarding
    assert (upstream.forwarding is AS_IT_CAME) is (forwarding is AS_IT_CAME), "the quick way"
