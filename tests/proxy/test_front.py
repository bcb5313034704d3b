"""A client's connection: what is a request, in which order requests are answered, and when the connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeVar

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from supervisor.app import App
from supervisor.config.values import Config, Server
from supervisor.errors import InvalidRequest
from supervisor.household import running_service
from supervisor.proxy.dialects import Dialect, error_response
from supervisor.proxy.front import HEAD_SECONDS, IDLE_SECONDS, Front
from supervisor.proxy.heads import fields_of
from supervisor.proxy.objections import HEAD_LIMIT, HEADER_LIMIT, Head, objection
from supervisor.proxy.peers import Peers
from tests.conftest import DEADLINE, eventually
from tests.proxy.conftest import Child, Wire, http_to, post, raw_request, read_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from supervisor.errors import SupervisorError
    from supervisor.proxy.client import Client, Plane
    from tests.conftest import RunningService
    from tests.proxy.conftest import RawAnswer

GET = b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


class Recorder:
    """A plane that notes what it is told, and answers each request with its path."""

    def __init__(self, *, at_once: Callable[[int], bool] = lambda _: True) -> None:
        self._at_once = at_once
        self.told: list[tuple[str, str]] = []
        self.requests: list[tuple[str, bytes, bytes]] = []
        """What was whole."""
        self.clients: list[Client] = []
        """Who waits for an answer."""
        self.errors: list[int] = []

    def began(self, client: Client) -> None:
        self.told.append(("began", client.path))

    def grew(self, client: Client) -> None:
        self.told.append(("grew", client.path))

    def whole(self, client: Client) -> None:
        assert client.is_whole
        assert not client.is_answered
        self.told.append(("whole", client.path))
        self.requests.append((client.method, client.raw_path, client.body))
        self.clients.append(client)
        if self._at_once(len(self.requests)):
            self.answer()

    def refuse(self, client: Client, error: SupervisorError) -> None:
        status, headers, body = error_response(error, Dialect.OPENAI, b"")
        self.errors.append(status)
        client.begin(status, headers)
        client.finish(body)

    def answer(self) -> None:
        """Answer whoever has waited longest."""
        client = self.clients.pop(0)
        body = client.raw_path
        client.begin(200, [(b"content-length", b"%d" % len(body))])
        client.finish(body)


P = TypeVar("P", bound="Plane")


class Scene(Generic[P]):
    """A connection of a client in the test."""

    def __init__(self, plane: P) -> None:
        self.plane = plane
        self.state = ServerState()
        config: Any = SimpleNamespace(ws_protocol_class=None)
        self.front = Front(self.plane, config=config, server_state=self.state, app_state={})
        self.wire = Wire(self.front)
        self.front.connection_made(self.wire)  # type: ignore[arg-type]

    def send(self, *segments: bytes) -> None:
        for segment in segments:
            self.front.data_received(segment)

    @property
    def statuses(self) -> list[int]:
        """Of the answers so far."""
        return [int(part[:3]) for part in self.wire.written.split(b"HTTP/1.1 ")[1:]]


# What is parsed.

bodies = st.lists(st.binary(max_size=30), max_size=3)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, tuple[str, bytes, bytes]]:
    """The bytes of a request, and what it says."""
    path = draw(st.sampled_from([b"/", b"/a", b"/a%2Fb", b"/long/" + b"x" * 50]))
    pieces = draw(bodies)
    body = b"".join(pieces)
    head = b" " + path + b"?q HTTP/1.1\r\nHost: x\r\nX-" + b"y" * draw(st.integers(0, 20)) + b": z\r\n"
    match draw(st.sampled_from(["none", "length", "chunked", "h2c"])):
        case "none":
            return b"GET" + head + b"\r\n", ("GET", path, b"")
        case "length":
            return b"POST" + head + b"content-length: %d\r\n\r\n" % len(body) + body, ("POST", path, body)
        case "h2c":
            upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
            return b"PUT" + head + upgrade + b"content-length: %d\r\n\r\n" % len(body) + body, ("PUT", path, body)
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return b"POST" + head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n", ("POST", path, body)


@given(st.lists(requests(), min_size=1, max_size=4), st.data())
def test_any_split(cases: list[tuple[bytes, tuple[str, bytes, bytes]]], data: st.DataObject) -> None:
    """Pipelined requests, in whatever segments and whenever each is answered, are served and answered in order."""
    raw = b"".join(each for each, _ in cases)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    late = data.draw(st.sets(st.integers(1, len(cases))))
    patient = data.draw(st.sets(st.sampled_from([0, *cuts])))

    async def catch_up(scene: Scene[Recorder]) -> None:
        while scene.wire.is_paused or scene.plane.clients:
            if scene.plane.clients:
                scene.plane.answer()
            await asyncio.sleep(0)

    async def talk() -> Scene[Recorder]:
        scene = Scene(Recorder(at_once=lambda number: number not in late))
        for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            if scene.wire.is_paused or start in patient:
                await catch_up(scene)
            scene.send(raw[start:end])
        await catch_up(scene)
        return scene

    scene = asyncio.run(talk())

    assert scene.plane.requests == [meant for _, meant in cases]
    assert [part.rpartition(b"\r\n\r\n")[2] for part in scene.wire.written.split(b"HTTP/1.1 200 OK")[1:]] == [
        path for _, (_, path, _) in cases
    ]
    assert scene.state.total_requests == len(cases)
    assert not scene.wire.is_closed


@given(st.binary(max_size=200), st.sets(st.integers(1, 199), max_size=4))
def test_no_bytes_break_us(raw: bytes, cuts: set[int]) -> None:
    """Whatever comes, the client is answered, refused or waited for; nothing is raised."""
    marks = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]

    async def talk() -> Scene[Recorder]:
        scene = Scene(Recorder())
        scene.send(*(raw[start:end] for start, end in pairwise(marks)))
        return scene

    scene = asyncio.run(talk())

    assert scene.wire.is_closed or scene.wire.written == b""


@pytest.mark.anyio
async def test_what_a_plane_is_told() -> None:
    """A plane hears of the head before there is a body, then of each piece, then that it is all there."""
    scene = Scene(Recorder())
    scene.send(POST[:-4])
    assert scene.plane.told == [("began", "/a")]
    scene.send(b"bo", b"dy")

    assert scene.plane.told == [("began", "/a"), ("grew", "/a"), ("grew", "/a"), ("whole", "/a")]
    assert scene.plane.requests == [("POST", b"/a", b"body")]


@pytest.mark.anyio
async def test_path_is_decoded_once() -> None:
    """A path is told both decoded and as it came; the query only as it came; header names are in lower case."""
    plane = Recorder(at_once=lambda _: False)
    Scene(plane).send(b"GET /%C3%A9/a%252Fb?x=%20y HTTP/1.1\r\nHOST: X\r\nX-Some: Thing\r\n\r\n")
    (client,) = plane.clients

    assert (client.path, client.raw_path, client.query) == ("/é/a%2Fb", b"/%C3%A9/a%252Fb", b"x=%20y")
    assert client.headers == [(b"host", b"X"), (b"x-some", b"Thing")]
    assert client.address == ("127.0.0.1", 5)


@pytest.mark.anyio
async def test_trailers_are_no_headers() -> None:
    """What comes behind a chunked body is not taken for a header that was there from the beginning."""
    plane = Recorder(at_once=lambda _: False)
    head = b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    Scene(plane).send(head + b"1\r\na\r\n0\r\nx-trailer: 1\r\nhost: y\r\n\r\n")

    assert plane.clients[0].headers == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]


@pytest.mark.anyio
async def test_trailers_have_a_limit() -> None:
    """Trailers without end are not collected for ever."""
    scene = Scene(Recorder())
    scene.send(b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
    line = b"x-trailer: " + b"y" * 1000 + b"\r\n"
    for _ in range(4 * HEAD_LIMIT // len(line)):
        scene.send(line)

    assert scene.wire.is_closed
    assert scene.plane.requests == []


@pytest.mark.anyio
async def test_extensions_of_chunks_have_a_limit() -> None:
    """Nor does anybody read what stands behind a chunk's size for ever."""
    scene = Scene(Recorder())
    scene.send(b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;")
    for _ in range(4 * HEAD_LIMIT // 1000):
        scene.send(b"y" * 1000)

    assert scene.wire.is_closed
    assert scene.plane.requests == []


# What is refused.


def request(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


LONG = b"y" * (HEAD_LIMIT + 1)


def test_two_framings() -> None:
    """The parser refuses a second Transfer-Encoding; if it did not, we would."""
    headers = [(b"host", b"x"), (b"transfer-encoding", b"chunked")]
    assert objection(Head(b"/", b"", headers, fields_of(headers), "1.1")) is None
    twice = [*headers, headers[1]]

    assert isinstance(objection(Head(b"/", b"", twice, fields_of(twice), "1.1")), InvalidRequest)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"x-a: " + LONG, 431),
        (request(b"GET / HTTP/1.1", b"host: x", b"x-a: " + LONG), 431),
        (request(b"GET /" + LONG + b" HTTP/1.1", b"host: x"), 431),
        (b"GET /" + LONG, 431),
        (request(b"GET / HTTP/1.1", b"host: x", *[b"x-a: 1"] * HEADER_LIMIT), 431),
        (request(b"GET / HTTP/1.1", b"host: x", *[b"x-a: " + LONG[:1000]] * 100), 431),
        (request(b"GET / HTTP/1.1"), 400),
        (request(b"GET / HTTP/1.1", b"host: x", b"host: x"), 400),
        (request(b"GET / HTTP/1.0", b"host: x", b"host: x"), 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"transfer-encoding: gzip") + b"0\r\n\r\n", 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"transfer-encoding: gzip, chunked") + b"0\r\n\r\n", 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"transfer-encoding: chunked, gzip") + b"0\r\n\r\n", 400),
        (request(b"POST / HTTP/1.1", b"host: x", *[b"transfer-encoding: chunked"] * 2) + b"0\r\n\r\n", 400),
        (request(b"POST / HTTP/1.0", b"transfer-encoding: chunked") + b"0\r\n\r\n", 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"transfer-encoding: chunked", b"content-length: 5") + b"0\r\n", 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"content-length: 2", b"content-length: 3") + b"abc", 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"content-length: 3", b"content-length: 3") + b"abc", 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"content-length: 3, 3") + b"abc", 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"content-length: +3") + b"abc", 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"content-length: -1"), 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"content-length: " + b"9" * 30), 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"transfer-encoding: chunked") + b"no size\r\n", 400),
        (request(b"GET http://x/ HTTP/1.1", b"host: x"), 400),
        (request(b"GET a HTTP/1.1", b"host: x"), 400),
        (request(b"CONNECT x:443 HTTP/1.1", b"host: x"), 400),
        (request(b"GET /\xff HTTP/1.1", b"host: x"), 400),
        (request(b"GET / HTTP/1.1", b"host: x", b"x : 1"), 400),
        (request(b"GET / HTTP/1.1", b"host: x", b"x: 1", b" folded"), 400),
        (request(b"GET / HTTP/1.1", b"host: x", b"x: \x00"), 400),
        (request(b"GET / HTTP/1.1").replace(b"\r", b"") + b"host: x\n\n", 400),
        (request(b"GET / HTTP/1.1", b"host: x", b"x-a: 1\rx-b: 2"), 400),
        (request(b"GET / HTTP/1.1", b"host: x", b"x-a: 1\nx-b: 2"), 400),
        (request(b"PRI * HTTP/2.0") + b"SM\r\n\r\n", 400),
        (request(b"POST / HTTP/1.1", b"host: x", b"connection: upgrade", b"upgrade: websocket"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"hello\r\n", 400),
    ],
    ids=lambda value: repr(value[:70]) if isinstance(value, bytes) else "",
)
@pytest.mark.parametrize("size", [1 << 20, 1000])
@pytest.mark.anyio
async def test_refused(raw: bytes, status: int, size: int) -> None:
    """What is no request, or a dangerous one, is refused with a status that says so, and the connection ends."""
    scene = Scene(Recorder())
    if raw.startswith(b"x-a"):
        raw = b"GET / HTTP/1.1\r\nhost: x\r\n" + raw
    scene.send(*(raw[start : start + size] for start in range(0, len(raw), size)))

    assert scene.statuses == [status]
    assert b"connection: close\r\n" in scene.wire.written
    assert scene.plane.requests == []
    assert scene.wire.is_closed
    await asyncio.sleep(0)
    assert scene.state.connections == set()


