"""What one client may take from the others: time, connections, memory; and where its paths may lead."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from supervisor.errors import InvalidRequest
from supervisor.proxy.body_memory import SMALL_BODY
from supervisor.proxy.crowd import FEWEST, MAKES_ROOM_AFTER, RESERVED_FILES, Crowd, connections_for
from supervisor.proxy.front import BODY_BYTES, BODY_SECONDS, HEAD_SECONDS, Front
from supervisor.proxy.objections import HEAD_LIMIT, HEADER_LIMIT
from supervisor.proxy.relay import inside
from supervisor.server import WEBSOCKET_MESSAGE
from tests.conftest import DEADLINE, eventually, running_service
from tests.proxy.conftest import Wire, fake_cmd, http_to, post, raw_request, read_answer
from tests.proxy.test_front import GET, POST, Recorder, Scene, app_in_front, request, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import RunningService

MiB = 1024 * 1024
LONG_POST = request(b"POST /a HTTP/1.1", b"host: x", b"content-length: 1000000")
CHUNKED = request(b"POST /a HTTP/1.1", b"host: x", b"transfer-encoding: chunked")


# A body that hardly comes.


def now() -> float:
    return asyncio.get_running_loop().time()


def drip(scene: Scene[Recorder], piece: bytes, *, every: float, times: int) -> None:
    """Send a piece every so many seconds, with a look at the connection each second."""
    start = now()
    for second in range(int(every * times)):
        if second % every == 0:
            scene.send(piece)
        scene.front.sweep(start + second)


@pytest.mark.parametrize(
    ("head", "piece", "every"),
    [
        (LONG_POST, b"x", 60),
        (LONG_POST, b"x", 1),
        (LONG_POST, b"x" * (BODY_BYTES // 40), 1),
        (CHUNKED, b"1\r\nx\r\n", 1),
        (CHUNKED + b"0\r\n", b"x: y\r\n", 1),
        (CHUNKED, b"", 60),
    ],
    ids=["byte-a-minute", "byte-a-second", "375-a-second", "chunks", "trailers", "nothing"],
)
@pytest.mark.anyio
async def test_slow_body(head: bytes, piece: bytes, every: int) -> None:
    """A body that comes at a byte a minute, or a little more, is refused after half a minute and not kept for ever."""
    scene = Scene(Recorder())
    scene.send(head)
    drip(scene, piece, every=every, times=int(BODY_SECONDS + 5) // every + 1)

    assert scene.statuses == [408]
    assert b"the body of the request came too slowly" in scene.wire.written
    assert scene.wire.is_closed
    assert scene.plane.requests == []


@pytest.mark.anyio
async def test_body_of_a_slow_line() -> None:
    """Five hundred bytes a second are enough, for as long as it takes."""
    scene = Scene(Recorder())
    scene.send(LONG_POST)
    drip(scene, b"x" * 550, every=1, times=int(BODY_SECONDS * 4))

    assert scene.statuses == []
    assert not scene.wire.is_closed


@pytest.mark.anyio
async def test_a_body_that_we_do_not_read() -> None:
    """Time in which a client could not send, because its model was not ready, is not held against it."""
    scene = Scene(Recorder())
    scene.send(LONG_POST, b"x")
    start = now()
    scene.wire.pause_reading()
    for second in range(600):
        scene.front.sweep(start + second)
    scene.wire.resume_reading()
    scene.front.sweep(start + 600 + BODY_SECONDS - 2)
    assert not scene.wire.is_closed
    scene.front.sweep(start + 600 + BODY_SECONDS + 2)

    assert scene.statuses == [408]


class Server:
    """Who serves a request while it comes."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.heard.append(name)


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.anyio
async def test_slow_body_on_its_way_to_a_child(has_begun: bool) -> None:
    """An upload that is passed on already and stops coming is ended at both sides, with 408 if nothing was answered."""

    class Passing(Recorder):
        def grew(self, client: Any) -> None:
            client.listener = server
            if has_begun:
                client.begin(200, [])
                client.write(b"so far")

    server = Server()
    scene = Scene(Passing())
    scene.send(LONG_POST, b"x", b"y")
    for second in range(int(BODY_SECONDS) + 3):
        scene.front.sweep(now() + second)

    assert server.heard == ["client_sent", "client_left"]
    assert scene.statuses == ([200] if has_begun else [408])
    assert not scene.wire.written.endswith(b"0\r\n\r\n")
    assert scene.wire.is_closed


