"""How a request names its model (spec 1.2), and what the child gets to see of it."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from tests.llamaswap.conftest import Swap, running_swap, seen, sent
from tests.proxy.conftest import post, raw_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

CONFIG = """
models:
  m:
    cmd: <child>
    aliases: [nick, "nick/with/slashes"]
    filters:
      setParamsByID:
        m:high: {effort: high}
  "7":
    cmd: <child>
  author:
    cmd: <child>
  author/model:
    cmd: <child>
"""
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("names"), CONFIG) as swap:
        yield swap


def served_by(swap: Swap, response: httpx.Response) -> str:
    """The id of the model whose child answered: at a time there is one."""
    assert response.status_code == 200, response.text
    (model,) = swap.running()
    return model


# In the body.


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "text/x+application/json"])
def test_json(swap: Swap, kind: str) -> None:
    """1.2: a content type that contains application/json means a JSON body."""
    response = swap.post(CHAT, content=b'{"model":"author"}', headers={"content-type": kind})

    assert served_by(swap, response) == "author"


def test_json_without_content_type(swap: Swap) -> None:
    """1.2, on purpose not a 404: a JSON body is understood without its content type, and with curl's default one."""
    assert seen(swap.post(CHAT, content=b'{"model":"m"}'))["target"] == CHAT
    assert seen(swap.post(CHAT, content=b'{"model":"m"}', headers=FORM))["target"] == CHAT


def test_model_is_a_number(swap: Swap) -> None:
    """1.2: a model that is a number is its text."""
    assert served_by(swap, swap.post(CHAT, json={"model": 7})) == "7"


def test_body_stays_as_it_is(swap: Swap) -> None:
    """1.2: where nothing is rewritten, the child gets the very bytes, with the client's name for the model."""
    body = '{ "model" : "n\\u0069ck",\n\t"x": 1.0e0, "y":"é\\/", "x": 2 }'

    assert seen(swap.post(CHAT, content=body.encode(), headers=JSON))["body"].encode("latin-1") == body.encode()


def test_form_stays_as_it_is(swap: Swap) -> None:
    """1.2: the same holds for a multipart form, its boundary included."""
    body = b'--b\r\ncontent-disposition: form-data; name="model"\r\nx-odd: 1\r\n\r\nnick\r\n--b--\r\nrest'
    kind = {"content-type": "multipart/form-data; boundary=b"}
    request = seen(swap.post("/v1/audio/transcriptions", content=body, headers=kind))

    assert request["body"].encode("latin-1") == body
    assert request["headers"]["content-type"] == kind["content-type"]


def test_multipart_on_a_json_route(swap: Swap) -> None:
    """1.2: where the model stands is a matter of the content type, not of the route."""
    assert served_by(swap, swap.post(CHAT, files={"model": (None, "author")})) == "author"
    assert served_by(swap, swap.ask("m", path="/v1/audio/transcriptions")) == "m"


def test_urlencoded(swap: Swap) -> None:
    """1.2: any other body is a form with the field `model`, which the query may have instead."""
    assert served_by(swap, swap.post(CHAT, data={"model": "author/model", "x": "1"})) == "author/model"
    assert served_by(swap, swap.post(f"{CHAT}?model=author", content=b"x=1", headers=FORM)) == "author"


@pytest.mark.parametrize(
    "body",
    [b'{"model":"m","model":"author"}', b'{"model":"m"', b'{"model":"m"} trailing', b"not json"],
    ids=["duplicate", "truncated", "trailing", "no json"],
)
def test_unclear_json(swap: Swap, body: bytes) -> None:
    """1.2, on purpose not lenient: two models, or JSON that is none, are a 400."""
    response = swap.post(CHAT, content=body, headers=JSON)

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_compressed_body(swap: Swap) -> None:
    """1.2: a compressed body names no model; any clear refusal will do."""
    body = gzip.compress(b'{"model":"m"}')
    response = swap.post(CHAT, content=body, headers={**JSON, "content-encoding": "gzip"})

    assert response.status_code in {400, 404, 415}
    assert response.json()["error"]["message"]


# No model, or one that nobody has.


