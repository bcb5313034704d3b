"""Peers: models of other services under our roof (spec 1.2, 1.4, 1.8, 1.9)."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import DEADLINE, eventually
from tests.llamaswap.children import Server, running_server
from tests.llamaswap.conftest import Swap, running_swap, seen, sent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = """
apiKeys: [ours]
models:
  local:
    cmd: <child>
    aliases: [nick]
peers:
  one:
    proxy: <one>
    models: [x, author/y, local, nick, both]
    apiKey: theirs
    timeouts: {responseHeader: 1}
  two:
    proxy: <two>/deep
    models: [z, both]
    filters:
      stripParams: "top_p, options.seed"
      setParams: {top_k: 1, options.temp: 0.5}
      setParamsByID: {z: {effort: high}}
  away:
    proxy: http://127.0.0.1:1
    models: [gone]
"""
BEHIND_A_PROXY = """
models: {here: {cmd: "<child>"}}
peers:
  far: {proxy: "http://far.example/llm", models: [x]}
  near: {proxy: "http://near.example:1", models: [y]}
"""
KEY = {"authorization": "Bearer ours"}


@pytest.fixture(scope="module")
def one() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def two() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory, one: Server, two: Server) -> Iterator[Swap]:
    text = CONFIG.replace("<one>", one.url).replace("<two>", two.url)
    with running_swap(tmp_path_factory.mktemp("peers"), text) as swap:
        swap.client.headers.update(KEY)
        yield swap


# Names.


@pytest.mark.parametrize(
    ("name", "model"),
    [("one/x", "x"), ("x", "x"), ("one/author/y", "author/y"), ("author/y", "author/y"), ("one/both", "both")],
)
def test_names(swap: Swap, one: Server, name: str, model: str) -> None:
    """1.2: a peer's model is asked for as PEER/MODEL or, if one peer has it, as MODEL; the peer sees MODEL."""
    response = swap.ask(name, name=f"named {name}")

    assert sent(response)["model"] == model
    assert one.facts(f"named {name}")["ended"] == 1


def test_ambiguous(swap: Swap) -> None:
    """1.2: a name that several peers have must be qualified."""
    assert swap.ask("both").status_code == 404
    assert seen(swap.ask("two/both"))["target"] == "/deep/v1/chat/completions"


@pytest.mark.parametrize("name", ["local", "nick"])
def test_local_wins(swap: Swap, one: Server, name: str) -> None:
    """1.2: a model of this machine goes before a peer's; the qualified name still leads there."""
    swap.ask(name, name=f"here {name}").raise_for_status()
    swap.ask(f"one/{name}", name=f"there {name}").raise_for_status()

    assert swap.child("local").facts(f"here {name}")["ended"] == 1
    assert one.facts(f"here {name}")["ended"] == 0
    assert one.facts(f"there {name}")["ended"] == 1


@pytest.mark.parametrize("name", ["one", "one/", "two/x", "one/unknown", "three/x"])
def test_unknown(swap: Swap, name: str) -> None:
    """1.2: a model that a peer does not have is a 404."""
    assert swap.ask(name).status_code == 404


def test_other_routes(swap: Swap) -> None:
    """1.1: forms, queries and short paths lead to peers too."""
    form = seen(swap.post("/v1/audio/transcriptions", files={"model": (None, "x"), "file": b"f"}))

    assert form["target"] == "/v1/audio/transcriptions"
    assert seen(swap.get("/v1/audio/voices?model=x&a=%2F"))["target"] == "/v1/audio/voices?model=x&a=%2F"
    assert seen(swap.ask("x", path="/v/embeddings"))["target"] == "/embeddings"
    assert seen(swap.ask("z", path="/v/embeddings"))["target"] == "/deep/embeddings"


def test_upstream(swap: Swap) -> None:
    """1.6: below /upstream peers are reached by both names; static files are no reason to refuse."""
    assert seen(swap.get("/upstream/one/x/a%2Fb?c"))["target"] == "/a%2Fb?c"
    assert seen(swap.get("/upstream/author/y/v1/z"))["target"] == "/v1/z"
    assert seen(swap.get("/upstream/two/z/a.js"))["target"] == "/deep/a.js"