@pytest.mark.slow
def test_slow_body_of_a_service(start: Callable[..., RunningService]) -> None:
    """Over a real connection, too, a body that does not come is answered 408, and one that is passed on as well."""
    service = start(f"[models.fake]\ncmd = {fake_cmd()}")
    form = b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nfake\r\n--B\r\n' + b"x" * MiB
    upload = post("/v1/audio/transcriptions", form + b"rest", content_type="multipart/form-data; boundary=B")
    with http_to(service.url) as http:
        http.get("/props", params={"model": "fake"}).raise_for_status()
    with (
        raw_request(service, post("/v1/completions", b"body")[:-1]) as plain,
        raw_request(service, upload[:-4]) as passed_on,
    ):
        for client in (plain, passed_on):
            client.settimeout(BODY_SECONDS + DEADLINE)
            with client.makefile("rb") as file:
                answer = read_answer(file)
                assert (answer.status, answer.error["code"]) == (408, "request_timeout")
                assert file.read() == b""


# Heads of websockets.

KEY = b"sec-websocket-key: " + b"A" * 22 + b"=="
UPGRADE = (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13", KEY)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request(b"GET /upstream/m/x HTTP/1.1", *UPGRADE), 400),
        (request(b"GET /upstream/m/x HTTP/1.1", b"host: a", b"host: b", *UPGRADE), 400),
        (request(b"GET http://evil/upstream/m/x HTTP/1.1", b"host: a", *UPGRADE), 400),
        (request(b"GET /upstream/m/x HTTP/1.0", b"host: a", *UPGRADE), 400),
        (request(b"POST /upstream/m/x HTTP/1.1", b"host: a", *UPGRADE), 400),
        (request(b"GET /upstream/m/x HTTP/1.1", b"host: a", b"transfer-encoding: gzip", *UPGRADE), 400),
        (request(b"GET /upstream/m/x HTTP/1.1", b"host: a", *UPGRADE, *[b"x: y"] * HEADER_LIMIT), 431),
        (request(b"GET /upstream/m/x HTTP/1.1", b"host: a", *UPGRADE, b"x: " + b"y" * HEAD_LIMIT), 431),
    ],
    ids=["no-host", "two-hosts", "absolute", "1.0", "post", "te", "many", "large"],
)
@pytest.mark.anyio
async def test_head_of_a_websocket(raw: bytes, status: int) -> None:
    """Asking for a websocket lifts none of the rules for heads."""
    scene = Scene(Recorder())
    scene.send(raw)

    assert scene.statuses == [status]
    assert scene.wire.is_closed


@pytest.mark.anyio
async def test_slow_head_of_a_websocket() -> None:
    """Nor the time a head may take."""
    scene = Scene(Recorder())
    scene.send(request(b"GET / HTTP/1.1", b"host: a", *UPGRADE)[:-2])
    scene.front.sweep(now() + HEAD_SECONDS + 1)

    assert scene.statuses == [408]


@pytest.mark.parametrize(
    "more",
    [b"content-length: 5", b"transfer-encoding: chunked", b"x: " + b"y" * 10_000, b""],
    ids=["body", "chunked", "long-line", "many"],
)
def test_no_websocket(talkative: RunningService, more: bytes) -> None:
    """What the library below takes for no websocket is refused, not left without an answer for ever."""
    lines = [more] if more else [b"x: y"] * 150
    head = request(b"GET /upstream/ws/echo HTTP/1.1", b"host: localhost", *UPGRADE, *lines)
    with raw_request(talkative, head) as client, client.makefile("rb") as file:
        assert read_answer(file).status == 400
        assert file.read() == b""


@pytest.mark.parametrize("path", ["/upstream/ws/echo", "/upstream/nobody/x", "/health"])
@pytest.mark.parametrize("behind", [b"\xff" * 200, b"GET / HTTP/1.1\r\n\r\n", b"15\r\nchunk", b"\x81\x00\x80\x80"])
@pytest.mark.parametrize("more", [b"x: y", b"upgrade: h2c", b"sec-websocket-version: 7"])
def test_bytes_behind_a_websocket(talkative: RunningService, path: str, behind: bytes, more: bytes) -> None:
    """Whatever is sent with a request for a websocket ends it at most; the library below breaks by some of it."""
    head = request(f"GET {path} HTTP/1.1".encode(), b"host: localhost", *UPGRADE, more)
    for segments in ([head + behind], [head, behind]):
        with raw_request(talkative, segments[0]) as client, contextlib.suppress(OSError):
            for each in segments[1:]:
                client.sendall(each)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    assert "Traceback" not in (talkative.directory / "service.log").read_text()


# Connections.


