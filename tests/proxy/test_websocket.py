"""Websockets to a child, through a real service."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from supervisor.access.keys import KeyRing
from supervisor.config.values import Config, Peer, Server, Timeouts
from supervisor.errors import UpstreamTimeout, UpstreamUnreachable
from supervisor.llama.endpoint import TcpEndpoint
from supervisor.proxy.backend import PeerBackend
from supervisor.proxy.heads import Forwarding
from supervisor.proxy.peers import Peers
from supervisor.proxy.server_socket import closing, open_socket, returned
from supervisor.proxy.upstream import Upstream
from tests.conftest import DEADLINE, eventually, running_service
from tests.proxy.conftest import Child, fake_cmd, http_to
from tests.proxy.tls import server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator, Sequence

    from websockets.datastructures import Headers
    from websockets.http11 import Request, Response
    from websockets.sync.client import ClientConnection

    from tests.conftest import RunningService

KEYED = Config(Path("/"), Server(api_keys=("ours",)))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with one model whose child speaks websockets."""
    config = f'[models."a/ws"]\ncmd = {fake_cmd("--websockets")}\n[models.broken]\ncmd = "false ${{PORT}}"'
    with running_service(tmp_path_factory.mktemp("websocket") / "service", config) as running:
        yield running


def socket_to(service: RunningService, path: str, **options: Any) -> ClientConnection:
    url = service.url.replace("http:", "ws:") + path
    socket: ClientConnection = connect(url, proxy=None, open_timeout=DEADLINE, close_timeout=DEADLINE, **options)
    return socket


def test_echo(service: RunningService) -> None:
    """Text and bytes pass both ways as what they are, in order, empty ones too; the first one loads the model."""
    with socket_to(service, "/upstream/a/ws/echo") as socket:
        for message in ("hello", b"\x00\xff", "é🦙", "", b""):
            socket.send(message)

        assert [socket.recv(DEADLINE) for _ in range(5)] == ["hello", b"\x00\xff", "é🦙", "", b""]


def test_large_message(service: RunningService) -> None:
    """Three megabytes are one message on both ways."""
    message = bytes(range(256)) * 12 * 1024
    with socket_to(service, "/upstream/a%2Fws/echo", max_size=None) as socket:
        socket.send(message)

        assert socket.recv(DEADLINE) == message


def test_subprotocol(service: RunningService) -> None:
    """The child chooses the subprotocol, and the client learns which one; none is none."""
    with socket_to(service, "/upstream/a/ws/subprotocol", subprotocols=["other", "chat"]) as socket:
        assert socket.subprotocol == "chat"
        assert socket.recv(DEADLINE) == "chat"
    with socket_to(service, "/upstream/a/ws/subprotocol") as socket:
        assert socket.subprotocol is None
        assert socket.recv(DEADLINE) == "None"


def test_child_ends_well(service: RunningService) -> None:
    """When the child ends the conversation, so does the client's socket, with the child's reason."""
    with socket_to(service, "/upstream/a/ws/close/1000") as socket, pytest.raises(ConnectionClosed):
        socket.recv(DEADLINE)

    assert (socket.close_code, socket.close_reason) == (1000, "as told")


def test_client_leaves(service: RunningService) -> None:
    """When the client ends the conversation or vanishes, the child is told, and the count goes back."""
    child = Child(service, "a/ws")
    with socket_to(service, "/upstream/a/ws/echo?polite") as socket:
        eventually(lambda: child.requests() == 1)
    eventually(lambda: child.facts("polite")["gone"] == 1)
    with socket_to(service, "/upstream/a/ws/echo?vanished") as socket:
        eventually(lambda: child.facts("vanished")["started"] == 1)
        socket.socket.close()
    eventually(lambda: child.facts("vanished")["gone"] == 1)
    eventually(lambda: child.requests() == 0)

    with http_to(service.url) as http:
        assert "Traceback" not in http.get("/logs/proxy").text