def test_websocket(swap: Swap, one: Server) -> None:
    """1.6, 1.9: a websocket passes to a peer, with the peer's host and key."""
    with swap.socket("/upstream/one/x/any/place", additional_headers={**KEY, "x-forwarded-for": "10.1.2.3"}) as socket:
        for message in ("hello", b"\x00\xff"):
            socket.send(message)
        assert [socket.recv(DEADLINE) for _ in range(2)] == ["hello", b"\x00\xff"]
        headers = one.about()["handshake"]
    eventually(lambda: one.about()["sockets"] == 0)

    assert (headers["host"], headers["authorization"]) == (f"127.0.0.1:{one.port}", "Bearer theirs")
    assert "x-forwarded-for" not in headers


def test_websocket_to_a_peer_that_is_away(swap: Swap) -> None:
    """1.3: it is refused as any request is."""
    with pytest.raises(InvalidStatus) as raised:
        swap.socket("/upstream/away/gone/ws", additional_headers=KEY)

    assert raised.value.response.status_code == 502
    assert b"`away` cannot be reached" in (raised.value.response.body or b"")


def test_forward_proxy(start_swap: Callable[..., Swap], one: Server) -> None:
    """1.9: peers are asked through HTTP_PROXY, but for those that NO_PROXY names and those on this machine."""
    environ = {"HTTP_PROXY": one.url, "http_proxy": "", "NO_PROXY": "other.example, near.example"}
    swap = start_swap(BEHIND_A_PROXY, env=environ)

    assert seen(swap.ask("x"))["target"] == "http://far.example/llm/v1/chat/completions"
    assert swap.ask("y").status_code == 502
    assert seen(swap.ask("here"))["target"] == "/v1/chat/completions"


# Keys and headers.


def test_key(swap: Swap) -> None:
    """1.8: a peer with a key gets that in place of the client's, in both headers."""
    headers = seen(swap.ask("x", headers={"x-api-key": "ours"}))["headers"]

    assert (headers["authorization"], headers["x-api-key"]) == ("Bearer theirs", "theirs")


def test_no_key(swap: Swap) -> None:
    """1.8: a peer without one gets what the client sent, but on purpose no key of ours."""
    ours = seen(swap.ask("z"))["headers"]
    both = seen(swap.ask("z", headers={**KEY, "x-api-key": "client's own"}))["headers"]

    assert not ours.keys() & {"authorization", "x-api-key"}
    assert both["x-api-key"] == "client's own"


def test_headers(swap: Swap, one: Server) -> None:
    """1.9: a peer sees its own host, and nothing of whom we forward for."""
    hidden = {"x-forwarded-for": "10.1.2.3", "x-forwarded-host": "h", "x-forwarded-proto": "https"}
    headers = seen(swap.ask("x", headers={**hidden, "x-public": "1", "connection": "x-hop", "x-hop": "1"}))["headers"]

    assert headers["host"] == f"127.0.0.1:{one.port}"
    assert headers["x-public"] == "1"
    assert not headers.keys() & {*hidden, "x-hop"}


# Bodies.


def test_filters(swap: Swap) -> None:
    """1.9: a peer's filters apply to JSON requests, whichever name they use."""
    given = {"top_p": 1, "options": {"seed": 1, "kept": 1}}
    expected = {"model": "z", "options": {"kept": 1, "temp": 0.5}, "top_k": 1}

    assert sent(swap.ask("two/z", **given)).items() >= expected.items()
    assert sent(swap.ask("z", **given)) == {**expected, "effort": "high"}


def test_body_stays_as_it_is(swap: Swap) -> None:
    """1.2: without a reason to rewrite it, a body passes byte for byte."""
    body = b'{ "model" :"x",\n "y": 1.0e0 }'
    request = seen(swap.post("/v1/completions", content=body, headers={"content-type": "application/json"}))

    assert request["body"].encode() == body