class Hall:
    """Connections to one service, whose limit they share."""

    def __init__(self, limit: int) -> None:
        self.crowd = Crowd(limit)
        self.state: Any = SimpleNamespace(connections=set(), total_requests=0)

    def enter(self, *segments: bytes) -> Scene[Recorder]:
        scene = Scene.__new__(Scene)
        scene.plane, scene.state = Recorder(at_once=lambda _: False), self.state
        config: Any = SimpleNamespace(ws_protocol_class=None)
        scene.front = Front(scene.plane, config=config, server_state=self.state, app_state={}, crowd=self.crowd)
        scene.wire = Wire(scene.front)
        scene.front.connection_made(scene.wire)  # type: ignore[arg-type]
        scene.send(*segments)
        return scene


@pytest.mark.anyio
async def test_most_connections(caplog: pytest.LogCaptureFixture) -> None:
    """One connection too many is told so and closed; it is said once; when one ends, the next is served."""
    hall = Hall(2)
    busy = [hall.enter(GET), hall.enter(POST[:-1])]
    refused = [hall.enter(GET) for _ in range(3)]
    await asyncio.sleep(0)

    for scene in refused:
        assert scene.statuses == [503]
        assert b'"code":"too_many_connections"' in scene.wire.written
        assert b"retry-after: 1\r\n" in scene.wire.written
        assert scene.wire.is_closed
        assert scene.plane.requests == []
    assert caplog.text.count("2 connections are open, as many as may be") == 1
    busy[0].front.connection_lost(None)
    assert hall.enter(GET).plane.requests
    assert busy[1].statuses == []


@pytest.mark.anyio
async def test_idle_connections_make_room() -> None:
    """The connection that has been idle for longest goes before anybody is refused; one just opened stays."""
    hall = Hall(3)
    old, older, fresh = hall.enter(), hall.enter(), hall.enter()
    old.front._since -= MAKES_ROOM_AFTER + 1
    older.front._since -= MAKES_ROOM_AFTER + 2
    first = hall.enter(GET)
    await asyncio.sleep(0)
    second = hall.enter(GET)
    await asyncio.sleep(0)
    third = hall.enter(GET)

    assert (older.wire.is_closed, old.wire.is_closed, fresh.wire.is_closed) == (True, True, False)
    assert older.wire.written == b""
    assert (first.statuses, second.statuses, third.statuses) == ([], [], [503])


def test_connections_leave_files_for_others() -> None:
    """Each connection may need two files, and some are for other things; a very low limit still lets somebody in."""
    assert connections_for(1_000_000, 4096) == 4096
    assert connections_for(1024, 4096) == (1024 - RESERVED_FILES) // 2
    assert connections_for(100, 4096) == FEWEST


def test_most_connections_of_a_service(start: Callable[..., RunningService]) -> None:
    """A service that is full says so, serves those who are in, and takes others when there is room again."""
    service = start(f"[server]\nmax_connections = 4\n[models.fake]\ncmd = {fake_cmd()}")
    url = httpx.URL(service.url)
    with contextlib.ExitStack() as stack:
        inside = [
            stack.enter_context(raw_request(service, b"GET /health HTTP/1.1\r\nhost: localhost\r\n")) for _ in range(4)
        ]
        with socket.create_connection((url.host, url.port), timeout=DEADLINE) as client, client.makefile("rb") as file:
            answer = read_answer(file)
            assert (answer.status, answer.error["code"]) == (503, "too_many_connections")
            assert file.read() == b""
        for client in inside:
            client.sendall(b"\r\n")
            with client.makefile("rb") as file:
                assert read_answer(file).body == b"OK"

    def is_served() -> bool:
        with contextlib.suppress(httpx.HTTPError), http_to(service.url) as http:
            return http.get("/health").status_code == 200
        return False

    eventually(is_served)


# Messages of websockets.


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    config = f"[models.ws]\ncmd = {fake_cmd('--websockets')}"
    with running_service(tmp_path_factory.mktemp("limits") / "service", config) as running:
        yield running