@pytest.mark.parametrize(
    "raw",
    [
        request(b"GET / HTTP/1.0"),
        request(b"GET / HTTP/1.1", b"host: x", b"x-a: " + LONG[: HEAD_LIMIT - 100]),
        request(b"GET / HTTP/1.1", b"host: x", *[b"x-a: 1"] * (HEADER_LIMIT - 1)),
        request(b"GET / HTTP/1.1", b"host:"),
        request(b"OPTIONS * HTTP/1.1", b"host: x"),
        request(b"POST / HTTP/1.1", b"host: x", b"transfer-encoding: Chunked") + b"0\r\n\r\n",
        b"\r\n\r\n" + GET,
    ],
    ids=lambda value: repr(value[:70]),
)
@pytest.mark.anyio
async def test_not_refused(raw: bytes) -> None:
    """What is within the limits, or old but harmless, is served."""
    scene = Scene(Recorder())
    scene.send(raw)

    assert scene.statuses == [200]


@pytest.mark.anyio
async def test_large_body_is_no_large_head() -> None:
    """The limit of a head does not count what comes with it in one segment."""
    scene = Scene(Recorder())
    body = b"x" * 2 * HEAD_LIMIT
    scene.send(request(b"POST / HTTP/1.1", b"host: x", b"content-length: %d" % len(body)) + body + GET)

    assert scene.statuses == [200, 200]


