"""Connections to a child: every way a response can be framed, cut and mangled, and which connections live on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.values import Timeouts
from supervisor.errors import UpstreamUnreachable
from supervisor.llama.endpoint import TcpEndpoint, UnixEndpoint
from supervisor.proxy.connection import Connection
from supervisor.proxy.heads import Forwarding
from supervisor.proxy.upstream import IDLE_SECONDS, Upstream
from tests.proxy.conftest import scripted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from supervisor.proxy.heads import Fields, Headers

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
MiB = 1024 * 1024
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"


class Broken(Exception):
    """Raised when a response broke off; `started` tells whether its head had come."""

    def __init__(self, *, started: bool) -> None:
        super().__init__("the connection ended before the response did")
        self.started = started


class Reader:
    """Who is told of a response, and keeps it until a test asks for it."""

    def __init__(self, *, takes_chunks: bool = False) -> None:
        self.takes_chunks = takes_chunks
        self.lags: list[bool] = []
        """What was told of the child's pace."""
        self._head: tuple[int, Headers] | None = None
        self._pieces: list[bytes] = []
        self.passed = 0
        """Chunks that came as they were on the wire."""
        self._has_ended = False
        self._broken: Broken | None = None
        self._changed = asyncio.Event()

    async def head(self) -> tuple[int, Headers]:
        while self._head is None:
            await self._change()
        return self._head

    async def read(self) -> bytes | None:
        """What has come of the body since the last call; None after its end."""
        while not self._pieces:
            if self._has_ended:
                return None
            await self._change()
        pieces = b"".join(self._pieces)
        self._pieces.clear()
        return pieces

    @property
    def size(self) -> int:
        """Bytes that wait to be read."""
        return sum(map(len, self._pieces))

    async def _change(self) -> None:
        if self._broken is not None:
            raise self._broken
        self._changed.clear()
        await self._changed.wait()

    def head_came(self, status: int, headers: Headers, fields: Fields, *, is_alone: bool) -> bool:
        assert self._head is None
        self._head = status, headers
        self.is_alone = is_alone
        self._changed.set()
        return self.takes_chunks

    def piece_came(self, piece: bytes) -> None:
        assert self._head is not None
        assert not self._has_ended
        assert piece, "no empty pieces"
        self._pieces.append(piece)
        self._changed.set()

    def chunks_came(self, chunks: bytes, *, are_last: bool) -> None:
        assert self.takes_chunks
        payloads, left = parted(chunks)
        assert left == b""
        assert payloads, "at least one chunk"
        assert are_last is (payloads[-1] == b"")
        assert are_last or payloads[-1].endswith(b"\n")
        self.passed += len(payloads)
        self._pieces += payloads
        self._changed.set()

    def ended(self) -> None:
        assert self._head is not None
        assert not self._has_ended
        assert self._broken is None
        self._has_ended = True
        self._changed.set()

    def broke(self, *, started: bool) -> None:
        assert not self._has_ended
        assert started is (self._head is not None)
        self._broken = Broken(started=started)
        self._changed.set()

    def child_lags(self) -> None:
        self.lags.append(True)

    def child_keeps_up(self) -> None:
        self.lags.append(False)


def parted(raw: bytes) -> tuple[list[bytes], bytes]:
    """The payloads of chunks, and what is no whole chunk behind them."""
    payloads = []
    while b"\r\n" in raw:
        size, _, rest = raw.partition(b"\r\n")
        end = int(size, 16)
        if rest[end : end + 2] != b"\r\n":
            break
        payloads.append(rest[:end])
        raw = rest[end + 2 :]
    return payloads, raw


def asked(connection: Connection, method: bytes = b"GET", body: bytes = b"") -> Reader:
    """Begin an exchange; who is told of the response."""
    reader = Reader()
    connection.send(reader, method, REQUEST.replace(b"GET", method), body)
    return reader


async def whole(connection: Connection, method: bytes = b"GET") -> tuple[int, Headers, bytes]:
    """One exchange to its end."""
    reader = asked(connection, method)
    status, headers = await reader.head()
    return status, headers, await rest(reader)