@pytest.mark.parametrize("frames", [1, 5])
def test_large_websocket_message(talkative: RunningService, frames: int) -> None:
    """A message above the limit, in one frame or many, ends its websocket, and no other."""
    url = talkative.url.replace("http:", "ws:") + "/upstream/ws/echo"
    options: dict[str, Any] = {"proxy": None, "max_size": None, "open_timeout": DEADLINE, "compression": None}
    piece = bytes(WEBSOCKET_MESSAGE // frames + 1)
    with connect(url, **options) as large, connect(url, **options) as other:
        with pytest.raises(ConnectionClosed) as ended:  # noqa: PT012 - it may end before the last of it is sent
            large.send(iter([piece] * frames) if frames > 1 else piece)
            large.recv(DEADLINE)
        assert ended.value.rcvd is None or ended.value.rcvd.code == 1009  # what is still sent may destroy the reason
        other.send("still here")

        assert other.recv(DEADLINE) == "still here"


def test_announced_websocket_frame(talkative: RunningService) -> None:
    """A frame is refused by the length it announces: nobody waits for, or keeps, what will be too much."""
    head = request(b"GET /upstream/ws/echo HTTP/1.1", b"host: localhost", *UPGRADE)
    frame = Frame(Opcode.BINARY, b"").serialize(mask=True)
    announced = frame[:1] + bytes([0x80 | 127]) + (1 << 40).to_bytes(8, "big") + bytes(4)
    with raw_request(talkative, head) as client, client.makefile("rb") as file:
        assert file.readline().startswith(b"HTTP/1.1 101")
        while file.readline() != b"\r\n":
            pass
        client.sendall(announced)

        closing = file.read(4)
        assert closing[0] == 0x80 | Opcode.CLOSE
        assert int.from_bytes(closing[2:], "big") == 1009


# The memory of bodies.


@pytest.mark.parametrize("path", ["/v1/completions", "/upstream/x/y", "/models/load"])
@pytest.mark.anyio
async def test_body_memory(tmp_path: Path, path: str) -> None:
    """Who would hold more than is left for bodies is told to come back; small bodies are as welcome as ever.

    What an answered request held, or one whose client left, is free again.
    """
    async with app_in_front(tmp_path, body_memory=MiB, max_body=MiB) as (app, first):
        second, third, small = Scene(app), Scene(app), Scene(app)
        raw = post(path, b"x" * (MiB // 2))
        first.send(raw[:-1])
        second.send(raw[:-1])
        held = app._body_memory.held
        assert 2 * (MiB // 2 - 1) == held
        third.send(raw[:-1])
        assert third.statuses == [503]
        assert b'"code":"request_memory_full"' in third.wire.written
        assert b"retry-after: 5\r\n" in third.wire.written
        small.send(post("/upstream/nobody/y", b"x" * SMALL_BODY))
        assert small.statuses == [404]
        assert app._body_memory.held == held
        first.front.connection_lost(None)
        assert app._body_memory.held == held // 2
        fourth = Scene(app)
        fourth.send(raw[:-1])
        assert fourth.statuses == []
        second.send(raw[-1:])
        fourth.send(raw[-1:])
        await until(lambda: second.statuses and fourth.statuses)

        assert app._body_memory.held == 0


@pytest.mark.anyio
async def test_body_memory_is_enough_for_one(tmp_path: Path) -> None:
    """The largest body that is allowed is never too much by itself."""
    async with app_in_front(tmp_path, body_memory=1, max_body=MiB) as (_, scene):
        scene.send(post("/v1/completions", b"x" * MiB))

        assert scene.statuses == [400]


# Paths below /upstream.

INNOCENT = (
    b"/",
    b"",
    b"/v1/chat/completions",
    b"/a%20b/%C3%A9",
    b"/a..b/...",
    b"/.well-known/x",
    b"/a/./b",
    b"/100%25",
    b"/%zz",
    b"/a//b",
    b"/@host/x",
    b"/http://other/x",
)
ESCAPING = (
    b"/..",
    b"/../x",
    b"/a/../../x",
    b"/%2e%2e/x",
    b"/%2E./x",
    b"/.%2e/x",
    b"/a%2f..%2fb",
    b"/a%2F%2E%2E",
    b"/..%5cx",
    b"/a\\..\\b",
    b"/%252e%252e/x",
    b"/%25252e%25252e%25252fx",
    b"/a%0d%0aX-Evil:%201",
    b"/a%0ab",
    b"/%00",
    b"/%1b[31m",
    b"/%7f",
    b"/a%250d%250ab",
)


@pytest.mark.parametrize("path", INNOCENT)
def test_paths_within_a_server(path: bytes) -> None:
    """What cannot lead elsewhere reaches the server as the client wrote it."""
    assert inside(path) == path


@pytest.mark.parametrize("path", ESCAPING)
def test_paths_that_lead_elsewhere(path: bytes) -> None:
    """No form of `..`, and nothing that ends a line, is passed on for a server to make something of."""
    with pytest.raises(InvalidRequest):
        inside(path)


@pytest.mark.parametrize("path", ESCAPING)
def test_upstream_cannot_be_left(talkative: RunningService, path: bytes) -> None:
    """Neither a request nor a websocket with such a path reaches a child."""
    target = b"/upstream/ws" + path
    with raw_request(talkative, request(b"GET " + target + b" HTTP/1.1", b"host: localhost")) as client:
        assert read_answer(client.makefile("rb")).status == 400
    with raw_request(talkative, request(b"GET " + target + b" HTTP/1.1", b"host: localhost", *UPGRADE)) as client:
        assert read_answer(client.makefile("rb")).status == 400