@pytest.mark.anyio
async def test_refused_behind_another() -> None:
    """A request that is refused does not harm the answer to the one before it."""
    scene = Scene(Recorder(at_once=lambda _: False))
    scene.send(GET + request(b"GET / HTTP/1.1") + GET)
    scene.plane.answer()
    await asyncio.sleep(0)

    assert scene.statuses == [200, 400]
    assert scene.wire.is_closed


@pytest.mark.anyio
async def test_garbage_behind_a_request() -> None:
    """Bytes that are no request, behind one that is, do not take away its answer."""
    scene = Scene(Recorder(at_once=lambda _: False))
    scene.send(POST + b"more than announced\r\n\r\n")
    scene.plane.answer()

    assert scene.statuses[:1] == [200]
    assert scene.wire.is_closed


@pytest.mark.anyio
async def test_refused_body_is_dropped() -> None:
    """The rest of a request that was answered early is read and dropped, then the connection ends."""
    scene = Scene(Recorder())
    scene.send(request(b"POST / HTTP/1.1", b"content-length: 20"))
    assert scene.statuses == [400]
    assert not scene.wire.is_closed  # closing with bytes unread is a reset, which destroys the answer
    scene.send(b"x" * 10)
    assert not scene.wire.is_closed
    scene.send(b"x" * 10 + GET)

    assert scene.wire.is_closed
    assert scene.statuses == [400]
    assert scene.plane.requests == []