async def rest(reader: Reader, *, into: list[bytes] | None = None) -> bytes:
    """What is left of the body; `into` has what came before it broke."""
    chunks = [] if into is None else into
    while (chunk := await reader.read()) is not None:
        chunks.append(chunk)
    return b"".join(chunks)


async def acquired(upstream: Upstream) -> Connection:
    """A connection, a kept one if there is any."""
    return upstream.take_idle() or await upstream.connect()


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact in this loop; `scripted` sets the limit."""
    while not fact():  # noqa: ASYNC110 - a transport tells its state, but has no event for it
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def child(*answers: bytes | None) -> AsyncIterator[Upstream]:
    """A child that gives these answers one by one, however connections come; None ends the connection in between."""
    left = list(answers)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            await reader.readuntil(b"\r\n\r\n")
            answer = left.pop(0)
            if answer is None:
                return
            writer.write(answer)
            if left and left[0] is None:
                left.pop(0)
                return
        await reader.read()

    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        yield upstream
        upstream.close()


# Framings.


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (OK, 200, b"ok"),
        (CHUNKED, 200, b"hello"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 404, b"no"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", 304, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + CHUNKED, 200, b"hello"),
    ],
)
async def test_framing(answer: bytes, status: int, body: bytes) -> None:
    """A response ends where its framing says, and its connection serves the next one."""
    async with child(answer, OK) as upstream:
        connection = await acquired(upstream)
        assert await whole(connection) == (status, connection._headers, body)
        upstream.release(connection)
        again = await acquired(upstream)

        assert again is connection
        assert (await whole(again))[2] == b"ok"


async def test_headers_of_early_answers_are_dropped() -> None:
    """What comes with a 1xx is not part of the response's head; names are lower case, the order is kept."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    late = b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nX-B: 1\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n"
    async with child(early + late) as upstream:
        _, headers, _ = await whole(await acquired(upstream))

        assert headers == [(b"set-cookie", b"a"), (b"x-b", b"1"), (b"set-cookie", b"b"), (b"content-length", b"0")]


async def test_unix_socket(tmp_path: Path) -> None:
    """A child on a unix socket is reached like one on a port."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readuntil(b"\r\n\r\n") == REQUEST
        writer.write(OK)
        await reader.read()

    async with scripted(script, unix=tmp_path / "x.sock") as endpoint:
        upstream = Upstream(endpoint)
        connection = await acquired(upstream)

        assert (await whole(connection))[2] == b"ok"
        upstream.release(connection)
        upstream.close()


async def test_body_until_the_connection_ends() -> None:
    """Without a length the body is everything up to the end, and the connection is not used again."""
    async with child(b"HTTP/1.0 200 OK\r\n\r\nall of it", None, OK) as upstream:
        connection = await acquired(upstream)
        assert (await whole(connection))[2] == b"all of it"
        upstream.release(connection)

        assert await acquired(upstream) is not connection


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"],
)
async def test_head_has_no_body(answer: bytes) -> None:
    """A response to HEAD ends with its head, whatever length it tells; its connection is not used again."""
    async with child(answer, OK) as upstream:
        connection = await acquired(upstream)
        status, _, body = await whole(connection, b"HEAD")
        assert (status, body) == (200, b"")
        upstream.release(connection)

        assert await acquired(upstream) is not connection


async def test_byte_by_byte() -> None:
    """It does not matter how a response is cut into segments."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in CHUNKED:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        assert (await whole(await acquired(upstream)))[2] == b"hello"
        upstream.close()


