"""What is known of requests that have ended: rows, captures, statistics, metrics, seen from outside."""

from __future__ import annotations

import base64
import json
import signal
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import RunningService, eventually, running_service
from tests.proxy.conftest import fake_cmd, http_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 25, "completion_tokens": 4}
KEY = "sk-test-0123456789"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    config = f"""
        [server]
        max_loaded = 3
        capture_buffer = "64KiB"
        api_keys = ["{KEY}"]
        [models.fake]
        cmd = {fake_cmd()}
        aliases = ["other name"]
        [models.broken]
        cmd = {fake_cmd("--exit-with", "3")}
        [models.asleep]
        cmd = {fake_cmd()}
    """
    with running_service(tmp_path_factory.mktemp("records") / "service", config) as service:
        yield service


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with http_to(service.url) as client:
        client.headers["authorization"] = f"Bearer {KEY}"
        yield client


def ask(
    http: httpx.Client, *, do: str = "mirror", model: str = "fake", path: str = CHAT, **fields: object
) -> httpx.Response:
    return http.post(path, json={"model": model, **fields}, headers={"x-do": do, "x-session-id": "s1"})


def newest(http: httpx.Client, **query: object) -> dict[str, Any]:
    """The row of the request that ended last."""
    row: dict[str, Any] = http.get("/api/metrics/activity", params={"limit": 1, **query}).json()["data"][0]
    return row


