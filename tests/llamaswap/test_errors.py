"""Error bodies (spec 1.3): shape, type by status, text and HTML by Accept, and what becomes of broken children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.conftest import eventually
from tests.llamaswap.conftest import Swap, running_swap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = """
upstream: {ignorePaths: ["[.]js$"]}
models:
  m:
    cmd: <child>
  one:
    cmd: <child>
    concurrencyLimit: 1
  # each crashes once only: after three crashes in a minute we wait before the next start
  dies: {cmd: "<child>"}
  closes: {cmd: "<child>"}
  openai: {cmd: "<child>"}
  anthropic: {cmd: "<child>"}
  cut: {cmd: "<child>"}
  broken:
    cmd: <child> --exit-with 3 --stderr cannot_do_it_today --api-key s3cr3t
  absent:
    cmd: /nonexistent/binary --port ${PORT} --api-key s3cr3t
  never:
    cmd: <child> --health 503 --stderr "still loading"
peers:
  away: {proxy: "http://127.0.0.1:1", models: [far]}
"""


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("errors"), CONFIG) as swap:
        yield swap


def checked(response: httpx.Response) -> dict[str, object]:
    """The error of an answer in the shape of llama-swap's head."""
    assert response.headers["content-type"].startswith("application/json")
    body = response.json()
    assert body.keys() <= {"src", "error"}
    assert body.get("src", "llama-supervise") == "llama-supervise"
    error: dict[str, object] = body["error"]
    assert error.keys() >= {"message", "type", "param", "code"}
    assert error["param"] is None
    assert isinstance(error["code"], str)
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("request_line", "body", "status", "kind"),
    [
        ("POST /v1/chat/completions", b"{", 400, "invalid_request_error"),
        ("POST /v1/chat/completions", b"{}", 404, "invalid_request_error"),
        ("POST /v1/chat/completions", b'{"model":"x"}', 404, "invalid_request_error"),
        ("GET /upstream/x/y", b"", 404, "invalid_request_error"),
        ("POST /api/models/unload/x", b"", 404, "invalid_request_error"),
        ("POST /api/inflight/4711/cancel", b"", 404, "invalid_request_error"),
        ("GET /comfyui/", b"", 404, "invalid_request_error"),
        ("GET /logs/stream/x", b"", 400, "invalid_request_error"),
        ("GET /api/captures/x", b"", 400, "invalid_request_error"),
        ("GET /api/captures/4711", b"", 404, "invalid_request_error"),
        ("GET /upstream/never/x.js", b"", 409, "invalid_request_error"),
        ("POST /v1/chat/completions", b'{"model":"far"}', 502, "server_error"),
    ],
)
def test_type_by_status(swap: Swap, request_line: str, body: bytes, status: int, kind: str) -> None:
    """1.3: every error has the object's shape, and the type that goes with its status."""
    response = swap.client.request(*request_line.split(), content=body, headers={"content-type": "application/json"})

    assert response.status_code == status
    assert checked(response)["type"] == kind


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v/messages"])
def test_anthropic(swap: Swap, path: str) -> None:
    """1.3, on purpose: where Anthropic's clients ask, errors have Anthropic's shape."""
    response = swap.ask("unknown", path=path)

    assert response.status_code == 404
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("accept", ["text/plain", "text/html, text/plain", "text/plain;q=0.1, text/html"])
def test_text(swap: Swap, accept: str) -> None:
    """1.3: who accepts text/plain gets text, before HTML."""
    response = swap.ask("<b>", headers={"accept": accept})

    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/plain")
    assert not response.text.startswith(("{", "<"))


def test_html(swap: Swap) -> None:
    """1.3: who accepts text/html gets a page in which nothing is markup that came from the request."""
    response = swap.ask("<b>&", headers={"accept": "text/html,application/xhtml+xml"})

    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<")
    assert "<b>" not in response.text


@pytest.mark.parametrize("accept", ["*/*", "application/json", "image/png"])
def test_json_otherwise(swap: Swap, accept: str) -> None:
    """1.3: anybody else gets JSON."""
    checked(swap.ask("unknown", headers={"accept": accept}))


