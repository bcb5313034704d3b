"""`/upstream` and `/comfyui` (spec 1.6): passing everything through, and what does not load a model."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import DEADLINE, eventually
from tests.llamaswap.conftest import Swap, running_swap, seen
from tests.proxy.conftest import raw_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


CONFIG = """
models:
  m:
    cmd: <child>
    useModelName: other
    concurrencyLimit: 1
    filters: {stripParams: top_p, setParams: {top_k: 1}}
  author/model:
    cmd: <child>
  quiet:
    cmd: <child>
    compat: {ignoreWebsockets: true}
  comfyui_auto:
    cmd: <child>
    concurrencyLimit: 2
  slow:
    cmd: <child> --health 503
selectors:
  choice: {strategy: pin, targets: [m]}
"""
ASSETS = ["js", "json", "css", "png", "gif", "jpg", "jpeg", "ico", "txt"]


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("upstream"), CONFIG) as swap:
        yield swap


@pytest.fixture
def cold(swap: Swap) -> Swap:
    """The service without any process."""
    swap.get("/unload")
    return swap


# Plain requests.


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_methods(swap: Swap, method: str) -> None:
    """1.6: any method passes, with path, query and a body that is not looked into."""
    body = b"" if method == "GET" else b"\x00not { json \xff"
    request = seen(swap.client.request(method, "/upstream/m/a/b?x=1&y", content=body))

    assert (request["method"], request["target"]) == (method, "/a/b?x=1&y")
    assert request["body"].encode("latin-1") == body


def test_loads(cold: Swap) -> None:
    """1.6: a request loads its model: it is how llama-swap's page does that."""
    cold.get("/upstream/author/model/?_=17").raise_for_status()

    assert cold.running() == {"author/model": "ready"}


