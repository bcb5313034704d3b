"""The data plane end to end: a real service in front of a scripted child."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from supervisor.proxy.routes import ROUTES, Source
from tests.conftest import alive, eventually
from tests.proxy.conftest import Child, fake_cmd, http_to, post, raw_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from tests.conftest import RunningService

CHAT = "/v1/chat/completions"
STREAM = "200 OK|content-type: text/event-stream|transfer-encoding: chunked"


@pytest.fixture
def child(fake: RunningService) -> Child:
    """The child of the model `fake`, loaded."""
    with http_to(fake.url) as http:
        http.get("/props", params={"model": "fake"}).raise_for_status()
    return Child(fake, "fake")


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Any]]]:
    """Run something beside the test; it must have ended when the test does."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


def echo(answer: httpx.Response) -> dict[str, Any]:
    """What the child saw of a request."""
    assert answer.status_code == 200, answer.text
    seen: dict[str, Any] = answer.json()
    return seen


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream, as a client of the standard reads them; without its end there is no last event."""
    whole, _, rest = text.rpartition("\n\n")
    assert rest == "", "the stream ends inside an event"
    parsed = []
    for block in whole.split("\n\n"):
        fields = [line.partition(": ") for line in block.split("\n") if line]
        if fields:
            data = "\n".join(value for name, _, value in fields if name == "data")
            parsed.append({"event": next((v for n, _, v in fields if n == "event"), None), "data": data})
    return parsed


# What passes.

ODD = b"""{ "messages" :[{"content":"h\\u00e9llo \xf0\x9f\xa6\x99 \\/ \\ud83e\\udd99","role":"user"}],
\t"z":1.10,"a":1E5, "model":"fake","z":-0 } """


@pytest.mark.parametrize("path", sorted(path for path, route in ROUTES.items() if route.source is Source.JSON))
def test_json_passes_unchanged(fake: RunningService, path: str) -> None:
    """Without filters a child gets the client's very bytes, on every route that takes JSON."""
    with http_to(fake.url) as http:
        seen = echo(http.post(path, content=ODD, headers={"content-type": "application/json"}))

    assert (seen["method"], seen["target"]) == ("POST", ROUTES[path].path or path)
    assert seen["body"].encode("latin-1") == ODD


@pytest.mark.parametrize("path", sorted(path for path, route in ROUTES.items() if route.source is Source.FORM))
def test_form_passes_unchanged(fake: RunningService, path: str) -> None:
    """A form passes byte for byte, with the boundary the client chose, wherever it names its model."""
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="\xc3\xa9.wav"\r\n\r\n'
    model = b'\r\n--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nfake\r\n--B--\r\n'
    body = head + bytes(range(256)) * 100 + model
    with http_to(fake.url) as http:
        seen = echo(http.post(path, content=body, headers={"content-type": 'multipart/form-data; boundary="B"'}))

    assert seen["target"] == path
    assert seen["body"].encode("latin-1") == body
    assert ["content-type", 'multipart/form-data; boundary="B"'] in seen["headers"]


def test_headers_pass(fake: RunningService) -> None:
    """A child gets the client's headers but those of the first hop, and the length of what it gets."""
    body = b'{"model":"fake"}'
    request = post(
        "/completion",
        body,
        authorization="Bearer k",
        x_odd=" a, b ",
        connection="x-hop, close",
        x_hop="1",
        te="trailers",
        proxy_authorization="p",
        keep_alive="timeout=5",
        expect="100-continue",
        x_request_id="mine",
    )
    with raw_request(fake, request) as client, client.makefile("rb") as answer:
        text = answer.read()
    seen = dict(json.loads(text[text.index(b"{") :])["headers"])

    passed = {"authorization": "Bearer k", "x-odd": "a, b", "x-request-id": "mine"}
    assert seen == {"host": "localhost", "content-length": str(len(body)), **passed}


def raw_answer(http: httpx.Client, head: str, body: bytes) -> httpx.Response:
    """An answer of which the child sends just these bytes, and then closes."""
    return http.request("GET", "/upstream/fake/", content=body, headers={"x-do": "raw", "x-head": head})


