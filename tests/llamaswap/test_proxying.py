"""How requests and answers pass through (spec 1.9): headers, base paths, filters, streams, timeouts."""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.llamaswap.conftest import Swap, running_swap, seen, sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

CONFIG = """
models:
  m:
    cmd: <child>
    timeouts: {responseHeader: 1}
  based:
    cmd: <child> --health-path /base/path/ready
    proxy: http://127.0.0.1:${PORT}/base/path
    checkEndpoint: /ready
  filtered:
    cmd: <child>
    aliases: [plain]
    useModelName: org/real-name
    filters:
      stripParams: "top_p, options.seed, model, missing, both"
      setParams: {top_k: 1, options.temp: 0.5, both: set, model: never, reach: {deep: [1, null]}, by: file}
      setParamsByID:
        filtered: {by: id}
        filtered:low: {by: alias, top_k: 2, chat_template_kwargs.enable_thinking: false}
  legacy:
    cmd: <child>
    filters: {strip_params: "a, b"}
  lists:
    cmd: <child>
    filters:
      stripParams: "stop.0, messages.0.name"
      setParams: {messages.0.role: developer, messages.-1: {role: user}, stop.-1: "###", new.-1.x: 1, bias.:7: 1}
"""
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("proxying"), CONFIG) as swap:
        yield swap


def raw(swap: Swap, head: str, **headers: str) -> httpx.Response:
    """The answer to a request that its child answers with this head and the request's body."""
    return swap.ask("m", do="raw", headers={"x-head": head, **headers})


# Headers.


def test_host_stays(swap: Swap) -> None:
    """1.9: the child sees the host that the client asked for."""
    assert seen(swap.ask("m", headers={"host": "llm.example:1234"}))["headers"]["host"] == "llm.example:1234"


def test_forwarded_for(swap: Swap) -> None:
    """1.9: the client's address is added to X-Forwarded-For."""
    alone = seen(swap.ask("m"))["headers"]["x-forwarded-for"]
    behind = seen(swap.ask("m", headers={"x-forwarded-for": "10.1.2.3"}))["headers"]["x-forwarded-for"]

    assert alone == "127.0.0.1"
    assert [part.strip() for part in behind.split(",")] == ["10.1.2.3", "127.0.0.1"]


def test_hop_by_hop_request_headers(swap: Swap) -> None:
    """1.9: headers for the next hop only end here, those that Connection names too."""
    hops = {"connection": "keep-alive, x-private", "x-private": "1", "keep-alive": "5", "proxy-connection": "x"}
    others = {"x-public": "1", "cookie": "a=1; b=2", "accept-language": "de"}
    headers = seen(swap.ask("m", headers={**hops, **others, "te": "gzip", "proxy-authorization": "x"}))["headers"]

    assert not headers.keys() & {"x-private", "keep-alive", "proxy-connection", "te", "proxy-authorization"}
    assert headers.items() >= others.items()


def test_hop_by_hop_answer_headers(swap: Swap) -> None:
    """1.9: the same holds for answers."""
    response = raw(swap, "200 OK|connection: close, x-private|x-private: 1|keep-alive: timeout=9|x-public: 1")

    assert not response.headers.keys() & {"x-private", "keep-alive"}
    assert response.headers["x-public"] == "1"


@pytest.mark.parametrize("status", [201, 400, 418, 503])
def test_status_and_headers(swap: Swap, status: int) -> None:
    """1.9: a child's status and headers are the answer's, repeated ones too."""
    response = raw(swap, f"{status} X|content-type: text/odd|set-cookie: a=1|set-cookie: b=2")

    assert response.status_code == status
    assert response.headers["content-type"] == "text/odd"
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]


def test_compressed_answers(swap: Swap) -> None:
    """1.9: what a child compressed reaches the client as it is."""
    body = gzip.compress(b"squeezed")
    headers = {"x-do": "raw", "x-head": f"200 OK|content-encoding: gzip|content-length: {len(body)}"}
    response = swap.client.put("/upstream/m/x", content=body, headers=headers)

    assert response.headers["content-encoding"] == "gzip"
    assert response.text == "squeezed"


@pytest.mark.parametrize(
    ("path", "seen_as"), [(CHAT, "gzip;q=0.5, deflate"), ("/upstream/m/other", "br, gzip;q=0.5, zstd, deflate")]
)
def test_compressions_that_are_asked_for(swap: Swap, path: str, seen_as: str) -> None:
    """1.9: a child may compress only what we can read for the record, where there is one."""
    headers = {"accept-encoding": "br, gzip;q=0.5, zstd, deflate"}

    assert seen(swap.ask("m", path=path, headers=headers))["headers"]["accept-encoding"] == seen_as


def test_buffering_proxies(swap: Swap) -> None:
    """1.9: an event stream tells proxies in front of us not to buffer it; other answers do not."""
    stream = raw(swap, "200 OK|content-type: text/event-stream; charset=utf-8")

    assert stream.headers["x-accel-buffering"] == "no"
    assert "x-accel-buffering" not in raw(swap, "200 OK|content-type: application/json").headers


def test_streams_at_once(swap: Swap) -> None:
    """1.9: each piece of a stream is passed on when it comes."""
    headers = {"x-do": "sse", "x-name": "piecemeal"}
    with swap.client.stream("POST", CHAT, json={"model": "m"}, headers=headers) as response:
        pieces = response.iter_raw()
        first = next(pieces)
        swap.child("m").go("piecemeal")
        rest = b"".join(pieces)

    assert first == b'data: {"model":"m"}\n\n'
    assert rest == b"data: [DONE]\n\n"