def test_nothing_is_rewritten(swap: Swap) -> None:
    """0: neither filters nor useModelName apply."""
    body = b'{"model":"m","top_p":1}'
    request = seen(
        swap.post("/upstream/m/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    )

    assert request["body"].encode() == body


@pytest.mark.parametrize("path", ["/upstream/unknown/x", "/upstream/choice/x", "/upstream/", "/upstream//"])
def test_unknown(swap: Swap, path: str) -> None:
    """1.6: a model that nobody has is a 404; selectors are no models here."""
    assert swap.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/upstream/m", "/upstream/author/model"])
@pytest.mark.parametrize(
    ("method", "status"), [("GET", 301), ("HEAD", 301), ("POST", 308), ("PUT", 308), ("DELETE", 308)]
)
def test_without_slash(swap: Swap, path: str, method: str, status: int) -> None:
    """1.6: a model's name alone leads to its root, keeping the query."""
    response = swap.client.request(method, f"{path}?a=1&b=%2F")

    assert response.status_code == status
    assert response.headers["location"].removeprefix(swap.url) == f"{path}/?a=1&b=%2F"


def test_counts_for_the_limit(swap: Swap) -> None:
    """1.6: requests count for the model's limit."""
    held = swap.later(swap.get, "/upstream/m/x", headers={"x-do": "hold", "x-name": "limit"})
    swap.await_start("m", "limit")
    refused = swap.get("/upstream/m/x")
    swap.child("m").go("limit")

    assert refused.status_code == 429
    assert held.result().status_code == 200


# What does not load a model.


@pytest.mark.parametrize("suffix", ASSETS)
def test_assets_of_a_cold_model(cold: Swap, suffix: str) -> None:
    """1.6: files that a browser asks for by itself do not load a model: 409."""
    response = cold.get(f"/upstream/m/static/file.{suffix}?v=1")

    assert response.status_code == 409
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert cold.running() == {}


def test_assets_of_a_starting_model(cold: Swap) -> None:
    """1.6: neither do they wait for one that starts."""
    waiting = cold.later(cold.get, "/upstream/slow/")
    eventually(lambda: cold.running() == {"slow": "starting"})
    response = cold.get("/upstream/slow/a.js")
    cold.post("/api/models/unload/slow")

    assert response.status_code == 409
    assert waiting.result().status_code in {500, 503}


def test_assets_of_a_ready_model(cold: Swap) -> None:
    """1.6: a model that is ready serves them."""
    cold.ask("author/model").raise_for_status()

    assert seen(cold.get("/upstream/author/model/a.js"))["target"] == "/a.js"


@pytest.mark.parametrize("path", ["/a.js/b", "/a.html", "/ajs", "/?file=a.js"])
def test_no_assets(cold: Swap, path: str) -> None:
    """1.6: only the end of the path counts."""
    assert seen(cold.get(f"/upstream/m{path}"))["target"] == path


def test_own_patterns(start_swap: Callable[..., Swap]) -> None:
    """1.6: `upstream.ignorePaths` replaces the patterns."""
    swap = start_swap(f"upstream: {{ignorePaths: ['^/favicon', '[.]map$']}}\n{CONFIG}")

    assert swap.get("/upstream/m/favicon/x").status_code == 409
    assert swap.get("/upstream/m/a.map").status_code == 409
    assert swap.get("/upstream/m/a.js").status_code == 200


# Websockets.


def test_websocket(cold: Swap) -> None:
    """1.6: a websocket loads its model, passes both ways, and counts as a request until it ends."""
    with cold.socket("/upstream/m/ws?x=1") as socket:
        for message in ("hello", b"\x00\xff"):
            socket.send(message)
            assert socket.recv(DEADLINE) == message
        assert cold.ask("m").status_code == 429
    eventually(lambda: cold.child("m").about()["sockets"] == 0)
    eventually(lambda: cold.ask("m").status_code == 200)


def test_head_of_a_websocket(swap: Swap) -> None:
    """1.6, 1.9: its head passes as that of any request does, the client's address added."""
    told = {"cookie": "a=1", "authorization": "Bearer theirs", "origin": swap.url, "user-agent": "ua"}
    with swap.socket("/upstream/m/ws", additional_headers=told, user_agent_header=None) as socket:
        socket.send("x")
        socket.recv(DEADLINE)
    headers = swap.child("m").about()["handshake"]

    expected = {**told, "x-forwarded-for": "127.0.0.1", "host": swap.url.removeprefix("http://")}
    assert headers.items() >= expected.items()


def test_ignored_websocket(cold: Swap) -> None:
    """1.6: with compat.ignoreWebsockets a websocket never starts the model: 409, unless it is ready."""
    with pytest.raises(InvalidStatus) as raised:
        cold.socket("/upstream/quiet/ws")

    assert raised.value.response.status_code == 409
    assert cold.running() == {}
    cold.ask("quiet").raise_for_status()
    with cold.socket("/upstream/quiet/ws") as socket:
        socket.send("hello")
        assert socket.recv(DEADLINE) == "hello"


def test_ignored_websocket_holds_nothing(cold: Swap) -> None:
    """1.6: such a websocket does not keep its model from being swapped."""
    cold.ask("quiet").raise_for_status()
    with cold.socket("/upstream/quiet/ws") as socket:
        socket.send("hello")
        socket.recv(DEADLINE)
        cold.ask("author/model").raise_for_status()

        assert cold.running() == {"author/model": "ready"}


def test_websocket_to_nobody(start_swap: Callable[..., Swap]) -> None:
    """1.3: where nothing listens, the answer is a 502."""
    swap = start_swap("models: {m: {cmd: sleep 100, proxy: 'http://127.0.0.1:9', checkEndpoint: none}}")
    with pytest.raises(InvalidStatus) as raised:
        swap.socket("/upstream/m/ws")

    assert raised.value.response.status_code == 502


UPGRADE = b"\r\n".join(
    [
        b"GET /upstream/m/ws HTTP/1.1",
        b"host: localhost",
        b"upgrade: websocket",
        b"connection: upgrade",
        b"sec-websocket-version: 13",
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
        b"\r\n",
    ]
)


def test_websocket_whose_client_leaves_before_it_opens(start_swap: Callable[..., Swap]) -> None:
    """1.6: a server that has not answered is left, and its model is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        swap = start_swap(f"models: {{m: {{cmd: sleep 100, proxy: '{url}', checkEndpoint: none}}}}")
        with raw_request(swap, UPGRADE):
            heard = b""
            while b"upgrade" not in heard:  # others only look whether somebody is there
                connection, _ = server.accept()
                heard = connection.recv(65536).lower()
            eventually(lambda: swap.model("m")["state"] == "busy")
        connection.settimeout(DEADLINE)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(65536) == b""
        connection.close()

        eventually(lambda: swap.model("m")["state"] == "ready")


# ComfyUI.


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 301), ("HEAD", 301), ("POST", 308), ("PUT", 308), ("DELETE", 308)]
)
def test_comfyui_without_slash(swap: Swap, method: str, status: int) -> None:
    """1.1: /comfyui leads to /comfyui/, keeping the query."""
    response = swap.client.request(method, "/comfyui?a=%2F")

    assert response.status_code == status
    assert response.headers["location"].removeprefix(swap.url) == "/comfyui/?a=%2F"


def test_comfyui(cold: Swap) -> None:
    """1.6: only /comfyui/ itself starts the model; every other path needs it to be ready."""
    refused = cold.get("/comfyui/api/queue")
    assert (refused.status_code, cold.running()) == (409, {})

    assert seen(cold.get("/comfyui/?x=1"))["target"] == "/?x=1"
    assert seen(cold.post("/comfyui/api/prompt?y=%2F", content=b"{}"))["target"] == "/api/prompt?y=%2F"
    assert cold.running() == {"comfyui_auto": "ready"}


def test_comfyui_websocket(cold: Swap) -> None:
    """1.6: its websockets do not start it either."""
    with pytest.raises(InvalidStatus) as raised:
        cold.socket("/comfyui/ws")
    assert raised.value.response.status_code == 409

    cold.get("/comfyui/").raise_for_status()
    with cold.socket("/comfyui/ws") as socket:
        socket.send("hello")
        assert socket.recv(DEADLINE) == "hello"


def test_comfyui_limit(swap: Swap) -> None:
    """1.6: whatever its limit says, it takes at least 50 requests at a time."""
    swap.get("/comfyui/").raise_for_status()
    held: list[Any] = [
        swap.later(swap.get, "/comfyui/x", headers={"x-do": "hold", "x-name": "many"}) for _ in range(20)
    ]
    swap.await_start("comfyui_auto", "many", 20)
    swap.child("comfyui_auto").go("many")

    assert {each.result().status_code for each in held} == {200}


def test_no_comfyui(start_swap: Callable[..., Swap]) -> None:
    """1.3: without that model /comfyui/ is a 404."""
    assert start_swap("models: {m: {cmd: '<child>'}}").get("/comfyui/").status_code == 404
