"""The routes that answer by themselves, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import RunningService, eventually, running_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

CONFIG = """
[server]
max_loaded = 2
[defaults]
ctx-size = 256
fit = "off"
[models.one]
model = "{tiny}/tiny-a.gguf"
name = "The One"
description = "first"
aliases = ["uno", "org/uno"]
metadata = {{ owner = "me" }}
[models.one.variants.one-cold]
sampling = {{ temp = 0.0 }}
[models."org/two"]
model = "{tiny}/tiny-b.gguf"
[models.seeing]
model = "{tiny}/tiny-a.gguf"
mmproj = "{tiny}/tiny-mmproj.gguf"
[models.hidden]
model = "{tiny}/tiny-a.gguf"
unlisted = true
[models.broken]
model = "{tiny}/broken-truncated-data.gguf"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("api"), CONFIG.format(tiny=tiny)) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with service.http as client:
        yield client


def entries(http: httpx.Client) -> dict[str, dict[str, object]]:
    return {entry["id"]: entry for entry in http.get("/v1/models").json()["data"]}


def test_the_list_has_models_and_variants_but_no_hidden_ones(http: httpx.Client) -> None:
    """What a request may name is listed, unless the owner does not want it to be."""
    assert list(entries(http)) == ["broken", "one", "one-cold", "org/two", "seeing"]


def test_an_entry_says_what_the_file_says(http: httpx.Client) -> None:
    """A cold model is described from its header, with the owner's words beside."""
    one = entries(http)["one"]

    assert one["object"] == "model"
    assert one["name"] == "The One"
    assert one["aliases"] == ["uno", "org/uno"]
    assert one["meta"]["ftype"] == "F16"  # type: ignore[index]
    assert one["meta"]["owner"] == "me"  # type: ignore[index]
    assert one["meta"]["size"] > 300_000  # type: ignore[index]


def test_a_name_is_the_owners(http: httpx.Client) -> None:
    """Two models of one file would have the same, and clients that show it could not tell them apart."""
    assert "name" not in entries(http)["org/two"]
    assert "name" not in entries(http)["seeing"]


def test_modalities_come_from_the_projector(http: httpx.Client) -> None:
    """A model with a projector takes images."""
    assert entries(http)["seeing"]["architecture"]["input_modalities"] == ["text", "image"]  # type: ignore[index]
    assert entries(http)["one"]["architecture"]["input_modalities"] == ["text"]  # type: ignore[index]


@pytest.mark.parametrize("name", ["one", "uno", "org/uno", "one-cold", "org/two"])
def test_one_entry_by_any_name(http: httpx.Client, name: str) -> None:
    """`/v1/models/NAME` takes ids, aliases and variants, slashes included."""
    assert http.get(f"/v1/models/{name}").json()["object"] == "model"


def test_an_unknown_name_is_an_openai_error(http: httpx.Client) -> None:
    """Asking for a model that is not there names the nearest one."""
    answer = http.get("/v1/models/onee")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert "did you mean `one`" in answer.json()["error"]["message"]


def test_status_follows_a_model_through_its_life(service: RunningService, http: httpx.Client) -> None:
    """Unloaded, loaded and unloaded again: list, /running and /status agree."""
    assert http.post("/models/load", json={"model": "uno"}).json() == {"success": True}
    eventually(lambda: entries(http)["one"]["status"] == {"value": "loaded"})
    running = http.get("/running").json()["running"]
    assert [(row["model"], row["state"]) for row in running] == [("one", "ready")]
    assert service.model("one")["state"] == "ready"
    assert entries(http)["one"]["meta"]["n_ctx"] == 256  # type: ignore[index]

    assert http.post("/models/unload", json={"model": "one"}).json() == {"success": True}
    eventually(lambda: http.get("/running").json() == {"running": []})

    assert entries(http)["one"]["status"] == {"value": "unloaded"}


def test_unload_all_answers_when_everything_is_gone(service: RunningService, http: httpx.Client) -> None:
    """`GET /unload` returns `OK` once no process is left."""
    service.chat("one")
    service.chat("org/two")
    assert len(service.children()) == 2

    assert http.get("/unload").text == "OK"

    assert service.children() == []


def test_a_broken_model_shows_its_failure(http: httpx.Client) -> None:
    """A model whose file is incomplete is marked before anybody asked for it."""
    assert entries(http)["broken"]["status"] == {"value": "unloaded", "failed": True, "exit_code": None}


def test_health_speaks_text_and_json(http: httpx.Client) -> None:
    """`/health` is `OK` for llama-swap's clients and JSON for those who ask for it."""
    assert http.get("/health").text == "OK"
    assert http.get("/health", headers={"accept": "application/json"}).json() == {"status": "ok"}
    assert http.get("/v1/health").json() == {"status": "ok"}


def test_logs_hold_what_the_child_printed(service: RunningService, http: httpx.Client) -> None:
    """A model's own log, the log of all children and the service's log are told apart."""
    service.chat("one")

    assert "server is listening" in http.get("/logs/one").text or "listening on" in http.get("/logs/one").text
    assert "loading model" in http.get("/logs/upstream").text
    assert "is ready after" in http.get("/logs").text


def test_a_log_stream_starts_with_history(service: RunningService, http: httpx.Client) -> None:
    """Following a log begins with what there is."""
    service.chat("one")

    with http.stream("GET", "/logs/stream/one") as answer:
        text = next(answer.iter_text())

    assert "loading model" in text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/logs/nobody", 404, "model_not_found"),
        ("GET", "/upstream/nobody/health", 404, "model_not_found"),
    ],
)
def test_wrong_requests_get_openai_errors(http: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    """Every refusal has a message and a code, in the shape clients know."""
    answer = http.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"model": 3}', '{"model": "nobody"}'])
def test_a_bad_load_request_is_refused(http: httpx.Client, body: str) -> None:
    """Loading needs the name of a model."""
    answer = http.post("/models/load", content=body)

    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["message"]


def test_management_is_refused_through_a_proxy(http: httpx.Client) -> None:
    """A reverse proxy in front does not make strangers local; inference goes on."""
    headers = {"x-forwarded-for": "203.0.113.9"}

    for path in ("/running", "/status", "/logs", "/logs/stream", "/unload", "/upstream/one/health"):
        assert http.get(path, headers=headers).status_code == 403, path
    assert http.post("/models/load", json={"model": "one"}, headers=headers).status_code == 403
    assert http.get("/v1/models", headers=headers).status_code == 200
