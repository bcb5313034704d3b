"""Pages of other sites (spec 1.7) and API keys (spec 1.8)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import DEADLINE
from tests.llamaswap.conftest import Swap, running_swap, seen

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = "models: {m: {cmd: '<child>'}}"
KEYS = ["key-one", "key:two"]
ORIGIN = {"origin": "https://chat.example"}
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
CHAT = "/v1/chat/completions"
MANAGEMENT = ["/api/events", "/api/models/unload", "/unload", "/running", "/logs", "/logs/stream/x", "/upstream/m/x"]
PROTECTED = [
    ("POST", CHAT),
    ("POST", "/v1/embeddings"),
    ("POST", "/v/embeddings"),
    ("POST", "/infill"),
    ("POST", "/audioapi/v1/tasks/run"),
    ("POST", "/v1/audio/transcriptions"),
    ("GET", "/v1/audio/voices?model=m"),
    ("GET", "/props?model=m"),
    ("GET", "/v1/models"),
    ("GET", "/models"),
    ("GET", "/running"),
    ("GET", "/unload"),
    ("GET", "/upstream/m/x"),
    ("DELETE", "/upstream/m/x"),
    ("GET", "/comfyui"),
    ("GET", "/comfyui/"),
    ("GET", "/logs"),
    ("GET", "/logs/stream"),
    ("GET", "/logs/stream/m"),
    ("POST", "/api/models/unload"),
    ("POST", "/api/models/unload/m"),
    ("GET", "/api/profiles"),
    ("PUT", "/api/profiles/active"),
    ("POST", "/api/inflight/1/cancel"),
    ("GET", "/api/events"),
    ("GET", "/api/reload"),
    ("POST", "/api/reload"),
    ("GET", "/api/version"),
]


@pytest.fixture(scope="module")
def open_swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    """A service without keys."""
    with running_swap(tmp_path_factory.mktemp("cors"), MODELS) as swap:
        yield swap


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    """A service with keys."""
    with running_swap(tmp_path_factory.mktemp("keys"), f"apiKeys: {KEYS}\n{MODELS}") as swap:
        yield swap


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# 1.7


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/models", "/v1/audio/transcriptions", "/props", "/v/rerank"])
def test_preflight(open_swap: Swap, path: str) -> None:
    """1.7: OPTIONS is answered here, for any site."""
    response = open_swap.client.options(path, headers=ORIGIN)
    headers = response.headers

    assert (response.status_code, response.content) == (204, b"")
    assert headers["access-control-allow-origin"] == "*"
    assert {word.strip() for word in headers["access-control-allow-methods"].split(",")} == METHODS
    assert headers["access-control-allow-headers"] == "Content-Type, Authorization, Accept, X-Requested-With"
    assert headers["access-control-max-age"] == "86400"


def test_preflight_headers(open_swap: Swap) -> None:
    """1.7: the headers asked for are allowed, but for names that are none."""
    asked = {"access-control-request-headers": "x-a,  X-Stainless-OS , no name, b(c), content-type"}
    response = open_swap.client.options(CHAT, headers={**ORIGIN, **asked})

    assert response.headers["access-control-allow-headers"] == "x-a, X-Stainless-OS, content-type"


@pytest.mark.parametrize("path", ["/nothing/at/all", "/", *MANAGEMENT])
def test_preflight_anywhere(open_swap: Swap, swap: Swap, path: str) -> None:
    """1.7: OPTIONS is a 204 on any path, with keys or without; management need not be open to other sites."""
    assert open_swap.client.options(path, headers=ORIGIN).status_code == 204
    assert swap.client.options(path, headers=ORIGIN).status_code == 204


def test_answers_to_other_sites(open_swap: Swap) -> None:
    """1.7, on purpose: answers of models and our own errors can be read by a page of any site."""
    for model, status in (("m", 200), ("unknown", 404)):
        response = open_swap.ask(model, headers=ORIGIN)

        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "*"


def test_no_second_header(open_swap: Swap) -> None:
    """1.7: a child that allows sites itself, as llama-server does, does not make it two headers."""
    head = "200 OK|access-control-allow-origin: https://chat.example|content-length: 13"
    response = open_swap.ask("m", do="raw", headers={**ORIGIN, "x-head": head})

    assert response.headers.get_list("access-control-allow-origin") in (["*"], ["https://chat.example"])


# 1.8


def test_open_without_keys(open_swap: Swap) -> None:
    """1.8: without keys nobody needs one, and one that is sent does no harm."""
    assert open_swap.get("/running").status_code == 200
    assert open_swap.ask("m", headers={"authorization": "Bearer any"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer key-one"},
        {"authorization": "bearer key-one"},
        {"authorization": "BEARER key:two"},
        {"authorization": basic("", "key-one")},
        {"authorization": basic("anybody", "key-one")},
        {"authorization": basic("anybody", "key:two")},
        {"x-api-key": "key-one"},
        {"authorization": "Basic !!!", "x-api-key": "key-one"},
        {"authorization": "Bearer key-one", "x-api-key": "wrong"},
    ],
    ids=lambda headers: "+".join(headers.values()),
)
def test_right_key(swap: Swap, headers: dict[str, str]) -> None:
    """1.8: the key comes as the password of Basic, as Bearer, or as x-api-key."""
    assert swap.ask("m", headers=headers).status_code == 200
    assert swap.get("/running", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer key-on"},
        {"authorization": "Bearer key-one2"},
        {"authorization": "Bearer KEY-ONE"},
        {"authorization": "Bearer"},
        {"authorization": "key-one"},
        {"authorization": basic("key-one", "")},
        {"authorization": basic("key-one", "wrong")},
        {"authorization": "Basic !!!"},
        {"x-api-key": ""},
        {"x-api-key": "key-one key:two"},
        {"api-key": "key-one"},
    ],
    ids=lambda headers: "+".join(f"{name}={value}" for name, value in headers.items()) or "none",
)
def test_wrong_key(swap: Swap, headers: dict[str, str]) -> None:
    """1.8, 1.3: anything else is a 401 that asks for Basic, in the shape of all errors."""
    response = swap.ask("m", headers=headers)
    error = response.json()["error"]

    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Basic realm=")
    assert (error["type"], error["code"], error["param"]) == ("authentication_error", "unauthorized", None)


@pytest.mark.parametrize("query", ["key=key-one", "api_key=key-one", "x-api-key=key-one", "token=key-one"])
def test_no_key_in_the_query(swap: Swap, query: str) -> None:
    """1.8: a query carries no key."""
    assert swap.get(f"/running?{query}").status_code == 401


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_protected(swap: Swap, method: str, path: str) -> None:
    """1.1, 1.8: these need a key."""
    with swap.client.stream(method, path) as response:
        assert response.status_code == 401


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("DELETE", "/running"), ("GET", "/ui/")])
def test_strangers_learn_nothing(swap: Swap, method: str, path: str) -> None:
    """1.1, 1.8, on purpose: what there is not, and how, is told to nobody without a key."""
    assert swap.client.request(method, path).status_code == 401


def test_anthropic(swap: Swap) -> None:
    """1.3, on purpose: Anthropic's clients are refused in their own words."""
    response = swap.ask("m", path="/v1/messages")

    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert response.json()["type"] == "error"


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/wol-health", 200), ("/upstream", 302)])
def test_unprotected(swap: Swap, path: str, status: int) -> None:
    """1.1, 1.8: these do not."""
    assert swap.get(path).status_code == status