class Wire:
    """A transport that remembers what was done to it."""

    def __init__(self, protocol: Connection) -> None:
        self._protocol = protocol
        self.written = b""
        self.is_paused = False
        self._is_closing = False
        protocol.connection_made(self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def abort(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


names = st.sampled_from([b"x-a", b"X-B", b"Content-Type", b"set-cookie"])
headers = st.lists(st.tuples(names, st.sampled_from([b"", b"1", b"a b; c=\xff", b"text/event-stream"])), max_size=4)


@st.composite
def responses(draw: st.DrawFn) -> tuple[list[bytes], tuple[int, Headers, bytes], bool]:
    """Segments of a response, what it says, and whether it ends with the connection."""
    status = draw(st.sampled_from([200, 201, 404, 500]))
    parts = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=5))
    told = draw(headers)
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    body = b"".join(parts)
    match framing:
        case "length":
            told = [*told, (b"Content-Length", b"%d" % len(body))]
        case "chunked":
            told = [*told, (b"Transfer-Encoding", b"chunked")]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    early = b"HTTP/1.1 100 Continue\r\nx-early: 1\r\n\r\n" * draw(st.integers(0, 2))
    head = b"HTTP/1.1 %d X\r\n" % status + b"".join(name + b": " + value + b"\r\n" for name, value in told) + b"\r\n"
    raw = early + head + body
    cuts = sorted(draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    segments = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    meant = [(name.lower(), value.strip()) for name, value in told]
    return segments, (status, meant, b"".join(parts)), framing == "close"


@given(responses())
def test_any_split(case: tuple[list[bytes], tuple[int, Headers, bytes], bool]) -> None:
    """Any response, in any segments, gives the same status, headers and body, and tells whether it may go on."""
    segments, meant, ends = case

    async def exchange() -> tuple[int, Headers, bytes]:
        connection = Connection()
        Wire(connection)
        reading = asyncio.create_task(whole(connection))
        await asyncio.sleep(0)
        for segment in segments:
            connection.data_received(segment)
            if len(segments) % 2:
                await asyncio.sleep(0)  # let the reader see this much of it
        if ends:
            connection.connection_lost(None)
        result = await reading
        assert connection.can_be_reused is not ends
        return result

    assert asyncio.run(exchange()) == meant


# Chunks that pass by.


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


EVENT = b"data: 1\n\n"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
payloads = st.lists(
    st.sampled_from(
        [EVENT, EVENT * 3, b"data: torn", b"\n\n", b"x\r\n\r\n", b"\n\r\n", b"0\r\n\r\n", b"5\r\nab\n\r\n"]
    ),
    min_size=1,
    max_size=8,
)
places = st.lists(st.integers(1, 300), max_size=10)


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    cuts = sorted({0, len(raw), *(place % (len(raw) + 1) for place in places)})
    return [raw[start:end] for start, end in itertools.pairwise(cuts)]


@given(st.one_of(payloads, st.lists(st.sampled_from([EVENT, EVENT * 3, b"data: torn", b"\n\n"]), min_size=1)), places)
def test_chunks_in_any_segments(payloads: list[bytes], places: list[int]) -> None:
    """Whether chunks pass by or are taken apart, the same body arrives; only carriage returns may make it break."""

    async def exchange() -> bytes:
        connection = Connection()
        Wire(connection)
        reader = Reader(takes_chunks=True)
        connection.send(reader, b"GET", REQUEST)
        for segment in cut(STREAM + b"".join(map(chunk, payloads)) + b"0\r\n\r\n", places):
            connection.data_received(segment)
        if connection.is_torn:
            assert any(b"\r" in payload for payload in payloads)
            return body
        assert connection.can_be_reused
        again = Reader()
        connection.send(again, b"GET", REQUEST)
        connection.data_received(OK)
        assert await rest(again) == b"ok"
        return await rest(reader)

    body = b"".join(payloads)
    assert asyncio.run(exchange()) == body


@given(payloads, places, st.integers(0, 300))
def test_where_chunks_break_off(payloads: list[bytes], places: list[int], end: int) -> None:
    """What has come of a body that breaks off is passed on, and it is known whether that ends within a chunk."""
    parts = [*map(chunk, payloads)]
    raw = b"".join(parts)
    raw = raw[: end % (len(raw) + 1)]

    async def exchange() -> None:
        connection = Connection()
        Wire(connection)
        reader = Reader(takes_chunks=True)
        connection.send(reader, b"GET", REQUEST)
        for segment in cut(STREAM + raw, places):
            connection.data_received(segment)
        connection.connection_lost(None)
        came: list[bytes] = []
        with pytest.raises(Broken):
            await rest(reader, into=came)
        whole, torn = parted(raw)
        if not any(b"\r" in payload for payload in payloads):
            assert not connection.is_torn
            assert b"".join(came) == b"".join(whole) + torn.partition(b"\r\n")[2].removesuffix(b"\r")

    asyncio.run(exchange())


@pytest.mark.parametrize("size", [1, 3])
def test_events_pass_by(size: int) -> None:
    """From the second segment on, events pass as they are."""

    async def exchange() -> int:
        connection = Connection()
        Wire(connection)
        reader = Reader(takes_chunks=True)
        connection.send(reader, b"GET", REQUEST)
        for segment in (STREAM, chunk(EVENT), *[chunk(EVENT) * size] * 5, b"0\r\n\r\n"):
            connection.data_received(segment)
        assert await rest(reader) == EVENT * (1 + 5 * size)
        return reader.passed

    assert asyncio.run(exchange()) == 5 * size + 1


@pytest.mark.parametrize("more", [b"", b"data: to"])
def test_torn_chunks(more: bytes) -> None:
    """A chunk that breaks off where its framing seems to end is found out: nothing can follow what has passed."""

    async def exchange() -> None:
        connection = Connection()
        wire = Wire(connection)
        reader = Reader(takes_chunks=True)
        reader.chunks_came = lambda chunks, *, are_last: None  # type: ignore[method-assign]
        connection.send(reader, b"GET", REQUEST)
        for segment in (STREAM, chunk(EVENT), b"50\r\ndata: x\n\r\n"):
            connection.data_received(segment)
        assert not wire.is_closing()
        if more:
            connection.data_received(more)
            assert wire.is_closing()
        else:
            connection.connection_lost(None)
        assert connection.is_torn

    asyncio.run(exchange())


@pytest.mark.parametrize("bad", [b"zz\r\n", b"5\r\nabcdefg\r\n", b"-1\r\n\n\r\n", b"0\r\n\r\nmore\n\r\n"])
def test_what_are_no_chunks(bad: bytes) -> None:
    """Nothing passes that is no chunk, and nothing behind the last one."""

    async def exchange() -> None:
        connection = Connection()
        wire = Wire(connection)
        reader = Reader(takes_chunks=True)
        connection.send(reader, b"GET", REQUEST)
        for segment in (STREAM, chunk(EVENT), chunk(EVENT), bad + b"\n\r\n"):
            connection.data_received(segment)
        assert wire.is_closing()
        assert reader.passed == 1

    asyncio.run(exchange())


# What breaks.


@pytest.mark.parametrize(
    ("answer", "begin"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", b"short"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n", b"short"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nshort", b"short"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\ngarbage\r\n", b"short"),
    ],
)
async def test_short_body(answer: bytes, begin: bytes) -> None:
    """A body that ends early is never taken for a whole one; what came of it is given out first."""
    async with child(answer, None) as upstream:
        connection = await acquired(upstream)
        reader = asked(connection)
        await reader.head()
        got: list[bytes] = []
        with pytest.raises(Broken) as caught:
            await rest(reader, into=got)

        assert b"".join(got) == begin
        assert caught.value.started
        upstream.release(connection)
        assert not connection.can_be_reused


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x00\x00",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_no_head(answer: bytes) -> None:
    """An end or nonsense before the head is complete is told as such."""
    async with child(answer, None) as upstream:
        connection = await acquired(upstream)
        reader = asked(connection)
        with pytest.raises(Broken) as caught:
            await reader.head()

        assert not caught.value.started


