"""Websockets to a child, through a real service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.conftest import DEADLINE, eventually, running_service
from tests.proxy.conftest import Child, fake_cmd, http_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from websockets.sync.client import ClientConnection

    from tests.conftest import RunningService


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


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["only-we-know", None])
async def test_a_key_of_its_server(key: str | None) -> None:
    """A server that asks for a key only we know gets it with a websocket too."""
    from websockets.asyncio.server import ServerConnection, serve

    from supervisor.llama.endpoint import TcpEndpoint
    from supervisor.proxy.websocket import _connected

    seen: list[str | None] = []

    async def answer(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.headers.get("authorization"))

    async with serve(answer, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with _connected(TcpEndpoint(port), "/ws", {"headers": []}, key) as child:
            await child.wait_closed()

    assert seen == ([f"Bearer {key}"] if key else [None])