@pytest.mark.parametrize(
    ("path", "code"),
    [("/upstream/unknown/echo", "model_not_found"), ("/v1/realtime", "not_found"), ("/", "not_found")],
)
def test_refused(service: RunningService, path: str, code: str) -> None:
    """A socket to an unknown model or place is refused as any other request is."""
    with pytest.raises(InvalidStatus) as caught:
        socket_to(service, path)
    response = caught.value.response

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.body or b"")["error"]["code"] == code


def test_refused_as_text(service: RunningService) -> None:
    """Who prefers text gets the reason as text."""
    with pytest.raises(InvalidStatus) as caught:
        socket_to(service, "/upstream/unknown/echo", additional_headers={"accept": "text/plain"})

    assert b"unknown" in (caught.value.response.body or b"")
    assert caught.value.response.headers["content-type"].startswith("text/plain")


def test_far_away(service: RunningService) -> None:
    """Who may not manage may not talk to a child by its address."""
    with pytest.raises(InvalidStatus) as caught:
        socket_to(service, "/upstream/a/ws/echo", additional_headers={"x-forwarded-for": "203.0.113.1"})

    assert caught.value.response.status_code == 403


def test_model_fails(service: RunningService) -> None:
    """A socket to a model that cannot start is refused with the reason."""
    with pytest.raises(InvalidStatus) as caught:
        socket_to(service, "/upstream/broken/echo")
    error = json.loads(caught.value.response.body or b"")["error"]

    assert caught.value.response.status_code in {500, 503}
    assert error["failure"]["model"] == "broken"


def test_child_refuses(service: RunningService) -> None:
    """A place that a child has no websocket at is answered as the child does, and nothing is left of the attempt."""
    with pytest.raises(InvalidStatus) as caught:
        socket_to(service, "/upstream/a/ws/health")

    assert caught.value.response.status_code == 200
    eventually(lambda: Child(service, "a/ws").requests() == 0)


def test_unloaded(service: RunningService) -> None:
    """A socket whose model is unloaded by force is closed; the next one loads it again."""
    with socket_to(service, "/upstream/a/ws/echo") as socket:
        socket.send("x")
        socket.recv(DEADLINE)
        with http_to(service.url) as http:
            http.post("/models/unload", json={"model": "a/ws", "force": True}).raise_for_status()
        with pytest.raises(ConnectionClosed):
            socket.recv(DEADLINE)
    with socket_to(service, "/upstream/a/ws/echo") as socket:
        socket.send("again")

        assert socket.recv(DEADLINE) == "again"


@contextlib.asynccontextmanager
async def far_server(*, certificate: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[Headers]]]:
    """Another service that echoes; its port, and the heads it has seen. It greets with a cookie."""
    seen: list[Headers] = []

    def greet(connection: ServerConnection, request: Request, response: Response) -> Response | None:
        seen.append(request.headers)
        response.headers["Set-Cookie"] = "a=1"
        response.headers["Set-Cookie"] = "b=2"
        return None

    async def echo(connection: ServerConnection) -> None:
        assert connection.request is not None
        await connection.send(connection.request.path)
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, process_response=greet, ssl=certificate) as server:
        yield next(iter(server.sockets)).getsockname()[1], seen


def scope_of(*headers: tuple[bytes, bytes], subprotocols: Sequence[str] = ()) -> dict[str, Any]:
    """A client's websocket, as ASGI has it."""
    client = ("192.168.0.9", 5555)
    upgrade = [(b"upgrade", b"websocket"), (b"connection", b"Upgrade, X-Hop"), (b"sec-websocket-key", b"theirs")]
    return {"headers": [(b"host", b"here"), *upgrade, *headers], "client": client, "subprotocols": subprotocols}


def peers_of(url: str, **fields: Any) -> Peers:
    return Peers(Config(Path("/"), Server(api_keys=("ours",)), peers={"far": Peer(url, ("m",), **fields)}))