def test_too_many_is_always_json(swap: Swap) -> None:
    """1.3: a 429 of the limit is JSON, whatever is accepted."""
    swap.hold("one", "limit")
    response = swap.ask("one", headers={"accept": "text/plain"})
    swap.child("one").go("limit")

    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert (checked(response)["type"], checked(response)["code"]) == ("rate_limit_error", "concurrency_limit")


# Starts that fail.


def test_child_exits(swap: Swap) -> None:
    """1.3, on purpose: a child that dies before it is healthy is told with its own words and its exit code."""
    response = swap.ask("broken")
    error = checked(response)

    assert response.status_code in {500, 503}
    assert error["failure"]["exit_code"] == 3  # type: ignore[index]
    assert "cannot do it today" in json.dumps(error)


def test_cannot_be_run(swap: Swap) -> None:
    """1.3: what cannot be run at all says which program that is."""
    response = swap.ask("absent")

    assert response.status_code in {500, 503}
    assert "/nonexistent/binary" in str(checked(response)["message"])


@pytest.mark.parametrize("model", ["broken", "absent"])
def test_no_secrets(swap: Swap, model: str) -> None:
    """1.3, on purpose: no error tells a key that stands in a command line."""
    assert "s3cr3t" not in swap.ask(model).text


def test_unloaded_while_starting(swap: Swap) -> None:
    """1.3: who waits for a start that is called off is told so."""
    waiting = swap.later(swap.ask, "never")
    eventually(lambda: swap.running().get("never") == "starting")
    swap.post("/api/models/unload/never")

    assert waiting.result().status_code in {500, 503}
    assert checked(waiting.result())["message"]


@pytest.mark.slow
def test_never_healthy(start_swap: Callable[..., Swap]) -> None:
    """1.3, 2.2, 3.2: a health check that never succeeds ends after healthCheckTimeout, which is at least 15 seconds."""
    swap = start_swap('healthCheckTimeout: 1\nmodels: {never: {cmd: "<child> --health 503 --stderr hm"}}')
    response = swap.ask("never")

    assert response.status_code in {500, 503}
    assert response.elapsed.total_seconds() > 14
    assert checked(response)["failure"]
    eventually(lambda: swap.running() == {})


# Children that die while they serve.


@pytest.mark.parametrize(("model", "do"), [("dies", "die"), ("closes", "close")])
def test_no_answer(swap: Swap, model: str, do: str) -> None:
    """1.3, on purpose not empty: a child that is gone before its answer is a 502 with a reason."""
    swap.ask(model).raise_for_status()
    response = swap.ask(model, do=do)

    assert response.status_code == 502
    checked(response)


@pytest.mark.parametrize(
    ("model", "path", "event"),
    [
        ("openai", "/v1/chat/completions", b'data: {"error":'),
        ("anthropic", "/v1/messages", b"event: error\ndata: "),
    ],
)
def test_stream_breaks(swap: Swap, model: str, path: str, event: bytes) -> None:
    """1.3, on purpose no clean end: a stream whose child dies ends with an error in the words of its route."""
    body = {"model": model, "stream": True}
    with swap.client.stream("POST", path, json=body, headers={"x-do": "sse", "x-name": path}) as response:
        pieces = response.iter_raw()
        first = next(pieces)
        os.kill(swap.child_pid(model), signal.SIGKILL)
        with contextlib.suppress(httpx.RemoteProtocolError):
            for piece in pieces:
                first += piece

    assert first.startswith(b"data: {")
    assert event in first


def test_answer_breaks(swap: Swap) -> None:
    """1.3: an answer that is no stream is cut, so that nobody takes the part for the whole."""
    swap.ask("cut").raise_for_status()
    swap.child("cut").go("cut")
    headers = {"x-head": "200 OK|content-type: application/json|content-length: 1000"}
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        swap.ask("cut", do="stream-then-die", name="cut", headers=headers)