# The order of answers.


@pytest.mark.anyio
async def test_one_at_a_time() -> None:
    """While one request is served, the next waits and no more are read."""
    scene = Scene(Recorder(at_once=lambda _: False))
    scene.send(GET + POST + GET)
    assert [path for _, path, _ in scene.plane.requests] == [b"/a"]
    assert scene.wire.is_paused
    for count in (2, 3):
        scene.plane.answer()
        await asyncio.sleep(0)
        assert len(scene.plane.requests) == count

    assert not scene.wire.is_paused


@pytest.mark.anyio
async def test_reading_stays_paused_for_who_waits() -> None:
    """The request in front may read on only for itself: the body of one that waits is not collected meanwhile."""
    scene = Scene(Recorder(at_once=lambda _: False))
    scene.send(POST + POST[:-2])
    assert scene.wire.is_paused
    scene.plane.clients[0].resume()  # what an upload does once its child reads on

    assert scene.wire.is_paused or _drops(scene)


def _drops(scene: Scene[Recorder]) -> bool:
    """Whether a segment that was read all the same pauses again."""
    scene.send(b"d")
    return scene.wire.is_paused


@pytest.mark.anyio
async def test_paused_reading_goes_on_after_the_answer() -> None:
    """An answer that comes while its request's reading is paused leaves the connection readable."""
    scene = Scene(Recorder(at_once=lambda _: False))
    scene.send(POST)
    scene.plane.clients[0].pause()
    scene.plane.answer()

    assert not scene.wire.is_paused
    scene.send(GET)
    assert len(scene.plane.requests) == 2


@pytest.mark.anyio
async def test_paused_rest_is_dropped() -> None:
    """A request refused while its reading is paused is read to its end, so that its client gets to the answer."""
    scene = Scene(Recorder())
    scene.plane.grew = lambda client: client.pause() or scene.plane.clients.append(client)  # type: ignore[func-returns-value,method-assign]
    scene.send(POST[:-2])
    scene.plane.answer()
    assert not scene.wire.is_paused
    scene.send(POST[-2:])

    assert scene.statuses == [200]
    assert scene.wire.is_closed