def test_answers_pass(fake: RunningService) -> None:
    """Status, headers and bytes of an answer are the child's; its Connection and CORS headers are not."""
    body = '{ "x" :1.0,"é":"\\u00e9" }\n'.encode()
    kept = "content-type: x/y|x-a: 1|set-cookie: a|set-cookie: b"
    dropped = "connection: close|access-control-allow-origin: |access-control-allow-credentials: true|x-request-id: x"
    with http_to(fake.url) as http:
        answer = raw_answer(http, f"422 Odd|{kept}|{dropped}|content-length: {len(body)}", body)

    assert answer.status_code == 422
    assert answer.content == body
    shown = "|".join(f"{name}: {value}" for name, value in answer.headers.multi_items() if name != "x-request-id")
    assert shown == f"{kept}|content-length: {len(body)}"


@pytest.mark.parametrize(
    ("head", "sent", "status", "body"),
    [
        ("103 Early|link: </a>||HTTP/1.1 200 OK|content-length: 2", b"ok", 200, b"ok"),
        ("204 No Content", b"", 204, b""),
        ("304 Not Modified|etag: x", b"", 304, b""),
        ("200 OK", b"until the end", 200, b"until the end"),
        ("200 OK|content-length: 0", b"", 200, b""),
        ("200 OK|transfer-encoding: chunked", b"2\r\nok\r\n0\r\n\r\n", 200, b"ok"),
        ("500 Oh|content-length: 2", b"no", 500, b"no"),
    ],
)
def test_framings_pass(fake: RunningService, head: str, sent: bytes, status: int, body: bytes) -> None:
    """However a child frames its answer, the client gets a whole one, and may go on with its connection."""
    with http_to(fake.url) as http:
        answer = raw_answer(http, head, sent)
        assert (answer.status_code, answer.content) == (status, body)

        assert echo(http.get("/upstream/fake/next"))["target"] == "/next"


def test_large_answer(fake: RunningService) -> None:
    """Megabytes come back as they were sent, with their length."""
    body = os.urandom(150_000)
    with http_to(fake.url) as http:
        answer = http.post("/upstream/fake/x", content=body, headers={"x-do": "mirror"})

    assert answer.headers["content-length"] == str(len(body))
    assert answer.content == body


# Ways to a model.


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_any_method_through_upstream(fake: RunningService, method: str) -> None:
    """Behind `/upstream/MODEL/` every method goes to the child."""
    with http_to(fake.url) as http:
        answer = http.request(method, "/upstream/fake/x", content=b"body" if method in {"POST", "PUT"} else None)

    if method == "HEAD":
        assert (answer.status_code, answer.content) == (200, b"")
    else:
        assert echo(answer)["method"] == method
        assert echo(answer)["body"] == ("body" if method in {"POST", "PUT"} else "")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/upstream/fake/", "/"),
        ("/upstream/fake/?x=1", "/?x=1"),
        ("/upstream/fake/a%2Fb/%C3%A9//c%20d/e", "/a%2Fb/%C3%A9//c%20d/e"),
        ("/upstream/fake/x?a=%20b&a=c+d&&e=%2526&f", "/x?a=%20b&a=c+d&&e=%2526&f"),
        ("/upstream/author/model/v1/models", "/v1/models"),
        ("/upstream/author%2Fmodel/v1/models", "/v1/models"),
        ("/upstream/author/model:cold/x", "/x"),
        ("/upstream/author/model%3acold/x", "/x"),
        ("/upstream/%C3%BCn%C3%AF/%C3%A7o%20de/x", "/x"),
        ("/props?model=fake", "/props?model=fake"),
        ("/props?a=%2B&model=author%2Fmodel&b", "/props?a=%2B&model=author%2Fmodel&b"),
    ],
)
def test_paths_and_queries_pass(fake: RunningService, path: str, target: str) -> None:
    """Path and query reach the child in the client's own encoding, whatever slashes the model's name has."""
    with raw_request(fake, f"GET {path} HTTP/1.0\r\nhost: x\r\n\r\n".encode()) as client, client.makefile("rb") as file:
        answer = file.read()

    assert b" 200 " in answer.partition(b"\r\n")[0]
    assert f'"target": "{target}"'.encode() in answer