# Answers.


@pytest.mark.parametrize("status", [200, 401, 404, 429, 500])
def test_answers(swap: Swap, status: int) -> None:
    """1.9: a peer's answer is the client's, errors included."""
    head = f"{status} X|content-type: text/odd|x-theirs: 1|content-length: 13"
    response = swap.ask("x", do="raw", headers={"x-head": head})

    assert (response.status_code, response.text) == (status, '{"model":"x"}')
    assert (response.headers["content-type"], response.headers["x-theirs"]) == ("text/odd", "1")


def test_compressed(swap: Swap) -> None:
    """1.9: a compressed answer is passed on as it is."""
    body = gzip.compress(b"squeezed")
    headers = {"x-do": "raw", "x-head": f"200 OK|content-encoding: gzip|content-length: {len(body)}"}

    assert swap.post("/upstream/one/x/y", content=body, headers=headers).text == "squeezed"


def test_stream(swap: Swap, one: Server) -> None:
    """1.9: a stream passes piece by piece and tells proxies not to buffer it."""
    headers = {"x-do": "sse", "x-name": "stream"}
    with swap.client.stream("POST", "/v1/chat/completions", json={"model": "x"}, headers=headers) as response:
        pieces = response.iter_raw()
        first = next(pieces)
        one.go("stream")
        rest = b"".join(pieces)

    assert (first, rest) == (b'data: {"model":"x"}\n\n', b"data: [DONE]\n\n")
    assert response.headers["x-accel-buffering"] == "no"


# What goes wrong.


@pytest.mark.parametrize("name", ["gone", "away/gone"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_unreachable(swap: Swap, name: str, path: str) -> None:
    """1.3: a peer that cannot be reached is a 502 that says so."""
    response = swap.ask(name, path=path)
    error = response.json()["error"]

    assert response.status_code == 502
    assert (error["type"], error["param"]) == ("server_error", None)
    assert error["message"]


def test_too_slow(swap: Swap) -> None:
    """1.9, 3.2: `timeouts.responseHeader` bounds the wait for a peer's answer."""
    response = swap.ask("x", do="hang", name="slow")

    assert response.status_code in {502, 504}
    assert response.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize("do", ["close", "die"])
def test_no_answer(swap: Swap, do: str) -> None:
    """1.3: a peer that closes or dies without an answer is a 502 too; the next request tries it again."""
    with running_server() as doomed:
        text = f"peers: {{p: {{proxy: '{doomed.url}', models: [m]}}}}\nmodels: {{a: {{cmd: '<child>'}}}}"
        with running_swap(swap.directory / f"no-answer-{do}", text) as other:
            other.ask("m").raise_for_status()
            response = other.ask("m", do=do)

    assert response.status_code == 502
    assert response.json()["error"]["type"] == "server_error"


def test_client_leaves(swap: Swap, two: Server) -> None:
    """1.9: a client that leaves ends its request at the peer."""
    with swap.client.stream(
        "POST", "/v1/chat/completions", json={"model": "z"}, headers={"x-do": "sse", "x-name": "left"}
    ) as response:
        next(response.iter_raw())
    eventually(lambda: two.facts("left")["gone"] == 1)


def test_not_unloaded(swap: Swap) -> None:
    """1.5: unloading leaves peers alone."""
    assert swap.get("/unload").text == "OK"
    assert swap.post("/api/models/unload/one/x").status_code == 404
    assert swap.ask("x").status_code == 200
    assert "x" not in swap.running()


def test_status(swap: Swap) -> None:
    """1.4, 1.11: peers' models are listed by their qualified names and have no state."""
    ids = [entry["id"] for entry in swap.get("/v1/models").json()["data"]]
    with swap.events() as events:
        models = {model["id"]: model for model in events.until("modelStatus")}

    assert {"one/x", "one/author/y", "two/z", "away/gone", "local"} <= set(ids)
    assert models["one/x"].items() >= {"state": "", "peerID": "one"}.items()