@pytest.mark.anyio
async def test_a_slow_readers_next_request() -> None:
    """A client that has not taken its last answer is known to lag from the beginning of the next."""
    scene = Scene(Recorder(at_once=lambda number: number == 1))
    scene.send(GET)
    scene.front.pause_writing()
    scene.send(GET)
    await asyncio.sleep(0)

    assert all(client.is_lagging for client in scene.plane.clients)  # or it is not served yet
    scene.front.resume_writing()
    await asyncio.sleep(0)
    assert [client.is_lagging for client in scene.plane.clients] == [False]


# 100-continue.

EXPECTING = request(b"POST /a HTTP/1.1", b"host: x", b"content-length: 4", b"expect: 100-Continue")


@pytest.mark.anyio
async def test_continue() -> None:
    """A client that waits for leave to send its body gets it, once, before the answer."""
    scene = Scene(Recorder())
    scene.send(EXPECTING)
    assert scene.wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    scene.send(b"body")

    assert scene.statuses == [100, 200]


@pytest.mark.anyio
async def test_no_leave_for_what_is_refused() -> None:
    """A client whose request is refused by its head is not asked for the body first."""
    scene = Scene(Recorder())
    scene.send(EXPECTING.replace(b"host: x", b"x: x"))

    assert scene.statuses == [400]