@pytest.mark.parametrize(
    "ask",
    [
        lambda http: http.post(CHAT, json={}),
        lambda http: http.post(CHAT, json={"model": ""}),
        lambda http: http.post(CHAT, json={"model": None}),
        lambda http: http.post(CHAT, json={"nested": {"model": "m"}}),
        lambda http: http.post("/v1/audio/transcriptions", files={"file": b"x"}),
        lambda http: http.post(CHAT, data={"x": "1"}),
        lambda http: http.get("/props"),
        lambda http: http.get("/props?model="),
    ],
    ids=["no model", "empty", "null", "nested", "multipart", "urlencoded", "query", "empty query"],
)
def test_no_model(swap: Swap, ask: Callable[[httpx.Client], httpx.Response]) -> None:
    """1.2: a request without a model is a 404."""
    response = ask(swap.client)

    assert response.status_code == 404
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_no_model_where_there_is_one(start_swap: Callable[..., Swap]) -> None:
    """1.2, different: where there is one model only, it is the one that is meant."""
    assert start_swap("models: {m: {cmd: '<child>'}}").post(CHAT, json={"messages": []}).status_code == 200


@pytest.mark.parametrize("name", ["unknown", "M", "Nick", "m ", " m", "author/", "m/m"])
def test_unknown_model(swap: Swap, name: str) -> None:
    """1.2: a name that nobody has is a 404; capitals and spaces matter."""
    assert swap.ask(name).status_code == 404
    assert swap.get("/props", params={"model": name}).status_code == 404


# Names.


@pytest.mark.parametrize("name", ["nick", "nick/with/slashes", "m:high"])
def test_aliases(swap: Swap, name: str) -> None:
    """1.2: an alias leads to its model, as do the keys of `setParamsByID`; the child sees the client's name."""
    response = swap.ask(name)

    assert served_by(swap, response) == "m"
    assert json.loads(response.json()["body"])["model"] == name


def test_parameters_by_name(swap: Swap) -> None:
    """1.2: only requests by that name get its parameters."""
    assert sent(swap.ask("m:high"))["effort"] == "high"
    assert "effort" not in sent(swap.ask("m"))


def test_slashes(swap: Swap) -> None:
    """1.2: slashes are fine in a body, in a form and in a query, as themselves and as %2F."""
    assert served_by(swap, swap.ask("author/model")) == "author/model"
    assert served_by(swap, swap.get("/props?model=author%2Fmodel")) == "author/model"
    assert served_by(swap, swap.get("/props?model=author/model")) == "author/model"
    assert served_by(swap, swap.post(CHAT, data={"model": "author/model"})) == "author/model"


@pytest.mark.parametrize(
    ("path", "model", "target"),
    [
        ("/upstream/author/model/v1/chat", "author/model", "/v1/chat"),
        ("/upstream/author/v1/chat", "author", "/v1/chat"),
        ("/upstream/author%2Fmodel/v1/chat", "author/model", "/v1/chat"),
        ("/upstream/author//model/v1/chat", "author/model", "/v1/chat"),
        ("/upstream/author/models/x", "author", "/models/x"),
        ("/upstream/nick/with/slashes/x", "m", "/x"),
        ("/upstream/nick/with/x", "m", "/with/x"),
        ("/upstream/m:high/x", "m", "/x"),
        ("/upstream/author/model/a%2Fb%252Fc/%C3%A9?q=%2F", "author/model", "/a%2Fb%252Fc/%C3%A9?q=%2F"),
        ("/upstream/m/", "m", "/"),
    ],
)
def test_paths(swap: Swap, path: str, model: str, target: str) -> None:
    """1.2: below /upstream the longest name that a model has wins, and the rest keeps its spelling."""
    with raw_request(swap, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()) as client:
        answer = b"".join(iter(lambda: client.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["target"] == target
    assert set(swap.running()) == {model}


def test_body_in_small_pieces(swap: Swap) -> None:
    """1.2: the whole body is read before the model is looked for."""
    request = post(CHAT, b'{"messages":[],"model":"m"}', content_type="application/json", connection="close")
    with raw_request(swap, request[:-10]) as client:
        client.sendall(request[-10:])
        answer = b"".join(iter(lambda: client.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200")