SENT = [
    (b"authorization", b"Bearer ours"),
    (b"cookie", b"c=1"),
    (b"origin", b"http://a.page"),
    (b"user-agent", b"ua"),
    (b"x-hop", b"here"),
    (b"x-forwarded-for", b"10.0.0.1"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["only-we-know", None])
async def test_what_a_server_sees(key: str | None) -> None:
    """The client's headers, as in any other request: no key of ours, and one that only we and the server know."""
    async with far_server() as (port, seen):
        forwarding = Forwarding(api_key=key.encode() if key else None, own_keys=KeyRing.of(KEYED))
        backend = PeerBackend("far", Upstream(TcpEndpoint(port), forwarding=forwarding))
        async with closing(await open_socket(backend, b"/ws/%C3%A9?x=1", scope_of(*SENT))) as server:
            assert await server.recv() == "/ws/%C3%A9?x=1"

    assert [name for name in seen[0] if seen[0].get_all(name)[1:]] == []
    assert seen[0].get("authorization") == (f"Bearer {key}" if key else None)
    kept = {name: seen[0][name] for name in ("host", "cookie", "origin", "user-agent", "x-forwarded-for")}
    assert kept == {
        "host": "localhost",
        "cookie": "c=1",
        "origin": "http://a.page",
        "user-agent": "ua",
        "x-forwarded-for": "10.0.0.1",
    }
    assert "x-hop" not in seen[0]
    assert seen[0]["sec-websocket-key"] != "theirs"


@pytest.mark.anyio
async def test_what_a_server_answers() -> None:
    """Its cookies are the client's, what belongs to the connection is not."""
    async with far_server() as (port, _):
        backend = PeerBackend("far", Upstream(TcpEndpoint(port)))
        async with closing(await open_socket(backend, b"/", scope_of())) as server:
            assert returned(server) == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]


@pytest.mark.anyio
async def test_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through TLS, below its path, by its own host, with its key, and without a word of whom we serve."""
    context, certificate = server_context(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with far_server(certificate=context) as (port, seen):
        peers = peers_of(f"https://localhost:{port}/llm/", api_key="theirs")
        async with closing(await open_socket(peers.backend("far"), b"/ws", scope_of(*SENT))) as server:
            assert await server.recv() == "/llm/ws"
        assert peers.reachable("far")
        peers.close()

    kept = {name: seen[0].get(name) for name in ("host", "authorization", "x-api-key", "cookie", "x-forwarded-for")}
    assert kept == {
        "host": f"localhost:{port}",
        "authorization": "Bearer theirs",
        "x-api-key": "theirs",
        "cookie": "c=1",
        "x-forwarded-for": None,
    }


@pytest.mark.anyio
async def test_a_peer_that_is_down() -> None:
    """Nobody listens: that is what the client is told, and what the listing knows then."""
    peers = peers_of("http://127.0.0.1:1")
    with pytest.raises(UpstreamUnreachable, match=r"the peer `far` cannot be reached: Connection refused"):
        await open_socket(peers.backend("far"), b"/ws", scope_of())

    assert peers.reachable("far") is False


@pytest.mark.anyio
async def test_a_peer_that_hangs() -> None:
    """One that takes the request and says nothing has the time that it has for any answer."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        peers = peers_of(url, timeouts=Timeouts(response_header=0.05))
        with pytest.raises(UpstreamTimeout, match=r"the peer `far` has not begun to answer within 0\.05 s"):
            await open_socket(peers.backend("far"), b"/ws", scope_of())
        peers.close()


@pytest.mark.anyio
async def test_a_peer_that_speaks_something_else() -> None:
    """What is no answer of HTTP is a peer that accepts no websocket; a head of ours is never shown."""

    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(gibberish, "127.0.0.1", 0)
    async with server:
        peers = peers_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", api_key="theirs")
        with pytest.raises(UpstreamUnreachable, match=r"peer far accepts no websocket at `/ws`") as raised:
            await open_socket(peers.backend("far"), b"/ws", scope_of())
        peers.close()

    assert "theirs" not in str(raised.value)