def test_request_in_chunks(swap: Swap) -> None:
    """1.9: a body sent in chunks reaches the child with its length."""
    parts = [b'{"mod', b'el":"m"', b"}"]
    request = seen(swap.post(CHAT, content=iter(parts), headers={"content-type": "application/json"}))

    assert request["body"] == '{"model":"m"}'
    assert request["headers"]["content-length"] == "13"
    assert "transfer-encoding" not in request["headers"]


def test_no_answer_in_time(swap: Swap) -> None:
    """1.9: `timeouts.responseHeader` bounds the wait for an answer; then it is a 502 or 504."""
    response = swap.ask("m", do="hang", name="hang")

    assert response.status_code in {502, 504}
    assert response.json()["error"]["message"]


def test_base_path(swap: Swap) -> None:
    """1.9, 2.2: the path of `proxy` goes in front, of the health check's too."""
    assert seen(swap.ask("based"))["target"] == f"/base/path{CHAT}"
    assert seen(swap.get("/upstream/based/x?y"))["target"] == "/base/path/x?y"
    assert swap.child("based").about()["probes"]


# Filters.


def test_filters(swap: Swap) -> None:
    """1.9: strip, then set, then set by name; a key is a path; `model` is neither stripped nor set."""
    given = {"top_p": 1, "top_k": 9, "options": {"seed": 7, "temp": 2, "kept": 1}, "both": "client", "untouched": []}

    assert sent(swap.ask("filtered", **given)) == {
        "model": "org/real-name",
        "top_k": 1,
        "options": {"temp": 0.5, "kept": 1},
        "both": "set",
        "untouched": [],
        "reach": {"deep": [1, None]},
        "by": "id",
    }


def test_filters_in_lists(swap: Swap) -> None:
    """1.9: in a list a number is a place, and -1 one more behind its end; `:` makes a name of it."""
    messages = [{"role": "system", "name": "x", "content": "y"}]

    assert sent(swap.ask("lists", messages=messages, stop=["a", "b"])) == {
        "model": "lists",
        "messages": [{"role": "developer", "content": "y"}, {"role": "user"}],
        "stop": ["b", "###"],
        "new": [{"x": 1}],
        "bias": {"7": 1},
    }


def test_filters_that_do_not_fit(swap: Swap) -> None:
    """1.9: a place in a list is no name; nothing that the client sent is lost for that."""
    assert sent(swap.ask("lists", bias={"9": 2}))["bias"] == {"9": 2, "7": 1}
    assert swap.ask("lists", bias=[2]).status_code == 400


def test_filters_by_name(swap: Swap) -> None:
    """1.9: what is set by name depends on the name of the request, and wins."""
    low, plain = sent(swap.ask("filtered:low")), sent(swap.ask("plain"))

    assert (low["by"], low["top_k"], low["chat_template_kwargs"]) == ("alias", 2, {"enable_thinking": False})
    assert (plain["by"], plain["top_k"]) == ("file", 1)


def test_filters_keep_the_length_right(swap: Swap) -> None:
    """1.9: Content-Length is that of the new body."""
    request = seen(swap.ask("filtered", padding="ü" * 1000))

    assert int(request["headers"]["content-length"]) == len(request["body"])


def test_old_name_of_strip_params(swap: Swap) -> None:
    """3.3: `strip_params` is still understood."""
    assert sent(swap.ask("legacy", a=1, b=2, c=3)) == {"model": "legacy", "c": 3}


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/v/embeddings", "/audioapi/v1/tasks/run", "/v1/messages"])
def test_filters_on_every_route(swap: Swap, path: str) -> None:
    """1.9: filters apply to every JSON request."""
    assert sent(swap.ask("filtered", path=path, top_p=1))["model"] == "org/real-name"


def test_name_in_a_form(swap: Swap) -> None:
    """1.9: in a multipart form only the model's name is replaced; fields and files stay what they are."""
    audio = bytes(range(256)) * 50
    data = {"model": "plain", "language": "de", "prompt": "two\r\nlines", "top_p": "1"}
    files = {"file": ("töne.wav", audio, "audio/wav")}
    form = parts(seen(swap.post("/v1/audio/transcriptions", data=data, files=files)))

    assert form.pop("file").endswith(b"\r\n\r\n" + audio)
    assert {name: part.partition(b"\r\n\r\n")[2].decode() for name, part in form.items()} == {
        **data,
        "model": "org/real-name",
    }


def parts(request: dict[str, Any]) -> dict[str, bytes]:
    """The parts of a multipart form by their names, heads included."""
    boundary = request["headers"]["content-type"].partition("boundary=")[2].strip('"').encode()
    pieces = request["body"].encode("latin-1").split(b"--" + boundary)[1:-1]
    found = {}
    for piece in pieces:
        name = re.search(rb'[ ;]name="?([a-z_]+)', piece)
        assert name is not None
        found[name[1].decode()] = piece[2:-2]
    return found


def test_filters_leave_queries_alone(swap: Swap) -> None:
    """1.9: a GET is passed on as it is."""
    assert seen(swap.get("/props?model=plain&top_p=1"))["target"] == "/props?model=plain&top_p=1"


def test_key_with_a_dot(swap: Swap) -> None:
    """1.9: `options.seed` is the field of an object, not one whose name has a dot."""
    assert sent(swap.ask("filtered", **{"options.seed": 1}))["options.seed"] == 1
    assert json.loads(seen(swap.ask("filtered"))["body"])["options"] == {"temp": 0.5}