@pytest.mark.anyio
async def test_no_leave_for_old_clients() -> None:
    """HTTP/1.0 knows no interim answers, so its clients get none (RFC 9110, 10.1.1)."""
    scene = Scene(Recorder())
    scene.send(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0") + b"body")

    assert scene.statuses == [200]


@pytest.mark.anyio
async def test_leave_in_order() -> None:
    """A pipelined request gets its leave after the answer to the one before it."""
    scene = Scene(Recorder(at_once=lambda _: False))
    scene.send(GET + EXPECTING)
    assert scene.statuses == []
    scene.plane.answer()
    await asyncio.sleep(0)
    assert scene.statuses == [200, 100]
    scene.send(b"body")
    scene.plane.answer()

    assert scene.statuses == [200, 100, 200]


# Upgrades.

H2C = [b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABk"]


@pytest.mark.parametrize("segments", [1, 2, 3])
@pytest.mark.anyio
async def test_h2c_is_declined(segments: int) -> None:
    """A client that would rather speak HTTP/2 is served as it is, with the body it has sent."""
    plane = Recorder(at_once=lambda _: False)
    scene = Scene(plane)
    head, body = request(b"POST /a HTTP/1.1", b"host: x", *H2C, b"x-a: 1", b"content-length: 4"), b"body"
    scene.send(*{1: [head + body], 2: [head, body], 3: [head[:30], head[30:] + body[:2], body[2:]]}[segments])
    assert plane.requests == [("POST", b"/a", b"body")]
    assert plane.clients[0].headers == [(b"host", b"x"), (b"x-a", b"1"), (b"content-length", b"4")]
    plane.answer()
    scene.send(request(b"GET /b HTTP/1.1", b"host: x", *H2C) + GET)
    plane.answer()
    await asyncio.sleep(0)
    plane.answer()

    assert scene.statuses == [200, 200, 200]


@pytest.mark.anyio
async def test_head_limit_of_an_upgrade() -> None:
    """Asking for another protocol does not lift the limits of a head."""
    scene = Scene(Recorder())
    scene.send(request(b"GET / HTTP/1.1", b"host: x", *H2C, b"x-a: " + LONG))

    assert scene.statuses == [431]


# The end.


@pytest.mark.anyio
async def test_idle_connection_ends() -> None:
    """A connection on which nothing happens ends after a while, without a word; not before, and not a busy one."""
    loop = asyncio.get_running_loop()
    fresh, used, busy = Scene(Recorder()), Scene(Recorder()), Scene(Recorder(at_once=lambda _: False))
    used.send(GET)
    busy.send(GET)
    written = used.wire.written
    now = loop.time()
    for scene in (fresh, used, busy):
        scene.front.sweep(now + IDLE_SECONDS - 1)
        assert not scene.wire.is_closed
        scene.front.sweep(now + IDLE_SECONDS + 1)

    assert (fresh.wire.is_closed, used.wire.is_closed, busy.wire.is_closed) == (True, True, False)
    assert (fresh.wire.written, used.wire.written) == (b"", written)


@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.anyio
async def test_slow_head(before: bytes) -> None:
    """A head that does not come to its end is refused, however it drips, first on its connection or behind another."""
    scene = Scene(Recorder())
    scene.send(before + GET[:5])
    now = asyncio.get_running_loop().time()
    scene.front.sweep(now + HEAD_SECONDS - 1)
    assert not scene.wire.is_closed
    scene.send(GET[5:7])
    scene.front.sweep(now + HEAD_SECONDS + 1)

    assert scene.wire.is_closed
    assert scene.statuses[-1] == 408


@pytest.mark.anyio
async def test_refused_rest_does_not_come() -> None:
    """A client that was refused early and sends no more, but does not leave either, is not kept for ever."""
    scene = Scene(Recorder())
    scene.send(request(b"POST / HTTP/1.1", b"content-length: 20"))
    assert scene.statuses == [400]
    scene.front.sweep(asyncio.get_running_loop().time() + IDLE_SECONDS + 1)

    assert scene.wire.is_closed


@pytest.mark.anyio
async def test_shutdown() -> None:
    """When the service ends, an idle connection ends at once, a busy one with its answer, and nothing more is read."""
    idle, busy = Scene(Recorder()), Scene(Recorder(at_once=lambda _: False))
    idle.send(GET)
    busy.send(GET + GET)
    idle.front.shutdown()
    busy.front.shutdown()
    assert idle.wire.is_closed
    assert not busy.wire.is_closed
    busy.plane.answer()
    assert busy.wire.is_closed
    await asyncio.sleep(0)

    assert busy.statuses == [200]
    assert b"connection: close\r\n" in busy.wire.written
    assert (idle.state.connections, busy.state.connections) == (set(), set())


@pytest.mark.anyio
async def test_shutdown_in_the_middle_of_a_request() -> None:
    """A request that is on its way when the service ends is still answered, as the last."""
    scene = Scene(Recorder())
    scene.send(POST[:-2])
    scene.front.shutdown()
    assert not scene.wire.is_closed
    scene.send(POST[-2:])

    assert scene.statuses == [200]
    assert scene.wire.is_closed


@pytest.mark.anyio
async def test_client_gone() -> None:
    """Half a request is never taken for a whole one, and whoever serves or waits learns that the client left."""
    scene = Scene(Recorder(at_once=lambda _: False))
    scene.send(POST[:-1])
    scene.front.connection_lost(None)
    assert scene.plane.requests == []
    assert scene.state.connections == set()

    other = Scene(Recorder(at_once=lambda _: False))
    other.send(GET + GET)
    other.front.connection_lost(ConnectionResetError())
    (client,) = other.plane.clients
    assert client.is_gone
    other.plane.answer()
    await asyncio.sleep(0)
    assert other.wire.written == b""
    assert len(other.plane.requests) == 1


@pytest.mark.anyio
async def test_bugs_in_a_plane() -> None:
    """A bug in who serves is not told as a fault of the client."""

    class Broken(Recorder):
        def began(self, client: Client) -> None:
            raise ZeroDivisionError

    scene = Scene(Broken())
    scene.send(GET)

    assert scene.statuses == [500]
    assert scene.wire.is_closed


# Through a running service.


@pytest.fixture
def child(fake: RunningService) -> Child:
    """The child of the model `fake`, loaded."""
    with http_to(fake.url) as http:
        http.get("/props", params={"model": "fake"}).raise_for_status()
    return Child(fake, "fake")


@contextlib.contextmanager
def talk(service: RunningService, first: bytes) -> Iterator[tuple[Any, BinaryIO]]:
    with raw_request(service, first) as client, client.makefile("rb") as file:
        yield client, file


def get(path: str, *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join((f"GET {path} HTTP/{version}", "host: x", *lines, "", "")).encode()


def seen(answer: RawAnswer) -> dict[str, Any]:
    assert answer.status == 200, answer
    told: dict[str, Any] = answer.json()
    return told


def test_pipelined(fake: RunningService, child: Child) -> None:
    """Requests sent at once are answered in their order, though the first is slow and others need no child."""
    first = post("/upstream/fake/1", b"one", x_do="hold", x_name="pipe")
    rest = get("/upstream/fake/2") + get("/health") + post("/upstream/fake/3", b"three") + get("/nowhere")
    with talk(fake, first + rest) as (_, file):
        child.await_start("pipe")
        child.go("pipe")

        assert read_answer(file).body == b"held"
        assert seen(read_answer(file))["target"] == "/2"
        assert read_answer(file).status == 200
        assert seen(read_answer(file))["body"] == "three"
        assert read_answer(file).status == 404
    eventually(lambda: child.requests() == 0)


def test_pipelined_behind_half_a_request(fake: RunningService, child: Child) -> None:
    """A second request whose body is not whole waits for both: its turn, and its end."""
    second = post("/upstream/fake/2", b"two" * 1000)
    with talk(fake, post("/upstream/fake/1", b"", x_do="hold", x_name="half2") + second[:-10]) as (client, file):
        child.await_start("half2")
        child.go("half2")
        assert read_answer(file).body == b"held"
        client.sendall(second[-10:])

        assert seen(read_answer(file))["body"] == "two" * 1000


def test_http_1_0(fake: RunningService) -> None:
    """An old client gets one answer and the end, or goes on if it asks for that and the answer has a length."""
    with talk(fake, get("/upstream/fake/x", version="1.0")) as (_, file):
        answer = read_answer(file)
        assert seen(answer)["target"] == "/x"
        assert answer.headers["connection"] == "close"
        assert file.read() == b""
    again = get("/upstream/fake/x", "connection: keep-alive", version="1.0")
    with talk(fake, again) as (client, file):
        answer = read_answer(file)
        assert answer.headers["connection"] == "keep-alive"
        client.sendall(again)
        assert seen(read_answer(file))["target"] == "/x"


def test_chunks_are_not_for_old_clients(fake: RunningService) -> None:
    """An answer without a length ends with the connection where the client knows no chunks."""
    chunked = ("x-do: raw", "x-head: 200 OK|transfer-encoding: chunked", "content-length: 12", "connection: keep-alive")
    body = b"2\r\nok\r\n0\r\n\r\n"
    with talk(fake, get("/upstream/fake/x", *chunked, version="1.0") + body) as (_, file):
        answer = read_answer(file)

    assert answer.body == b"ok"
    assert "transfer-encoding" not in answer.headers
    assert answer.headers["connection"] == "close"


def test_head(fake: RunningService) -> None:
    """An answer to HEAD has the length of the body it does not have, and the connection goes on."""
    with talk(fake, get("/upstream/fake/x").replace(b"GET", b"HEAD") + get("/health")) as (_, file):
        assert read_answer(file, method="HEAD").headers["content-type"] == "application/json"
        assert read_answer(file).status == 200


@pytest.mark.parametrize("path", ["/upstream/fake/x", "/health", "/nowhere"])
def test_connection_close(fake: RunningService, path: str) -> None:
    """A client that wants the connection to end after its answer gets that."""
    with talk(fake, get(path, "connection: close") + get("/health")) as (_, file):
        assert read_answer(file).headers["connection"] == "close"
        assert file.read() == b""


def test_expect(fake: RunningService) -> None:
    """Leave to send a body is given when it may come, and not when its size is refused."""
    request = post("/upstream/fake/x", b"body", expect="100-continue")
    with talk(fake, request[:-4]) as (client, file):
        assert read_answer(file).status == 100
        client.sendall(b"body")
        assert seen(read_answer(file))["body"] == "body"
    with talk(fake, post("/upstream/fake/x", b"", expect="100-continue").replace(b": 0", b": 200001")) as (_, file):
        assert read_answer(file).status == 413


def test_chunked_request(fake: RunningService) -> None:
    """A body in chunks reaches the child with a length."""
    head = b"POST /upstream/fake/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with talk(fake, head + b"2\r\nab\r\n3;e=1\r\ncde\r\n0\r\n\r\n") as (_, file):
        told = seen(read_answer(file))

    assert told["body"] == "abcde"
    assert ["content-length", "5"] in told["headers"]
    assert "transfer-encoding" not in dict(told["headers"])


@pytest.mark.parametrize(("size", "status"), [(200_000, 200), (200_001, 413)])
def test_limit_of_a_chunked_request(fake: RunningService, size: int, status: int) -> None:
    """A body that does not tell its length is counted, and the limit is the last size allowed."""
    head = b"POST /upstream/fake/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (b"x" * 100_000, b"x" * (size - 100_000)))
    with talk(fake, head + chunks + b"0\r\n\r\n") as (_, file):
        assert read_answer(file).status == status


def test_h2c_through_a_service(fake: RunningService) -> None:
    """The JDK's client, which asks for HTTP/2 with its first POST, is served."""
    head = request(b"POST /upstream/fake/x HTTP/1.1", b"host: x", *H2C, b"content-length: 4")
    with talk(fake, head) as (client, file):
        client.sendall(b"body")
        told = seen(read_answer(file))

    assert told["body"] == "body"
    assert not {"upgrade", "http2-settings"} & dict(told["headers"]).keys()


def test_refused_by_a_service(fake: RunningService) -> None:
    """What is no request is told in the form that clients of the API read, and the connection ends."""
    for raw, status, code in (
        (b"hello\r\n\r\n", 400, "invalid_request_error"),
        (get("/health", *["x: y"] * 300), 431, "request_header_fields_too_large"),
    ):
        with talk(fake, raw) as (_, file):
            answer = read_answer(file)
            assert answer.status == status
            assert answer.error["type"] == "invalid_request_error"
            assert code in json.dumps(answer.error)
            assert file.read() == b""


# Through the app, in this process.


@contextlib.asynccontextmanager
async def app_in_front(tmp_path: Path, **server: Any) -> AsyncIterator[tuple[App, Scene[App]]]:
    """The app of a service without models, and a connection to it."""
    config = Config(tmp_path, Server(**server))
    async with running_service(config) as service:
        app = App(service, Peers(config))
        yield app, Scene(app)


@pytest.mark.parametrize("path", ["/v1/completions", "/upstream/x/y"])
@pytest.mark.parametrize("when", ["serve", "serve_early"])
@pytest.mark.anyio
async def test_bugs_in_serving(tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str, path: str) -> None:
    """A bug in serving is a 500 and logged, whether it shows at the end of a request or while it comes."""

    def broken(client: Client) -> None:
        raise ZeroDivisionError

    async with app_in_front(tmp_path) as (app, scene):
        setattr(app._proxy, when, broken)
        with caplog.at_level(logging.ERROR, "supervisor"):
            scene.send(post(path, b"x" * 100_000))

        assert scene.statuses == [500]
        assert caplog.text.count(f"bug: POST {path} broke") == 1
        assert "ZeroDivisionError" in caplog.text
        assert scene.wire.is_closed is (when == "serve_early")  # with bytes still to come there is no next request


@pytest.mark.parametrize("path", ["/v1/completions", "/upstream/x/y", "/models/load"])
@pytest.mark.anyio
async def test_limit_of_a_body(tmp_path: Path, path: str) -> None:
    """Who announces too much is refused before a byte of it is read; who announces nothing, once too much has come."""
    chunked = f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    async with app_in_front(tmp_path, max_body=4) as (_, scene):
        scene.send(post(path, b"12345")[:-5])
        assert scene.statuses == [413]
        assert b"5 bytes or more; at most 4 are allowed" in scene.wire.written
    async with app_in_front(tmp_path, max_body=4) as (_, scene):
        scene.send(chunked + b"3\r\nabc\r\n", b"1\r\nd\r\n")
        assert scene.statuses == []
        scene.send(b"1\r\ne\r\n")
        assert scene.statuses == [413]


@pytest.mark.anyio
async def test_limit_of_a_body_that_waited(tmp_path: Path) -> None:
    """A body that came while another request was served is counted like any other."""
    chunked = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"
    async with app_in_front(tmp_path, max_body=4) as (_, scene):
        scene.send(GET + chunked)
        await until(lambda: len(scene.statuses) == 2)

        assert scene.statuses == [404, 413]


@pytest.mark.anyio
async def test_management_uploads(tmp_path: Path) -> None:
    """Who may not manage is refused as soon as a part of the body has come, not at its end."""
    async with app_in_front(tmp_path) as (_, scene):
        scene.send(post("/upstream/x/y", b"body", x_forwarded_for="1.2.3.4")[:-1])

        assert scene.statuses == [403]


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact in this loop."""
    with anyio.fail_after(DEADLINE):
        while not fact():  # noqa: ASYNC110 - a wire tells its state, but has no event for it
            await asyncio.sleep(0)
