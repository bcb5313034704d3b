"""llama-swap's route table (spec 1.1): every path with its methods, and where it leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.llamaswap.conftest import Swap, running_swap, seen

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON_ROUTES = [
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/reranking",
    "/rerank",
    "/reranking",
    "/infill",
    "/completion",
    "/v1/audio/speech",
    "/v1/audio/voices",
    "/v1/images/generations",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
]
SHORT_ROUTES = [
    "/v/chat/completions",
    "/v/responses",
    "/v/completions",
    "/v/messages",
    "/v/messages/count_tokens",
    "/v/embeddings",
    "/v/rerank",
    "/v/reranking",
]
FORM_ROUTES = ["/v1/audio/transcriptions", "/v1/images/edits"]
QUERY_ROUTES = ["/v1/audio/voices", "/sdapi/v1/loras", "/props"]
OWN_ROUTES = ["/v1/models", "/models", "/running", "/logs", "/health", "/wol-health", "/api/profiles", "/api/version"]


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("routes"), "models: {m: {cmd: '<child>'}}") as swap:
        yield swap


@pytest.mark.parametrize("path", JSON_ROUTES)
def test_json_routes(swap: Swap, path: str) -> None:
    """1.1: a POST with the model in its JSON body reaches the child at the same path, with its query."""
    request = seen(swap.ask("m", path=f"{path}?x=1"))

    assert (request["method"], request["target"]) == ("POST", f"{path}?x=1")


@pytest.mark.parametrize("path", SHORT_ROUTES)
def test_short_routes(swap: Swap, path: str) -> None:
    """1.1: the child of a request below /v sees the path without it."""
    assert seen(swap.ask("m", path=path))["target"] == path.removeprefix("/v")


def test_audioapi(swap: Swap) -> None:
    """1.1: /audioapi/v1/tasks/run is /v1/tasks/run to the child."""
    assert seen(swap.ask("m", path="/audioapi/v1/tasks/run"))["target"] == "/v1/tasks/run"


@pytest.mark.parametrize("path", FORM_ROUTES)
def test_form_routes(swap: Swap, path: str) -> None:
    """1.1: these find the model in a multipart form."""
    request = seen(swap.post(path, data={"model": "m"}, files={"file": ("a.bin", b"\x00\xff\r\n")}))

    assert (request["method"], request["target"]) == ("POST", path)
    assert "a.bin" in request["body"]


@pytest.mark.parametrize("path", QUERY_ROUTES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_query_routes(swap: Swap, path: str, method: str) -> None:
    """1.1: these find the model in the query, which is forwarded as it is; HEAD is answered wherever GET is."""
    swap.ask("m").raise_for_status()
    target = f"{path}?a=%2F&model=m&b"
    response = swap.client.request(method, target)

    assert response.status_code == 200
    if method == "GET":
        assert (response.json()["method"], response.json()["target"]) == ("GET", target)


@pytest.mark.parametrize("path", OWN_ROUTES)
def test_head(swap: Swap, path: str) -> None:
    """1.1: our own GET routes answer HEAD, without a body."""
    whole, head = swap.get(path), swap.client.head(path)

    assert (whole.status_code, head.status_code) == (200, 200)
    assert head.content == b""
    assert head.headers["content-type"] == whole.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "target"),
    [("/v1//chat/completions?a=//", "/v1/chat/completions?a=//"), ("//v//embeddings", "/embeddings")],
)
def test_slashes(swap: Swap, path: str, target: str) -> None:
    """8: a base URL that ends in a slash does no harm; no client follows a redirect of a POST."""
    assert seen(swap.client.request("POST", f"{swap.url}{path}", json={"model": "m"}))["target"] == target
    assert swap.client.request("GET", f"{swap.url}//v1///models").json() == swap.get("/v1/models").json()


def test_slashes_below_upstream(swap: Swap) -> None:
    """1.6: behind a model's name they are the child's."""
    assert seen(swap.get("/upstream/m//a//b"))["target"] in {"//a//b", "/a//b"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *(("GET", path, {"POST"}) for path in [*JSON_ROUTES, *SHORT_ROUTES, *FORM_ROUTES] if path not in QUERY_ROUTES),
        *(("POST", path, {"GET"}) for path in OWN_ROUTES if path != "/v1/models"),
        ("POST", "/sdapi/v1/loras", {"GET"}),
        ("DELETE", "/v1/audio/voices", {"GET", "POST"}),
        ("DELETE", "/v1/models", {"GET"}),
        ("POST", "/unload", {"GET"}),
        ("GET", "/audioapi/v1/tasks/run", {"POST"}),
        ("GET", "/api/models/unload", {"POST"}),
        ("GET", "/api/models/unload/m", {"POST"}),
        ("POST", "/api/profiles/active", {"PUT"}),
        ("GET", "/api/inflight/1/cancel", {"POST"}),
        ("POST", "/api/events", {"GET"}),
        ("POST", "/logs/stream", {"GET"}),
        ("POST", "/upstream", {"GET"}),
    ],
)
def test_wrong_method(swap: Swap, method: str, path: str, allowed: set[str]) -> None:
    """1.1: another method is a 405 that says which ones there are."""
    response = swap.client.request(method, path)

    words = response.headers["allow"].split(", ")
    assert response.status_code == 405
    assert set(words) >= allowed
    assert words == sorted(words)


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/nothing", "/v/infill", "/v/audio/speech", "/api/nothing", "/audioapi/v1/tasks"]
)
def test_unknown_path(swap: Swap, path: str) -> None:
    """1.1: a path that no route has is a 404, whatever the body says."""
    assert swap.ask("m", path=path).status_code == 404
    assert swap.get(path).status_code == 404


def test_upstream_alone(swap: Swap) -> None:
    """1.1: GET /upstream leads to the page with the models."""
    response = swap.get("/upstream")

    assert (response.status_code, response.headers["location"]) == (302, "/ui/models")