@pytest.mark.parametrize(("method", "status"), [("GET", 301), ("HEAD", 301), ("POST", 308)])
@pytest.mark.parametrize("path", ["/upstream/fake", "/upstream/author%2Fmodel"])
def test_missing_slash(fake: RunningService, path: str, method: str, status: int) -> None:
    """A model's address without a slash leads to the one with it, so that relative links of a page work."""
    with http_to(fake.url) as http:
        answer = http.request(method, f"{path}?a=%20b")

    assert answer.status_code == status
    assert answer.headers["location"] == f"{path}/?a=%20b"


def test_unknown_model(fake: RunningService) -> None:
    """A name that nothing has is a 404 that tells the nearest one, however the request names it."""
    with http_to(fake.url) as http:
        answers = [
            http.post(CHAT, json={"model": "fke"}),
            http.post("/v1/audio/transcriptions", data={"model": "fke"}, files={"file": b"x"}),
            http.get("/props", params={"model": "fke"}),
            http.get("/upstream/fke/x"),
            http.post("/v1/messages", json={"model": "fke"}),
        ]

    for answer in answers:
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == "no model is called `fke`; hint: did you mean `fake`?"
    assert answers[0].json()["error"]["code"] == "model_not_found"
    assert answers[-1].json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_wrong_method(fake: RunningService, path: str) -> None:
    """A route says which method it takes, and wakes nobody for another."""
    wrong = next(method for method in ("GET", "POST", "DELETE") if ROUTES[path].of(method) is None)
    with http_to(fake.url) as http:
        answer = http.request(wrong, path, headers={"origin": "http://page"})

    assert answer.status_code == 405
    assert "use " in answer.json()["error"]["message"]
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":[1]}', b'{"model":"fake","model":"asleep"}'])
def test_bad_request(fake: RunningService, path: str, body: bytes) -> None:
    """A body that is no JSON object, or does not say clearly which model it means, is a 400 in the route's words."""
    with http_to(fake.url) as http:
        answer = http.post(path, content=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert (answer.json().get("type") == "error") is (path == "/v1/messages")


def test_bad_form(fake: RunningService) -> None:
    """A body that is no form is a 400 on a route that takes forms."""
    with http_to(fake.url) as http:
        assert http.post("/v1/audio/transcriptions", content=b"model=fake").status_code == 400


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/images/edits", "/upstream/fake/x"])
def test_body_too_large(fake: RunningService, path: str) -> None:
    """Too much is a 413 at once when announced, and as soon as it is counted when not."""
    announced = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 200001\r\n\r\n".encode()
    counted = f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    for request in (announced, counted + b"30d41\r\n" + b"x" * 200_001):
        with raw_request(fake, request) as client:
            assert client.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_largest_body(fake: RunningService) -> None:
    """A body of exactly the limit passes."""
    body = b'{"model":"fake","x":"' + b"x" * 199_977 + b'"}'
    assert len(body) == 200_000
    with http_to(fake.url) as http:
        assert len(echo(http.post(CHAT, content=body))["body"]) == 200_000


@pytest.mark.parametrize("path", ["/metrics", "/slots"])
def test_looking_loads_nothing(fake: RunningService, path: str, child: Child) -> None:
    """Looking at a model that is not loaded is a 409 and leaves it so; at a loaded one it passes."""
    with http_to(fake.url) as http:
        refused = http.get(path, params={"model": "asleep"})
        passed = http.get(path, params={"model": "fake"})

    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "model_not_loaded"
    assert fake.model("asleep")["state"] == "cold"
    assert echo(passed)["target"] == f"{path}?model=fake"


def test_props_loads(start: Callable[..., RunningService]) -> None:
    """Asking for a model's properties loads it; the only model needs no name."""
    service = start(f"[models.only]\ncmd = {fake_cmd()}")
    assert service.model("only")["state"] == "cold"
    with http_to(service.url) as http:
        assert echo(http.get("/props"))["target"] == "/props"

    assert service.model("only")["state"] == "ready"


# Filters.


def test_filters(fake: RunningService) -> None:
    """A variant's rules change the fields they name; the rest of the request, its model too, stays."""
    sent = {"model": "author/model:cold", "user": "u", "seed": 1, "messages": [{"content": "é🦙"}], "n": 1.5}
    with http_to(fake.url) as http:
        seen = echo(http.post(CHAT, json=sent))
        own = echo(http.post(CHAT, json={**sent, "temperature": 2}))

    del sent["user"]
    assert json.loads(seen["body"].encode("latin-1")) == {**sent, "seed": 7, "temperature": 0.25}
    assert dict(seen["headers"])["content-length"] == str(len(seen["body"]))
    assert json.loads(own["body"].encode("latin-1")) == {**sent, "seed": 7, "temperature": 2}


def test_filters_are_the_variants_own(fake: RunningService) -> None:
    """The model under its own name has none of its variant's rules, nor have requests that are passed as they are."""
    body = b'{"model": "author/model" ,"seed":1}'
    with http_to(fake.url) as http:
        assert echo(http.post(CHAT, content=body))["body"].encode() == body
        assert echo(http.post("/upstream/author/model:cold/x", content=body))["body"].encode() == body


# Browsers.


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/models", "/props"])
def test_preflight(fake: RunningService, path: str) -> None:
    """A page of another site may ask, with any headers; nothing is loaded for that."""
    asked = {"origin": "http://page", "access-control-request-method": "POST"}
    with http_to(fake.url) as http:
        answer = http.options(
            path, headers={**asked, "access-control-request-headers": "authorization, x-stainless-os"}
        )

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "authorization, x-stainless-os"


def test_origin(fake: RunningService) -> None:
    """A page of another site may read answers and errors; who sends no Origin is told nothing of it."""
    with http_to(fake.url) as http:
        from_page = [
            http.post(CHAT, json={"model": model}, headers={"origin": "http://page"}) for model in ("fake", "unknown")
        ]
        plain = http.post(CHAT, json={"model": "fake"})

    assert [answer.headers.get_list("access-control-allow-origin") for answer in from_page] == [["*"], ["*"]]
    assert "access-control-allow-origin" not in plain.headers


# Streams.


def test_stream_is_not_held_back(fake: RunningService, child: Child) -> None:
    """Each token is at the client before the child makes the next one; proxies in front are told to do the same."""
    with (
        http_to(fake.url) as http,
        http.stream("POST", CHAT, json={"model": "fake"}, headers={"x-do": "sse", "x-name": "live"}) as answer,
    ):
        pieces = answer.iter_raw()
        first = next(pieces)
        assert b"fake" in first
        assert child.facts("live")["ended"] == 0
        assert child.requests() == 1
        child.go("live")

        assert b"".join(pieces) == b"data: [DONE]\n\n"
        assert answer.headers["x-accel-buffering"] == "no"
    eventually(lambda: child.requests() == 0)


def test_slow_client(fake: RunningService, child: Child) -> None:
    """A client that does not read holds up its own stream only; when it leaves, the child is told."""
    with raw_request(fake, post(CHAT, b'{"model":"fake"}', x_do="endless", x_name="slow")) as client:
        assert client.recv(1) == b"H"
        with http_to(fake.url) as http:
            assert echo(http.post(CHAT, json={"model": "fake"}))
    child.await_gone("slow")


# Clients that leave.


@pytest.mark.parametrize("path", [CHAT, "/upstream/fake/x", "/v1/messages"])
def test_leaving_a_silent_child(fake: RunningService, child: Child, path: str) -> None:
    """When a client leaves before the answer begins, the child sees its connection end and the count goes back."""
    name = path.replace("/", "-")
    with raw_request(fake, post(path, b'{"model":"fake"}', x_do="hang", x_name=name)):
        child.await_start(name)
        assert child.requests() == 1
    child.await_gone(name)


def test_leaving_a_stream(fake: RunningService, child: Child) -> None:
    """When a client leaves a stream, the child sees that while it is silent, not at its next token."""
    headers = {"x-do": "sse", "x-name": "left"}
    with http_to(fake.url) as http, http.stream("POST", CHAT, json={"model": "fake"}, headers=headers) as answer:
        next(answer.iter_raw())
    child.await_gone("left")


def test_leaving_while_uploading(fake: RunningService, child: Child) -> None:
    """Half a request reaches no child and leaves nothing behind."""
    whole = post(CHAT, b'{"model":"fake"}', x_name="half")
    with raw_request(fake, whole[:-1]):
        pass
    with http_to(fake.url) as http:
        echo(http.post(CHAT, json={"model": "fake"}))

    assert child.facts("half")["started"] == 0
    assert child.requests() == 0


def test_concurrency(fake: RunningService, aside: Callable[..., Future[Any]]) -> None:
    """A model that takes one request at a time gets the second only when the first has ended, and a waiting
    client that leaves is not served."""
    child = Child(fake, "one-at-a-time")
    body = {"model": "one-at-a-time"}
    with http_to(fake.url) as http:
        echo(http.post(CHAT, json=body))
        first = aside(http.post, CHAT, json=body, headers={"x-do": "hold", "x-name": "c1"})
        child.await_start("c1")
        with raw_request(fake, post(CHAT, json.dumps(body).encode(), x_name="impatient")):
            eventually(lambda: fake.model("one-at-a-time")["waiting"] == 1)
        eventually(lambda: fake.model("one-at-a-time")["waiting"] == 0)
        second = aside(http.post, CHAT, json=body, headers={"x-name": "c2"})
        eventually(lambda: fake.model("one-at-a-time")["waiting"] == 1)
        assert child.facts("c2")["started"] == 0
        assert child.requests() == 1
        child.go("c1")

        assert first.result().text == "held"
        assert second.result().status_code == 200
    assert child.facts("impatient")["started"] == 0
    assert fake.status()["queue"] == []
    eventually(lambda: child.requests() == 0)


def test_leaving_while_loading(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """A client that leaves while its model loads leaves the queue; the load goes on for the next one."""
    ready = tmp_path / "ready"
    service = start(f"[models.slow]\ncmd = {fake_cmd('--ready-file', str(ready))}")
    with raw_request(service, post(CHAT, b"{}", x_name="left")):
        eventually(lambda: service.model("slow")["waiting"] == 1)
    eventually(lambda: service.model("slow")["waiting"] == 0)
    assert service.model("slow")["state"] == "loading"
    eventually(lambda: service.model("slow")["process"]["pid"] is not None)  # type: ignore[index]
    pid = service.pid("slow")
    ready.touch()
    with http_to(service.url) as http:
        assert echo(http.post(CHAT, json={}))

    assert service.pid("slow") == pid
    assert Child(service, "slow").facts("left")["started"] == 0
    assert Child(service, "slow").requests() == 0


# Children that die.


@pytest.fixture
def mortal(fake: RunningService) -> str:
    """A model whose child may die: loading it by hand forgives what has been."""
    with http_to(fake.url) as http:
        http.post("/models/load", json={"model": "author/model"}).raise_for_status()
    return "author/model"


def dying(
    fake: RunningService, mortal: str, path: str, head: str, begin: bytes, *, name: str, reads: bool
) -> tuple[bytes, str]:
    """What a client gets of an answer whose child dies after `begin`, and how the answer ended."""
    with http_to(fake.url) as http:
        echo(http.post(CHAT, json={"model": mortal}))
        child = Child(fake, mortal)
        headers = {"x-do": "stream-then-die", "x-head": head, "x-name": name}
        url = f"/upstream/{mortal}{path}"
        with http.stream("POST", url, content=begin, headers=headers) as answer:
            got, ended = b"", "cleanly"
            with contextlib.suppress(StopIteration):
                pieces = answer.iter_raw()
                if reads:
                    got = next(pieces)
                child.go(name)
                try:
                    for piece in pieces:
                        got += piece
                except (httpx.RemoteProtocolError, httpx.ReadError):
                    ended = "cut"
    return got, ended


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("begin", [b'data: {"a":1}\n\n', b'data: {"a":1}\n\ndata: {"cho', b"data: x\n", b": comment"])
@pytest.mark.parametrize(("path", "event"), [(CHAT, None), ("/v1/messages", "error")])
def test_dying_in_a_stream(fake: RunningService, mortal: str, path: str, event: str | None, begin: bytes) -> None:
    """A stream whose child dies ends with an error event of its own that the route's client raises for."""
    name = f"{path}{len(begin)}".replace("/", "-")
    # A torn line is held back, so there is nothing to read before the end.
    got, ended = dying(fake, mortal, path, STREAM, chunk(begin), name=name, reads=b"\n" in begin)

    assert ended == "cleanly"
    assert got.startswith(begin[: begin.rfind(b"\n") + 1])
    last = events(got.decode())[-1]
    error = json.loads(last["data"])["error"]
    assert last["event"] == event
    assert error["type"] == ("api_error" if event else "model_crashed")
    assert "stopped while serving" in error["message"]
    assert error["failure"]["exit_code"] == 3
    assert error["failure"]["stderr_tail"] == ["fake_llama: error: told to die"]


@pytest.mark.parametrize(
    ("head", "begin"),
    [
        ("200 OK|content-type: application/json|content-length: 100", b'{"a": 1'),
        ("200 OK|content-type: application/json|transfer-encoding: chunked", chunk(b'{"a": 1')),
        ("200 OK|content-length: 100", b""),
    ],
)
def test_dying_in_an_answer(fake: RunningService, mortal: str, head: str, begin: bytes) -> None:
    """Any other answer is cut, so that no client takes the part for the whole."""
    got, ended = dying(fake, mortal, "/x", head, begin, name=f"cut{len(head)}", reads=bool(begin))

    assert ended == "cut"
    assert got in begin or got == b'{"a": 1'


@pytest.mark.parametrize(("path", "kind"), [(CHAT, "model_crashed"), ("/v1/messages", "api_error")])
def test_dying_before_an_answer(fake: RunningService, mortal: str, path: str, kind: str) -> None:
    """A child that dies before it answers is a 502 with the report; the next request gets a new child."""
    with http_to(fake.url) as http:
        echo(http.post(CHAT, json={"model": mortal}))
        pid = fake.pid(mortal)
        answer = http.post(path, json={"model": mortal}, headers={"x-do": "die"})
        error = answer.json()["error"]

        assert answer.status_code == 502
        assert error["type"] == kind
        assert error["failure"]["model"] == mortal
        assert error["failure"]["phase"] == "serving"
        assert error["failure"]["exit_code"] == 3
        assert error["failure"]["stderr_tail"] == ["fake_llama: error: told to die"]
        assert not alive(pid)
        assert echo(http.post(CHAT, json={"model": mortal}))
    assert fake.pid(mortal) != pid


def test_killed_while_others_wait(fake: RunningService, mortal: str, aside: Callable[..., Future[Any]]) -> None:
    """A child killed from outside ends all its requests with the truth, and is not asked twice."""
    with http_to(fake.url) as http:
        echo(http.post(CHAT, json={"model": mortal}))
        child = Child(fake, mortal)
        waiting = [
            aside(http.post, CHAT, json={"model": mortal}, headers={"x-do": "hang", "x-name": f"k{number}"})
            for number in range(3)
        ]
        for number in range(3):
            child.await_start(f"k{number}")
        os.kill(fake.pid(mortal), signal.SIGKILL)

        for each in waiting:
            assert each.result().status_code == 502
            assert each.result().json()["error"]["failure"]["signal"] == "SIGKILL"


def test_closing_without_an_answer(fake: RunningService, child: Child) -> None:
    """A child that lives but closes on a request is a 502."""
    with http_to(fake.url) as http:
        answer = http.post(CHAT, json={"model": "fake"}, headers={"x-do": "close", "x-name": "closer"})

    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "upstream_unreachable"
    eventually(lambda: child.requests() == 0)


def test_unloaded_while_answering(fake: RunningService, mortal: str, aside: Callable[..., Future[Any]]) -> None:
    """A forced unload is told for what it is: to a stream as its last event, before an answer as a 503."""
    with http_to(fake.url) as http:
        echo(http.post(CHAT, json={"model": mortal}))
        silent = aside(http.post, CHAT, json={"model": mortal}, headers={"x-do": "hang", "x-name": "silent"})
        Child(fake, mortal).await_start("silent")
        headers = {"x-do": "sse", "x-name": "unloaded"}
        with http.stream("POST", CHAT, json={"model": mortal}, headers=headers) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            http.post("/models/unload", json={"model": mortal, "force": True}).raise_for_status()
            last = events(b"".join(pieces).decode())[-1]
        refused = silent.result()

    assert json.loads(last["data"])["error"]["code"] == "model_unloaded"
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_unloaded"


# Children that do not start.


def test_exiting_at_start(start: Callable[..., RunningService]) -> None:
    """A child that ends at its start is the client's answer, with its exit code, its words and a true status."""
    words = "cudaMalloc failed: out of memory"
    service = start(
        f"[models.bad]\ncmd = {fake_cmd('--exit-with', '7', '--stderr', 'plain nonsense')}\n"
        f"[models.oom]\ncmd = {fake_cmd('--exit-with', '1', '--stderr', words)}"
    )
    with http_to(service.url) as http:
        bad = http.post(CHAT, json={"model": "bad"})
        oom = http.post("/v1/messages", json={"model": "oom"})

    assert bad.status_code == 503
    assert bad.json()["error"]["type"] == "model_failed_to_start"
    assert bad.json()["error"]["failure"]["exit_code"] == 7
    assert bad.json()["error"]["failure"]["stderr_tail"] == ["plain nonsense"]
    assert oom.status_code == 503
    assert oom.headers["retry-after"] == "1"
    assert oom.json()["error"]["failure"]["cause"] == "out_of_device_memory"
    assert oom.json()["error"]["failure"]["evidence"] == [words]
    assert service.status()["queue"] == []


def test_never_ready(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """A child that never becomes ready is given up after the load timeout, and the client told so."""
    service = start(f"[models.hung]\ncmd = {fake_cmd('--ready-file', str(tmp_path / 'never'))}\nload_timeout = '300ms'")
    with http_to(service.url) as http:
        answer = http.post(CHAT, json={})

    assert answer.status_code == 503
    assert answer.json()["error"]["failure"]["cause"] == "load_timeout"
    eventually(lambda: service.children() == [])


def test_binary_output(start: Callable[..., RunningService]) -> None:
    """A child that prints junk serves like any other, and its log is still text."""
    service = start(f"[models.junk]\ncmd = {fake_cmd('--junk')}")
    with http_to(service.url) as http:
        assert echo(http.post(CHAT, json={}))
        log = http.get("/logs/junk")

    assert "red words\n" in log.text
    assert "\x1b" not in log.text
    assert "\x00" not in log.text


def test_nothing_is_left(start: Callable[..., RunningService]) -> None:
    """Stopping the service in the middle of a stream ends the stream with an error and the child with it."""
    service = start(f"[server]\ndrain_timeout = '1ms'\n[models.fake]\ncmd = {fake_cmd()}")
    with (
        http_to(service.url) as http,
        http.stream("POST", CHAT, json={}, headers={"x-do": "sse", "x-name": "stopped"}) as answer,
    ):
        pieces = answer.iter_raw()
        next(pieces)
        pid = service.pid("fake")
        service.process.send_signal(signal.SIGTERM)
        last = events(b"".join(pieces).decode())[-1]

    assert json.loads(last["data"])["error"]["code"] == "shutting_down"
    assert service.stop() == 0
    assert not alive(pid)


def test_no_model_named(fake: RunningService) -> None:
    """Where there are several models, a request that names none is a 404 in the route's words, as llama-swap has it."""
    with http_to(fake.url) as http:
        answers = [http.post(path, content=b'{"messages":[]}') for path in (CHAT, "/v1/messages")]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert "no model id could be identified" in answers[0].json()["error"]["message"]
    assert answers[1].json()["type"] == "error"