def test_websocket(swap: Swap) -> None:
    """1.8: a websocket needs a key too."""
    with pytest.raises(InvalidStatus) as raised:
        swap.socket("/upstream/m/ws")
    assert raised.value.response.status_code == 401

    headers = {"Authorization": "Bearer key-one"}
    with swap.socket("/upstream/m/ws", additional_headers=headers) as socket:
        socket.send("hello")
        assert socket.recv(DEADLINE) == "hello"


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer key-one"}, {"authorization": basic("me", "key-one")}, {"x-api-key": "key-one"}],
    ids=["bearer", "basic", "x-api-key"],
)
def test_our_key_stays_here(swap: Swap, headers: dict[str, str]) -> None:
    """1.8, on purpose: a key of ours is not passed on to the child."""
    for response in (swap.ask("m", headers=headers), swap.get("/upstream/m/x", headers=headers)):
        assert not seen(response)["headers"].keys() & {"authorization", "x-api-key"}


def test_other_keys_pass(open_swap: Swap, swap: Swap) -> None:
    """1.8: what is no key of ours is for the child."""
    theirs = {"authorization": "Bearer theirs", "x-api-key": "theirs too"}
    both = {"authorization": "Bearer key-one", "x-api-key": "theirs"}

    assert seen(open_swap.ask("m", headers=theirs))["headers"].items() >= theirs.items()
    assert seen(swap.ask("m", headers=both))["headers"]["x-api-key"] == "theirs"