@pytest.mark.parametrize("begin", [b"", OK[:-1], b"HTTP/1.0 200 OK\r\n\r\nall"])
async def test_reset(begin: bytes) -> None:
    """A reset is no end of a body, not even of one that lasts until the connection ends."""
    seen = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begin)
        if begin:
            await seen.wait()
        linger = struct.pack("ii", 1, 0)  # not at all: closing resets
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with scripted(script) as endpoint:
        connection = await Upstream(endpoint).connect()
        reader = asked(connection)
        if begin:
            await reader.head()
            await reader.read()
            seen.set()
        with pytest.raises(Broken) as caught:
            await (reader.read() if begin else reader.head())

        assert caught.value.started is bool(begin)


async def test_nobody_there(tmp_path: Path) -> None:
    """An address where nobody listens is an error that names it."""
    async with child() as upstream:
        endpoint = upstream.endpoint

    for gone in (endpoint, UnixEndpoint(tmp_path / "none.sock")):
        with pytest.raises(UpstreamUnreachable) as caught:
            await Upstream(gone).connect()
        assert str(gone) in caught.value.message


# Which connections live on.


async def test_most_recent_first() -> None:
    """Idle connections are used again, the last one first."""
    async with child(*[OK] * 3) as upstream:
        first, second = await acquired(upstream), await acquired(upstream)
        for connection in (first, second):
            await whole(connection)
            upstream.release(connection)

        assert (first.has_served, second.has_served) == (True, True)
        assert await acquired(upstream) is second
        assert await acquired(upstream) is first
        assert (await acquired(upstream)).has_served is False


