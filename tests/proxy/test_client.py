"""One request and the framing of its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from supervisor.proxy.client import Client
from tests.proxy.conftest import Wire

if TYPE_CHECKING:
    from supervisor.proxy.heads import Headers

OK = b"HTTP/1.1 200 OK\r\n"


class Scene:
    """A request, and the wire its answer goes to."""

    def __init__(self, method: str = "GET", version: str = "1.1", *, is_whole: bool = True) -> None:
        self.wire = Wire()
        self.ended = 0
        transport: Any = self.wire
        self.client = Client(transport, method, ("/", b"/", b""), [], version=version, address=None, ended=self._count)
        self.client.is_whole = is_whole

    def _count(self) -> None:
        assert self.client.is_answered
        self.ended += 1


class Ear:
    """Who serves, and notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def client_left(self) -> None:
        self.heard.append("left")

    def client_lags(self) -> None:
        self.heard.append("lags")

    def client_keeps_up(self) -> None:
        self.heard.append("keeps up")

    def client_sent(self) -> None:
        self.heard.append("sent")


LENGTH: Headers = [(b"content-length", b"5")]


@pytest.mark.parametrize(
    ("asked", "status", "headers", "written", "keeps"),
    [
        (("GET", "1.1"), 200, LENGTH, OK + b"content-length: 5\r\n\r\nhello", True),
        (("GET", "1.1"), 200, [], OK + b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", True),
        (("GET", "1.0"), 200, LENGTH, OK + b"content-length: 5\r\nconnection: keep-alive\r\n\r\nhello", True),
        (("GET", "1.0"), 200, [], OK + b"connection: close\r\n\r\nhello", False),
        (("HEAD", "1.1"), 200, LENGTH, OK + b"content-length: 5\r\n\r\n", True),
        (("HEAD", "1.1"), 200, [], OK + b"\r\n", True),
        (("HEAD", "1.0"), 200, [], OK + b"connection: keep-alive\r\n\r\n", True),
        (
            ("GET", "1.1"),
            200,
            [*LENGTH, (b"connection", b"close")],
            OK + b"content-length: 5\r\nconnection: close\r\n\r\nhello",
            False,
        ),
        (("GET", "1.1"), 499, LENGTH, b"HTTP/1.1 499 \r\ncontent-length: 5\r\n\r\nhello", True),
        (("GET", "1.1"), 404, LENGTH, b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello", True),
    ],
)
def test_framing(asked: tuple[str, str], status: int, headers: Headers, written: bytes, keeps: bool) -> None:
    """An answer is framed by its length, in chunks, or by the end of the connection where a client knows no chunks."""
    method, version = asked
    scene = Scene(method, version)
    scene.client.begin(status, headers)
    scene.client.write(b"hel")
    scene.client.finish(b"lo")

    assert scene.wire.written == written
    assert scene.client.keep_alive is keeps
    assert scene.ended == 1


@pytest.mark.parametrize(("status", "line"), [(204, b"204 No Content"), (304, b"304 Not Modified")])
def test_no_body(status: int, line: bytes) -> None:
    """An answer that has no body ends with its head."""
    scene = Scene()
    scene.client.begin(status, [])
    scene.client.finish()

    assert scene.wire.written == b"HTTP/1.1 " + line + b"\r\n\r\n"
    assert scene.client.keep_alive


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_head_goes_out_when_told(method: str) -> None:
    """A head waits for the first piece, so that both make one segment, unless it is told to go alone; it goes once."""
    scene = Scene(method)
    scene.client.begin(200, LENGTH)
    assert scene.wire.written == b""
    scene.client.flush()
    head = scene.wire.written
    assert head == OK + b"content-length: 5\r\n\r\n"
    scene.client.flush()
    scene.client.write(b"hello")
    scene.client.finish()

    assert scene.wire.written == head + (b"" if method == "HEAD" else b"hello")


def test_answer_before_the_request_is_whole() -> None:
    """Who is answered before all of the request has come is told that the connection will end."""
    scene = Scene("POST", is_whole=False)
    scene.client.begin(413, LENGTH)
    scene.client.finish(b"hello")

    assert b"connection: close\r\n" in scene.wire.written
    assert not scene.client.keep_alive


@pytest.mark.parametrize("headers", [LENGTH, []])
def test_cut(headers: Headers) -> None:
    """An answer that is cut lacks its end, and its connection is not used again."""
    scene = Scene()
    scene.client.begin(200, headers)
    scene.client.write(b"hel")
    scene.client.cut()

    assert scene.wire.written.endswith((b"hel", b"3\r\nhel\r\n"))
    assert not scene.client.keep_alive
    assert scene.ended == 1


def test_cut_before_the_body() -> None:
    """A head that was ready is not lost by a cut: the client may tell a cut answer from none."""
    scene = Scene()
    scene.client.begin(200, LENGTH)
    scene.client.cut()

    assert scene.wire.written == OK + b"content-length: 5\r\n\r\n"


def test_nothing_for_who_left() -> None:
    """Nothing is written to a client that is gone, and its connection is left alone; the answer ends all the same."""
    scene = Scene()
    scene.client.begin(200, [])
    scene.client.left()
    scene.client.write(b"hel")
    scene.client.flush()
    scene.client.pause()
    scene.client.finish(b"lo")

    assert scene.wire.written == b""
    assert not scene.wire.is_paused
    assert scene.ended == 1


def test_body() -> None:
    """A body is what has come and was not taken."""
    client = Scene("POST", is_whole=False).client
    assert client.body == b""
    client.feed(b"ab")
    client.feed(b"cd")
    assert (client.body, client.body) == (b"abcd", b"abcd")
    assert client.take_body() == b"abcd"
    client.feed(b"e")
    client.complete()

    assert client.take_body() == b"e"
    assert client.take_body() == b""
    assert (client.body_size, client.is_whole) == (5, True)


def test_who_serves_is_told() -> None:
    """Who serves hears of every piece, of the client's pace, and of its leaving; nothing after the answer."""
    client, ear = Scene("POST", is_whole=False).client, Ear()
    client.feed(b"before anybody listens")
    client.listener = ear
    client.feed(b"x")
    client.complete()
    client.lags()
    assert client.is_lagging
    client.keeps_up()
    assert not client.is_lagging
    client.begin(200, [])
    client.finish()
    client.left()

    assert ear.heard == ["sent", "sent", "lags", "keeps up"]
    other, ear = Scene().client, Ear()
    other.listener = ear
    other.left()
    assert ear.heard == ["left"]


class Onlooker:
    """Who looks on, and notes what it hears."""

    def __init__(self, client: Client) -> None:
        self.heard: list[str] = []
        self._client = client

    def client_began(self) -> None:
        self.heard.append(f"began {self._client.status}")

    def client_ended(self) -> None:
        self.heard.append("ended")


@pytest.mark.parametrize("end", ["finish", "cut", "left"])
def test_who_looks_on_is_told(end: str) -> None:
    """Who looks on hears of the answer's head and of the end, once, and can read what was answered."""
    client = Scene("POST").client
    onlooker = client.watcher = Onlooker(client)
    client.begin(202, LENGTH)
    client.write(b"hel")
    getattr(client, end)()
    if end == "left":
        client.cut()

    assert onlooker.heard == ["began 202", "ended"]
    assert (client.status, client.answer_headers, client.written) == (202, LENGTH, 3)


def test_bytes_are_those_of_the_body() -> None:
    """What is counted is the body as it was meant, without the marks of its framing, and nothing where none is sent."""
    chunked, bodiless, gone = Scene().client, Scene("HEAD").client, Scene().client
    gone.left()
    for client in (chunked, bodiless, gone):
        client.begin(200, [])
        client.write(b"hello")
        client.finish()

    assert [client.written for client in (chunked, bodiless, gone)] == [5, 0, 0]


def test_cancel() -> None:
    """A request that is cancelled is answered at once, if it was not yet; its connection goes on."""
    scene, ear = Scene(), Ear()
    scene.client.listener = ear
    scene.client.cancel()

    assert ear.heard == ["left"]
    assert scene.wire.written.startswith(b"HTTP/1.1 499 ")
    assert scene.wire.written.endswith(b'"code":"request_cancelled"}}')
    assert scene.client.keep_alive
    assert scene.ended == 1


def test_cancel_within_the_answer() -> None:
    """An answer that has begun can only be cut."""
    scene = Scene()
    scene.client.begin(200, LENGTH)
    scene.client.write(b"hel")
    scene.client.cancel()

    assert scene.wire.written.endswith(b"hel")
    assert not scene.client.keep_alive
    assert scene.ended == 1


def test_pace() -> None:
    """Reading the request can be paused."""
    scene = Scene()
    scene.client.pause()
    assert scene.wire.is_paused
    scene.client.resume()
    assert not scene.wire.is_paused


def test_repr() -> None:
    """A request shows what it is and how far."""
    scene = Scene("POST", is_whole=False)
    shown = [repr(scene.client)]
    scene.client.complete()
    shown.append(repr(scene.client))
    scene.client.left()
    shown.append(repr(scene.client))
    scene.client.finish()
    shown.append(repr(scene.client))

    assert shown == [f"<Client POST / [{state}]>" for state in ("sending", "whole", "gone", "answered")]