def samples(http: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of /metrics, by its name and labels, as Prometheus' own library reads them."""
    answer = http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(answer.text):
        for each in family.samples:
            key = (each.name, tuple(sorted(each.labels.items())))
            assert key not in found, key
            found[key] = each.value
    return found


def test_a_row(http: httpx.Client) -> None:
    """A row has llama-swap's fields, the model's real name, and what else we know."""
    answer = ask(http, model="other name", usage=USAGE)
    assert answer.status_code == 200
    row = newest(http)

    assert row.pop("id") > 0
    assert len(row.pop("timestamp")) >= len("2026-08-22T09:29:57Z")
    assert 0 <= row.pop("wait_ms") <= row.pop("first_ms") <= row.pop("duration_ms")
    assert row == {
        "model": "fake",
        "req_path": CHAT,
        "resp_content_type": "application/json",
        "resp_status_code": 200,
        "tokens": {
            "cache_tokens": -1,
            "draft_tokens": -1,
            "draft_acc_tokens": -1,
            "input_tokens": 25,
            "output_tokens": 4,
            "prompt_per_second": -1,
            "tokens_per_second": -1,
        },
        "has_capture": True,
        "request_id": answer.headers["x-request-id"],
        "key_name": "api_keys[0]",
        "session_id": "s1",
        "metadata": {"fifo_priority": "0"},
    }


def test_through_upstream(http: httpx.Client) -> None:
    """A model asked by its address has its row, under the path that its server saw; looking at it has none."""
    ask(http, path=f"/upstream/fake{CHAT}", usage=USAGE)
    row = newest(http)
    http.get("/upstream/fake/health")
    http.get("/props", params={"model": "fake"})

    assert (row["req_path"], row["tokens"]["input_tokens"]) == (CHAT, 25)
    assert newest(http)["id"] == row["id"]


def test_unknown_model(http: httpx.Client) -> None:
    """A model that there is not has a row, but no series of its own: strangers must not invent those."""
    ask(http, model="nobody's")
    row, told = newest(http), samples(http)

    assert (row["model"], row["resp_status_code"], row["cause"]) == ("nobody's", 404, "model_not_found")
    assert "nobody's" in row["error_msg"]
    assert told["llama_supervise_requests_total", (("code", "404"), ("model", "(unknown)"))] >= 1
    assert "nobody's" not in str(told)


def test_who_is_not_recorded(service: RunningService, http: httpx.Client) -> None:
    """Neither who has no key nor who names no model has a row."""
    ask(http)
    before = newest(http)["id"]
    with http_to(service.url) as stranger:
        assert stranger.post(CHAT, json={"model": "fake"}).status_code == 401
    assert http.post(CHAT, json={}).status_code == 404

    assert newest(http)["id"] == before


def test_errors(http: httpx.Client) -> None:
    """The words of a child's own error, of a child that cannot start, and of one that refuses."""
    theirs = {"error": {"message": "the prompt is too long"}}
    http.post(CHAT, content=b'{"model": "fake", ' + json.dumps(theirs).encode()[1:], headers={"x-do": "what"})
    own = newest(http)
    ask(http, model="broken")
    broken, told = newest(http), samples(http)

    assert (own["resp_status_code"], own["error_msg"]) == (400, "400 Bad Request")
    assert (broken["model"], broken["resp_status_code"]) == ("broken", 503)
    assert broken["error_msg"].startswith("broken could not start")
    assert "wait_ms" not in broken
    assert told["llama_supervise_failures_total", (("cause", broken["cause"]), ("model", "broken"))] == 1
    assert told["llama_supervise_errors_total", (("cause", broken["cause"]), ("model", "broken"))] == 1


def test_a_client_that_leaves(http: httpx.Client) -> None:
    """A stream that is left has a row with the status that was sent."""
    headers = {"x-do": "sse", "x-name": "left"}
    with http.stream("POST", CHAT, json={"model": "fake", "usage": USAGE}, headers=headers) as answer:
        assert next(answer.iter_raw())
    eventually(lambda: newest(http).get("error_msg") == "the client left before the end of its answer")
    row = newest(http)

    assert (row["resp_status_code"], row["resp_content_type"]) == (200, "text/event-stream")
    assert row["tokens"]["input_tokens"] == 25


def test_a_cancelled_request(http: httpx.Client) -> None:
    """Who is cancelled has a row that says so."""
    asking = threading.Thread(target=ask, args=(http,), kwargs={"do": "hang"})
    asking.start()
    number = None

    def is_shown() -> bool:
        nonlocal number
        with http.stream("GET", "/api/events") as events:
            for line in events.iter_lines():
                if '"type":"inflight"' in line:
                    requests = json.loads(json.loads(line.removeprefix("data:"))["data"]).get("requests", [])
                    number = requests[0]["id"] if requests else None
                    return number is not None
        return False

    eventually(is_shown)
    assert http.post(f"/api/inflight/{number}/cancel").json() == {"msg": "ok"}
    asking.join()
    row = newest(http)

    assert (row["resp_status_code"], row["error_msg"]) == (499, "cancelled by the owner of the service")


def test_told(http: httpx.Client) -> None:
    """Whoever watches is told the number of each row."""
    with http.stream("GET", "/api/events") as events:
        lines = events.iter_lines()
        next(line for line in lines if '"type":"inflight"' in line)
        ask(http)
        told = next(json.loads(line.removeprefix("data:")) for line in lines if '"type":"activity"' in line)

    assert json.loads(told["data"]) == {"id": newest(http)["id"]}


def test_pages(http: httpx.Client) -> None:
    """Pages fit together, and a question that makes no sense is refused in words."""
    for _ in range(3):
        ask(http)
    whole = http.get("/api/metrics/activity", params={"model": "fake", "limit": 3}).json()
    second = http.get("/api/metrics/activity", params={"model": "fake", "limit": 1, "page": 2}).json()
    refused = http.get("/api/metrics/activity", params={"limit": "all"})

    assert second["data"] == whole["data"][1:2]
    assert second["total_pages"] == second["total"] == whole["total"] >= 3
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("`limit`: expected a whole number from 1 to 999")


def test_statistics(http: httpx.Client) -> None:
    """Sums go up with each request."""
    before = http.get("/api/metrics/stats", params={"model": "fake"}).json()
    ask(http, usage=USAGE, timings={"predicted_per_second": 50.0, "predicted_n": 4})
    after = http.get("/api/metrics/stats", params={"model": "fake"}).json()

    assert after["total_requests"] == before["total_requests"] + 1
    assert after["total_input_tokens"] == before["total_input_tokens"] + 25
    assert after["gen_histogram"]["max"] >= 50


def test_captures(http: httpx.Client) -> None:
    """A capture has both bodies, and neither a credential nor a key of ours, wherever it stands."""
    ask(http, note=f"my key is {KEY}")
    number = newest(http)["id"]
    capture = http.get(f"/api/captures/{number}").json()
    missing, odd = http.get("/api/captures/4711"), http.get("/api/captures/newest")

    assert (capture["id"], capture["req_path"]) == (number, CHAT)
    assert capture["req_headers"]["Authorization"] == "[REDACTED]"
    for which in ("req_body", "resp_body"):
        assert json.loads(base64.b64decode(capture[which])) == {"model": "fake", "note": "my key is [redacted]"}
    assert KEY not in json.dumps(capture)
    assert (missing.status_code, odd.status_code) == (404, 400)


def test_files_are_not_captured(http: httpx.Client) -> None:
    """Of speech only the question is kept, and what is larger than the buffer is not."""
    ask(http, path="/v1/audio/speech", input="hello")
    speech = http.get(f"/api/captures/{newest(http)['id']}").json()
    ask(http, large="x" * 100_000)
    large = newest(http)

    assert json.loads(base64.b64decode(speech["req_body"]))["input"] == "hello"
    assert speech["resp_body"] is None
    assert large["has_capture"] is False


def test_metrics(http: httpx.Client) -> None:
    """Everything that is counted is there, and looking loads nothing."""
    ask(http, usage=USAGE)
    told, rows = samples(http), http.get("/api/metrics/activity", params={"model": "fake"}).json()["total"]
    fake = (("model", "fake"),)

    assert (
        sum(
            value
            for (name, labels), value in told.items()
            if name == "llama_supervise_requests_total" and ("model", "fake") in labels
        )
        == rows
    )
    assert told["llama_supervise_prompt_tokens_total", fake] >= 25
    assert told["llama_supervise_loads_total", fake] == 1
    assert told["llama_supervise_load_seconds_count", fake] == 1
    assert told["llama_supervise_request_duration_seconds_count", fake] == rows
    assert told["llama_supervise_request_duration_seconds_bucket", (("le", "+Inf"), *fake)] == rows
    assert told["llama_supervise_queue_wait_seconds_count", fake] >= 1
    assert told["llama_supervise_model_state", (*fake, ("state", "ready"))] == 1
    assert told["llama_supervise_requests_in_flight", fake] == told["llama_supervise_requests_waiting", fake] == 0
    assert told["llama_supervise_model_resident_bytes", fake] > 1e6
    eventually(lambda: samples(http)["llama_supervise_model_memory_bytes", (("device", "host"), *fake)] > 1e6)
    assert told["llama_supervise_process_cpu_seconds_total", ()] > 0
    assert not any(("model", "asleep") in labels for _, labels in told)
    assert ask(http, path="/metrics").status_code == 405


def test_counters_survive_reloads(start: Callable[..., RunningService]) -> None:
    """Another config changes no count, not even of a model that is gone; the record goes on where it was."""
    config = f"[models.fake]\ncmd = {fake_cmd()}\n"
    service = start(config)
    with http_to(service.url) as http:
        ask(http, usage=USAGE)
        before, row = samples(http), newest(http)
        (service.directory / "models.toml").write_text(config.replace("models.fake", "models.other"))
        assert http.post("/api/reload").status_code == 200
        after = samples(http)
        ask(http, model="other", usage=USAGE)

        counted = {key for key in before if key[0].startswith("llama_supervise_") and key[0].endswith("_total")}
        counted = {key for key in counted if "process" not in key[0]}
        assert len(counted) > 4
        assert {key: after[key] for key in counted} == {key: before[key] for key in counted}
        assert newest(http)["id"] == row["id"] + 1
        assert samples(http)["llama_supervise_requests_total", (("code", "200"), ("model", "other"))] == 1


def test_the_machine(http: httpx.Client) -> None:
    """Samples come, as JSON and as metrics; nothing is newer than the future."""
    eventually(lambda: http.get("/api/performance").json()["sys_stats"])
    told = http.get("/api/performance").json()
    later = http.get("/api/performance", params={"after": "2999-01-01T00:00:00Z"}).json()
    hardware = http.get("/api/hardware").json()

    assert told["enabled"] is True
    assert told["sys_stats"][0]["mem_total_mb"] > 100
    assert (later["sys_stats"], later["gpu_stats"]) == ([], None)
    assert samples(http)["llamaswap_memory_total_bytes", ()] == hardware["memory"]["capacity_bytes"] > 1e8
    assert hardware["cpu"]["logical_thread_count"] >= 1
    assert http.get("/api/performance", params={"after": "now"}).status_code == 400


@pytest.mark.parametrize(
    "path",
    ["/api/metrics/activity", "/api/metrics/stats", "/api/captures/1", "/api/performance", "/api/hardware", "/metrics"],
)
def test_not_for_everybody(start: Callable[..., RunningService], service: RunningService, path: str) -> None:
    """Without a key nobody reads what others have asked."""
    with http_to(service.url) as stranger:
        assert stranger.get(path).status_code == 401


def test_nothing_is_kept(start: Callable[..., RunningService]) -> None:
    """`activity = false` records nothing; what is for this machine only is not for who comes through a proxy."""
    service = start(
        f"[server]\nactivity = false\nperformance = {{ disabled = true }}\n[models.fake]\ncmd = {fake_cmd()}"
    )
    with http_to(service.url) as http:
        assert ask(http, usage=USAGE).status_code == 200

        assert http.get("/api/metrics/activity").json() == {
            "data": [],
            "page": 1,
            "limit": 25,
            "total": 0,
            "total_pages": 0,
        }
        machine = http.get("/api/performance")
        assert (machine.status_code, machine.json()) == (503, {"enabled": False, "gpu_stats": None, "sys_stats": []})
        assert "llamaswap_" not in "".join(name for name, _ in samples(http))
        assert http.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 403


def test_a_killed_service(start: Callable[..., RunningService]) -> None:
    """What was written before `kill -9` is there, in a whole database, and numbers go on."""
    config = f'[server]\nstore = "activity.db"\n[models.fake]\ncmd = {fake_cmd()}'
    service = start(config)
    with http_to(service.url) as http:
        for _ in range(20):
            ask(http, usage=USAGE)
        last = newest(http)["id"]
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    path: Path = service.directory / "activity.db"
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT COUNT(*), MAX(id), SUM(input_tokens) FROM activity").fetchone() == (
            20,
            last,
            500,
        )
    database.close()


def test_childrens_metrics(start: Callable[..., RunningService], tiny: Path) -> None:
    """A real llama-server's metrics are told with its model's name; without `--metrics` there are none."""
    service = start(
        f"""
        [server]
        max_loaded = 2
        [defaults]
        model = "{tiny}/tiny-a.gguf"
        ctx-size = 256
        [models.told]
        metrics = true
        [models.silent]
        """
    )
    assert service.chat("told").status_code == service.chat("silent").status_code == 200
    with http_to(service.url) as http:
        told = samples(http)

    assert told["llamacpp:prompt_tokens_total", (("model", "told"),)] > 0
    assert told["llama_supervise_model_metrics_up", (("model", "told"),)] == 1
    assert told["llama_supervise_generated_tokens_total", (("model", "told"),)] == 4
    assert told["llama_supervise_generation_tokens_per_second_count", (("model", "silent"),)] == 1
    assert not any(name.startswith("llamacpp") and ("model", "silent") in labels for name, labels in told)