async def test_idle_too_long() -> None:
    """A connection that the child is about to close is not used any more."""
    async with child(OK, OK) as upstream:
        connection = await acquired(upstream)
        await whole(connection)
        upstream.release(connection)
        connection.used_at -= IDLE_SECONDS

        assert await acquired(upstream) is not connection
        await until(lambda: connection.is_closed)


async def test_unused_connections_close() -> None:
    """A connection that nobody uses again is closed at the limit, also while another one is in use."""
    async with child(*[OK] * 20) as like:
        upstream = Upstream(like.endpoint, timeouts=Timeouts(idle_connection=0.05))
        unused, used = await acquired(upstream), await acquired(upstream)
        for connection in (unused, used):
            await whole(connection)
            upstream.release(connection)
        assert upstream.take_idle() is used
        await until(lambda: unused.is_closed)
        assert not used.is_closed
        assert "[1 busy, 0 idle]" in repr(upstream)
        assert (await whole(used))[2] == b"ok"
        upstream.release(used)
        await until(lambda: used.is_closed)

        assert "[0 busy, 0 idle]" in repr(upstream)
        assert upstream._sweep is None


async def test_unlimited_idleness() -> None:
    """Without a limit connections are kept for as long as the server keeps them."""
    async with child(OK, OK) as like:
        upstream = Upstream(like.endpoint, timeouts=Timeouts(idle_connection=None))
        connection = await acquired(upstream)
        await whole(connection)
        upstream.release(connection)
        connection.used_at -= 1e6

        assert upstream._sweep is None
        assert upstream.take_idle() is connection
        upstream.release(connection)
        upstream.close()
        await until(lambda: connection.is_closed)


async def test_drying_up() -> None:
    """Idle connections end at once, one in use after its answer, and nobody is kept from opening another."""
    async with child(*[OK] * 20) as like:
        for limit in (3600.0, None):
            upstream = Upstream(like.endpoint, timeouts=Timeouts(idle_connection=limit))
            idle, used = await acquired(upstream), await acquired(upstream)
            await whole(idle)
            upstream.release(idle)
            upstream.dry_up()
            await until(lambda idle=idle: idle.is_closed)
            assert upstream.is_used
            assert (await whole(used))[2] == b"ok"
            upstream.release(used)
            await until(lambda used=used: used.is_closed)

            assert not upstream.is_used
            late = await acquired(upstream)
            assert (await whole(late))[2] == b"ok"
            upstream.release(late)
            await until(lambda late=late: late.is_closed)


async def test_another_treatment_keeps_connections() -> None:
    """Limits and headers hold from the next exchange on; what is open stays."""
    async with child(OK, OK) as like:
        upstream = Upstream(like.endpoint)
        connection = await acquired(upstream)
        await whole(connection)
        upstream.release(connection)
        forwarding = Forwarding(own_keys=frozenset({b"k"}))
        upstream.adopt(Timeouts(response_header=5.0), forwarding)

        assert (upstream.response_header, upstream.forwarding) == (5.0, forwarding)
        assert upstream.take_idle() is connection
        upstream.close()


