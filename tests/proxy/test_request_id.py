"""The name of a request: taken over or made, in every answer, at the child, and in the log."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from supervisor.proxy.heads import fields_of
from supervisor.proxy.request_id import new_request_id, request_id_of, with_request_id
from tests.conftest import DEADLINE, RunningService, running_service
from tests.proxy.conftest import fake_cmd, http_to, raw_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MADE = re.compile(r"[0-9a-f]{8}-[0-9a-f]+")


@pytest.mark.parametrize("given", [b"a", b"req_1-2.3", b"!~", b"x" * 128])
def test_taken_over(given: bytes) -> None:
    """What a client calls its request is what everybody calls it."""
    headers = [(b"a", b"1"), (b"x-request-id", given)]

    assert request_id_of(headers, fields_of(headers)) == given.decode()
    assert with_request_id(headers) == headers


@pytest.mark.parametrize(
    "given", [[], [b""], [b"x" * 129], [b"a b"], [b"a\tb"], [b"a\x1b[1m"], ["é".encode()], [b"a", b"b"], [b"a", b"a"]]
)
def test_made(given: list[bytes]) -> None:
    """A name that is none, or that is not the only one, is replaced."""
    headers = [(b"a", b"1"), *((b"x-request-id", value) for value in given)]

    assert MADE.fullmatch(request_id_of(headers, fields_of(headers)))
    first, (name, value) = with_request_id(headers)
    assert first == (b"a", b"1")
    assert name == b"x-request-id"
    assert MADE.fullmatch(value.decode())


def test_no_two_are_the_same() -> None:
    """A name is made once."""
    assert len({new_request_id() for _ in range(1000)}) == 1000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    config = f"""
    [models.ws]
    cmd = {fake_cmd("--websockets")}
    [models.fake]
    cmd = {fake_cmd()}
    [models.broken]
    cmd = "false ${{PORT}}"
    """
    with running_service(tmp_path_factory.mktemp("ids") / "service", config) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health", None, 200),
        ("GET", "/v1/models", None, 200),
        ("GET", "/nowhere", None, 404),
        ("DELETE", "/v1/models", None, 405),
        ("OPTIONS", "/v1/models", None, 204),
        ("POST", "/v1/chat/completions", {"model": "fake"}, 200),
        ("POST", "/v1/chat/completions", {"model": "none"}, 404),
        ("POST", "/v1/chat/completions", {"model": "broken"}, 503),
        ("GET", "/upstream/fake", None, 301),
    ],
)
def test_every_answer(service: RunningService, method: str, path: str, body: object, status: int) -> None:
    """Answers have the name that the request came with, and else one of ours."""
    with http_to(service.url) as http:
        named = http.request(method, path, json=body, headers={"X-Request-Id": "mine-1"})
        unnamed = http.request(method, path, json=body)

    assert (named.status_code, unnamed.status_code) == (status, status)
    assert named.headers.get_list("x-request-id") == ["mine-1"]
    (made,) = unnamed.headers.get_list("x-request-id")
    assert MADE.fullmatch(made)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 70_000, 431),
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999\r\n\r\n", 413),
    ],
)
def test_refusals(service: RunningService, sent: bytes, status: int) -> None:
    """So have answers to what is hardly a request."""
    with raw_request(service, sent) as client, client.makefile("rb") as answer:
        head = answer.readline() + b"".join(iter(answer.readline, b"\r\n"))

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert len(re.findall(rb"\r\nx-request-id: [0-9a-f]{8}-[0-9a-f]+\r\n", head)) == 1


def test_the_child_is_told(service: RunningService) -> None:
    """The model's server gets the name that the answer has, once, whatever the client's was like."""
    with http_to(service.url) as http:
        answer = http.post("/upstream/fake/x", content=b"", headers={"X-Request-Id": "not valid"})

    told = [value for name, value in answer.json()["headers"] if name == "x-request-id"]
    assert told == [answer.headers["x-request-id"]]


def test_an_answer_of_the_child(service: RunningService) -> None:
    """A name that a server gives by itself does not stand beside ours."""
    with http_to(service.url) as http:
        headers = {"x-do": "raw", "x-head": "200 OK|x-request-id: theirs|content-length: 2", "x-request-id": "ours"}
        answer = http.post("/upstream/fake/x", content=b"ok", headers=headers)

    assert answer.headers.get_list("x-request-id") == ["ours"]


def test_websockets(service: RunningService) -> None:
    """So it is with websockets, whether they open or not, and their child is told."""
    url = service.url.replace("http:", "ws:")
    named = {"additional_headers": {"X-Request-Id": "ws-1"}, "proxy": None, "open_timeout": DEADLINE}
    with connect(f"{url}/upstream/ws/echo", **named) as socket:  # type: ignore[arg-type]
        assert socket.response is not None
        assert socket.response.headers.get_all("x-request-id") == ["ws-1"]
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{url}/nowhere", **named)  # type: ignore[arg-type]

    assert refused.value.response.headers.get_all("x-request-id") == ["ws-1"]
    assert "websocket refused: no websocket at `/nowhere` (request ws-1)" in log(service)


def test_the_log(service: RunningService) -> None:
    """What goes wrong with a request is logged with its name."""
    with http_to(service.url) as http:
        headers = {"x-do": "raw", "x-head": "700 Odd|content-length: 0", "x-request-id": "odd-1"}
        assert http.post("/upstream/fake/x", content=b"", headers=headers).status_code == 502

    (line,) = [line for line in log(service).splitlines() if "odd-1" in line]
    assert line.endswith("with status 700, which HTTP does not have (request odd-1)")


def test_requests_under_way(service: RunningService) -> None:
    """Who looks on sees the name."""
    with http_to(service.url) as http:
        http.get("/props", params={"model": "fake"})
    with (
        http_to(service.url) as http,
        raw_request(
            service,
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-id: seen\r\n"
            b"content-length: 16\r\nx-do: hold\r\nx-name: seen\r\n\r\n" + b'{"model":"fake"}',
        ),
        http.stream("GET", "/api/events") as events,
    ):
        shown = next(line for line in events.iter_lines() if '"inflight"' in line and "seen" in line)
    inner = json.loads(json.loads(shown.removeprefix("data:"))["data"])
    requests: list[dict[str, Any]] = inner.get("requests") or [inner["request"]]
    assert [each["request_id"] for each in requests] == ["seen"]


def test_clients_know_it(tmp_path: Path, tiny: Path) -> None:
    """The official clients show the name of an answer and of an error where their users look for it."""
    config = f'[defaults]\nctx-size = 256\nfit = "off"\n[models.one]\nmodel = "{tiny}/tiny-a.gguf"\n'
    with running_service(tmp_path / "service", config) as service, httpx.Client(trust_env=False) as http:
        theirs = openai.OpenAI(base_url=f"{service.url}/v1", api_key="k", http_client=http, max_retries=0)
        completion = theirs.completions.create(model="one", prompt="a", max_tokens=1)
        assert MADE.fullmatch(completion._request_id or "")
        with pytest.raises(openai.NotFoundError) as error:
            theirs.completions.create(model="none", prompt="a")
        assert MADE.fullmatch(error.value.request_id or "")

        claude = anthropic.Anthropic(base_url=service.url, api_key="k", max_retries=0)
        message = claude.messages.create(model="one", max_tokens=1, messages=[{"role": "user", "content": "a"}])
        assert MADE.fullmatch(message._request_id or "")
        with pytest.raises(anthropic.NotFoundError) as lost:
            claude.messages.create(model="none", max_tokens=1, messages=[{"role": "user", "content": "a"}])
        assert MADE.fullmatch(lost.value.request_id or "")


def log(service: RunningService) -> str:
    return (service.directory / "service.log").read_text()