async def test_closing_stops_the_clock() -> None:
    """An upstream that is closed leaves no timer behind, and opens nothing more."""
    async with child(OK) as upstream:
        connection = await acquired(upstream)
        await whole(connection)
        upstream.release(connection)
        timer = upstream._sweep
        upstream.close()

        assert timer is not None
        assert timer.cancelled()
        with pytest.raises(UpstreamUnreachable, match="is being stopped"):
            await upstream.connect()


async def test_closing_while_connecting() -> None:
    """A connection that comes when its upstream is closed already is closed too."""
    closed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        closed.set()

    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        connecting = asyncio.create_task(upstream.connect())
        await asyncio.sleep(0)
        upstream.close()
        with pytest.raises(UpstreamUnreachable, match="is being stopped"):
            await connecting

        await closed.wait()
        assert "[0 busy, 0 idle]" in repr(upstream)


async def test_reachable() -> None:
    """It is known of the last attempt whether it came through, and of nothing before the first."""
    async with child(OK) as upstream:
        assert upstream.is_reachable is None
        await upstream.connect()
        assert upstream.is_reachable is True
    with contextlib.suppress(UpstreamUnreachable):
        gone = Upstream(upstream.endpoint)
        await gone.connect()

    assert gone.is_reachable is False


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: Close\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ],
)
async def test_not_kept(answer: bytes) -> None:
    """A child that says it will close is taken at its word."""
    async with child(answer, OK) as upstream:
        connection = await acquired(upstream)
        assert (await whole(connection))[2] == b"ok"
        upstream.release(connection)

        assert await acquired(upstream) is not connection
        await until(lambda: connection.is_closed)


async def test_unread_answer() -> None:
    """A connection given back in the middle of its response is closed, which tells the child to stop."""
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK[:-1])
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()

    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        connection = await acquired(upstream)
        reader = asked(connection)
        await reader.head()
        upstream.release(connection)

        await gone.wait()
        assert await acquired(upstream) is not connection
        upstream.close()


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\n", b"garbage"])
async def test_bytes_nobody_asked_for(extra: bytes) -> None:
    """A child that goes on talking after its response loses the connection, not the response."""
    say_more = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await say_more.wait()
        writer.write(extra)
        await reader.read()

    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        connection = await acquired(upstream)
        assert (await whole(connection))[2] == b"ok"
        upstream.release(connection)
        say_more.set()

        await until(lambda: connection.is_closed)
        assert await acquired(upstream) is not connection
        upstream.close()


async def test_garbage_right_behind_the_answer() -> None:
    """Garbage in the same segment does not spoil the response, but ends the connection."""
    async with child(OK + b"\x00garbage", OK) as upstream:
        connection = await acquired(upstream)
        assert (await whole(connection))[2] == b"ok"
        upstream.release(connection)

        await until(lambda: connection.is_closed)


async def test_closing_breaks_exchanges() -> None:
    """When a child is cut, an answer under way breaks and idle connections end."""
    async with child(OK, OK[:-1]) as upstream:
        busy, idle = await acquired(upstream), await acquired(upstream)
        await whole(idle)
        upstream.release(idle)
        reader = asked(busy)
        await reader.head()
        assert await reader.read() == b"o"
        upstream.close()

        with pytest.raises(Broken):
            await reader.read()
        await until(lambda: idle.is_closed)


# Pressure.


async def test_slow_reader_slows_the_child() -> None:
    """While reading is paused, the child cannot go on for ever, and nothing comes; afterwards nothing is lost."""
    piece = b"x" * 65536
    blocked = asyncio.Event()
    sent = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        transport: Any = writer.transport
        transport.set_write_buffer_limits(high=0)
        while not blocked.is_set() or sent < 32 * MiB:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent += len(piece)
            if transport.get_write_buffer_size() > MiB:
                blocked.set()
            if blocked.is_set():
                await writer.drain()
            else:
                await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        connection = await acquired(upstream)
        reader = asked(connection)
        await reader.head()
        connection.pause()
        already = reader.size
        await blocked.wait()
        assert reader.size == already
        connection.resume()

        assert len(await rest(reader)) == sent
        assert connection.can_be_reused
        upstream.release(connection)
        upstream.close()


async def test_paused_connection_is_kept() -> None:
    """A connection whose reading was paused upon its last bytes serves the next exchange like any other."""
    async with child(OK, OK) as upstream:
        connection = await acquired(upstream)
        await whole(connection)
        connection.pause()
        upstream.release(connection)
        again = await acquired(upstream)

        assert again is connection
        assert (await whole(again))[2] == b"ok"


async def test_slow_child_slows_the_request() -> None:
    """A child that does not read its request is told of, and again when it reads on; then all of it arrives."""
    body = b"x" * 16 * MiB
    read_on = asyncio.Event()
    got = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await reader.readuntil(b"\r\n\r\n")
        await read_on.wait()
        got = len(await reader.readexactly(2 * len(body)))
        writer.write(OK)
        await reader.read()

    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        connection = await acquired(upstream)
        reader = Reader()
        connection.send(reader, b"POST", REQUEST, body, is_whole=False)
        assert reader.lags == [True]
        read_on.set()
        await until(lambda: reader.lags == [True, False])
        connection.send_more(body, is_last=True)
        await reader.head()

        assert got == 2 * len(body)
        assert await rest(reader) == b"ok"
        assert connection.can_be_reused
        upstream.release(connection)
        upstream.close()


@pytest.mark.parametrize("is_last", [True, False])
async def test_answer_to_half_a_request(is_last: bool) -> None:
    """A child may answer before it has got all; its connection is kept only if the rest has been sent too."""
    async with child(OK, OK) as upstream:
        connection = await acquired(upstream)
        reader = Reader()
        connection.send(reader, b"POST", REQUEST, b"half", is_whole=False)
        assert await reader.head()
        assert await rest(reader) == b"ok"
        connection.send_more(b"", is_last=is_last)
        upstream.release(connection)

        assert (await acquired(upstream) is connection) is is_last


async def test_nothing_is_told_after_giving_back() -> None:
    """Who gives a connection back upon the head of a response, even a whole one, hears no more of it."""

    class Refusing(Reader):
        def head_came(self, status: int, headers: Headers, fields: Fields, *, is_alone: bool) -> bool:
            super().head_came(status, headers, fields, is_alone=is_alone)
            upstream.release(connection)
            return False

    async with child(OK, OK) as upstream:
        connection = await acquired(upstream)
        reader = Refusing()
        connection.send(reader, b"GET", REQUEST)
        await reader.head()
        again = await acquired(upstream)

        assert reader.size == 0
        assert (await whole(again))[2] == b"ok"
        assert reader.size == 0


async def test_large_request() -> None:
    """A body of any size reaches the child whole."""
    body = bytes(range(256)) * 8 * 1024
    got: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        got.append(await reader.readexactly(len(body)))
        writer.write(OK)
        await reader.read()

    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        connection = await acquired(upstream)
        reader = asked(connection, b"POST", body)
        await reader.head()

        assert got == [body]
        upstream.close()


async def test_cancelled_wait_leaves_nothing() -> None:
    """Who is cancelled while a child is silent gives its connection back closed; the child sees that."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()

    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        connection = await acquired(upstream)
        waiting = asyncio.create_task(whole(connection))
        await asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        upstream.release(connection)

        await gone.wait()
        assert repr(upstream) == f"<Upstream {endpoint} [0 busy, 0 idle]>"


def test_repr() -> None:
    """An upstream shows where it leads and how busy it is."""

    async def shown() -> str:
        return repr(Upstream(TcpEndpoint(1)))

    assert asyncio.run(shown()) == "<Upstream http://127.0.0.1:1 [0 busy, 0 idle]>"
