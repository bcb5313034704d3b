"""Models that come and go, with real llama-servers: swapping, sharing, expiring, loading and unloading by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import RunningService, alive, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ECHO_SERVER = Path(__file__).with_name("echo_server.py")

# Who runs.


def test_two_entries_of_one_file_swap(start: Callable[..., RunningService], tiny: Path, binary: Path) -> None:
    """Asking for the other entry swaps processes; status, /running and the kernel agree after every step."""
    service = start(two_entries(tiny, defaults=f'binary = "{binary}"'))
    pids = []
    for name in ("short", "long", "short"):
        assert service.chat(name).status_code == 200
        assert_only(service, name)
        pids.append(service.pid(name))

    assert len(set(pids)) == 3
    assert not any(map(alive, pids[:2]))


def test_each_entry_has_its_own_context_and_sampling(start: Callable[..., RunningService], tiny: Path) -> None:
    """A child gets its entry's context and recommended sampling as its defaults."""
    service = start(two_entries(tiny))
    short, long = props(service, "short"), props(service, "long")

    assert (short["n_ctx"], long["n_ctx"]) == (256, 512)
    assert (short["params"]["temperature"], long["params"]["temperature"]) == (0.25, 0.75)
    assert (short["params"]["top_k"], long["params"]["top_k"]) == (5, 9)
    assert_only(service, "long")


def test_a_request_may_choose_its_own_sampling(start: Callable[..., RunningService], tiny: Path) -> None:
    """Recommended sampling holds where a request says nothing; what it says itself wins."""
    service = start(two_entries(tiny))
    with service.http as http:
        silent, outspoken = (
            http.post("/completion", json={"model": "short", "prompt": "hello", "n_predict": 1, **own}).json()
            for own in ({}, {"temperature": 1.5})
        )

    assert silent["generation_settings"]["temperature"] == 0.25
    assert outspoken["generation_settings"]["temperature"] == 1.5
    assert outspoken["generation_settings"]["top_k"] == 5


def test_the_config_wins_over_sampling_in_the_file(start: Callable[..., RunningService], tiny: Path) -> None:
    """What a model file recommends is used, unless the config recommends something else."""
    service = start(f"""
        [server]
        max_loaded = 2
        [defaults]
        model = "{tiny}/tiny-b.gguf"
        ctx-size = 256
        fit = "off"
        threads = 1
        [models.plain]
        [models.sampled]
        sampling = {{ temp = 0.25 }}
    """)
    plain, sampled = props(service, "plain")["params"], props(service, "sampled")["params"]

    assert plain["temperature"] == pytest.approx(0.6)
    assert sampled["temperature"] == 0.25
    assert sampled["top_k"] == plain["top_k"] == 20


def test_models_that_fit_stay(start: Callable[..., RunningService], tiny: Path) -> None:
    """With room for two, the first stays when the second comes, and the third replaces the one not used lately."""
    service = start(two_entries(tiny, "max_loaded = 2"))
    service.chat("short")
    first = service.pid("short")
    service.chat("long")
    assert_only(service, "short", "long")
    service.chat("short")
    service.chat("third")

    assert_only(service, "short", "third")
    assert service.pid("short") == first


def test_an_idle_model_is_unloaded(start: Callable[..., RunningService], tiny: Path) -> None:
    """Nobody used it for its `ttl`: its process is gone, and the next request starts another."""
    service = start(two_entries(tiny, defaults='ttl = "300ms"'))
    assert service.chat("short").status_code == 200
    eventually(lambda: service.model("short")["state"] == "cold")

    assert_only(service)
    assert service.chat("short").status_code == 200


def test_a_stream_outlives_the_ttl(start: Callable[..., RunningService], tiny: Path) -> None:
    """A model that is answering is not idle, however long that takes."""
    service = start(two_entries(tiny, defaults='ttl = "50ms"'))
    with endless_answer(service, "short") as pieces:
        eventually(lambda: service.model("short")["process"]["age_seconds"] > 0.4)  # type: ignore[index]
        assert service.model("short")["state"] == "busy"
        assert next(pieces)
    eventually(lambda: service.model("short")["state"] == "cold")


def test_a_pinned_model_is_never_evicted(start: Callable[..., RunningService], tiny: Path) -> None:
    """Others swap around it, although it was used longest ago."""
    service = start(two_entries(tiny, "max_loaded = 2").replace("[models.long]", "[models.long]\npinned = true"))
    service.chat("long")
    pinned = service.pid("long")
    for name in ("short", "third", "short"):
        assert service.chat(name).status_code == 200
        assert_only(service, "long", name)

    assert service.pid("long") == pinned


def test_no_room_beside_pinned_models_is_said_at_once(start: Callable[..., RunningService], tiny: Path) -> None:
    """A model that can never fit is refused with the names of those in its way."""
    service = start(two_entries(tiny).replace("[models.long]", "[models.long]\npinned = true"))
    service.chat("long")
    refused = service.chat("short")

    assert refused.status_code == 507
    assert refused.json()["error"]["code"] == "cannot_fit"
    assert "`long`" in refused.json()["error"]["message"]
    assert_only(service, "long")


# Who waits.


def test_a_stream_delays_a_swap(start: Callable[..., RunningService], tiny: Path) -> None:
    """A swap waits for the answer under way, which comes to its end; only then does the other model start."""
    service = start(two_entries(tiny))
    with held_answer(service, "short") as rest, ThreadPoolExecutor() as threads:
        other = threads.submit(service.chat, "long")
        eventually(lambda: service.model("short")["state"] == "draining")
        assert service.model("long")["waiting"] == 1
        assert_only(service, "short")
        text = rest()
        other_answer = other.result()

    assert text.endswith("data: [DONE]\n\n")
    assert other_answer.status_code == 200
    assert_only(service, "long")


def test_requests_that_wait_are_grouped(start: Callable[..., RunningService], tiny: Path) -> None:
    """Everybody who waits for a model is served before the next swap: eight requests in turn cost two."""
    service = start(two_entries(tiny))
    with held_answer(service, "short") as rest, ThreadPoolExecutor(8) as threads:
        others = [threads.submit(service.chat, "long")]
        eventually(lambda: service.model("short")["state"] == "draining")
        others += [threads.submit(service.chat, name) for name in ["short", "long"] * 3 + ["short"]]
        eventually(lambda: len(service.status()["queue"]) == 8)  # type: ignore[arg-type]
        rest()
        answers = [other.result() for other in others]

    assert [answer.status_code for answer in answers] == [200] * 8
    assert starts(service) == 3
    assert_only(service, "short")


def test_a_full_queue_refuses(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """Who comes when the queue is full is told to come back later; who waits is served."""
    config, ready = slow_server(tmp_path, "max_queue = 1")
    service = start(config)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(service.chat, "slow")
        eventually(lambda: service.model("slow")["waiting"] == 1)
        second = service.chat("slow")
        ready.touch()

    assert second.status_code == 429
    assert second.json()["error"]["code"] == "queue_full"
    assert int(second.headers["retry-after"]) >= 1
    assert first.result().status_code == 200


def test_a_load_goes_on_without_its_client(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """A client that gives up leaves the queue, but what it started to load becomes ready."""
    config, ready = slow_server(tmp_path)
    service = start(config)
    with raw_request(service, "slow"):
        eventually(lambda: service.model("slow")["waiting"] == 1)
        eventually(lambda: has_pid(service, "slow"))
        pid = service.pid("slow")
    eventually(lambda: service.model("slow")["waiting"] == 0)
    assert service.model("slow")["state"] == "loading"
    ready.touch()
    eventually(lambda: service.model("slow")["state"] == "ready")

    assert service.pid("slow") == pid


# By hand.


def test_load(start: Callable[..., RunningService], tiny: Path) -> None:
    """A load answers at once and happens; a second one, also by an alias, changes nothing."""
    service = start(two_entries(tiny).replace("[models.short]", '[models.short]\naliases = ["brief"]'))
    assert manage(service, "load", model="short") == {"success": True}
    eventually(lambda: service.model("short")["state"] == "ready")
    pid = service.pid("short")
    assert manage(service, "load", model="brief") == {"success": True}

    assert_only(service, "short")
    assert service.pid("short") == pid
    assert manage(service, "load", model="nobody")["error"]["code"] == "model_not_found"


def test_unload(start: Callable[..., RunningService], tiny: Path) -> None:
    """An unload ends an idle model; one that is not loaded is no error."""
    service = start(two_entries(tiny))
    service.chat("short")
    assert manage(service, "unload", model="short") == {"success": True}
    eventually(lambda: service.model("short")["state"] == "cold")

    assert_only(service)
    assert manage(service, "unload", model="short") == {"success": True}


def test_unload_all(start: Callable[..., RunningService], tiny: Path) -> None:
    """`GET /unload` answers once every process is gone."""
    service = start(two_entries(tiny, "max_loaded = 2"))
    pids = []
    for name in ("short", "long"):
        service.chat(name)
        pids.append(service.pid(name))
    with service.http as http:
        answer = http.get("/unload")

    assert (answer.status_code, answer.text) == (200, "OK")
    assert not any(map(alive, pids))
    assert_only(service)


def test_an_unload_waits_for_the_answer_under_way(start: Callable[..., RunningService], tiny: Path) -> None:
    """The answer comes to its end; who asks meanwhile is served by a fresh process."""
    service = start(two_entries(tiny))
    with held_answer(service, "short") as rest, ThreadPoolExecutor() as threads:
        old = service.pid("short")
        manage(service, "unload", model="short")
        assert service.model("short")["state"] == "draining"
        later = threads.submit(service.chat, "short")
        eventually(lambda: service.model("short")["waiting"] == 1)
        text = rest()
        later_answer = later.result()

    assert text.endswith("data: [DONE]\n\n")
    assert later_answer.status_code == 200
    assert_only(service, "short")
    assert service.pid("short") != old


def test_a_forced_unload_cuts_the_answer_under_way(start: Callable[..., RunningService], tiny: Path) -> None:
    """With `force` nobody is waited for: the stream ends with an error event, and the process is gone."""
    service = start(two_entries(tiny))
    with endless_answer(service, "short") as pieces:
        manage(service, "unload", model="short")
        assert service.model("short")["state"] == "draining"
        manage(service, "unload", model="short", force=True)
        text = "".join(pieces)

    assert "[DONE]" not in text
    assert json.loads(text.rpartition("data: ")[2])["error"]["code"] == "model_unloaded"
    eventually(lambda: service.model("short")["state"] == "cold")
    assert_only(service)


def test_an_unload_cuts_after_the_drain_timeout(start: Callable[..., RunningService], tiny: Path) -> None:
    """An answer that does not end within `drain_timeout` is cut with an error event."""
    service = start(two_entries(tiny, 'drain_timeout = "200ms"'))
    with endless_answer(service, "short") as pieces:
        manage(service, "unload", model="short")
        text = "".join(pieces)

    assert json.loads(text.rpartition("data: ")[2])["error"]["code"] == "model_unloaded"


def test_an_unload_ends_a_load(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """Who waits for the load is refused, and its process is gone at once, drain timeout or not."""
    config, _ = slow_server(tmp_path)
    service = start(config)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(service.chat, "slow")
        eventually(lambda: service.model("slow")["waiting"] == 1 and has_pid(service, "slow"))
        pid = service.pid("slow")
        manage(service, "unload", model="slow")
        refused = waiting.result()

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "model_unloaded"
    eventually(lambda: not alive(pid))
    eventually(lambda: service.model("slow")["state"] == "cold")


# What the tests above use.


def two_entries(tiny: Path, server: str = "", *, defaults: str = "") -> str:
    """One file as several models, with a context and recommended sampling each."""
    return f"""
        [server]
        {server or "max_loaded = 1"}
        [defaults]
        model = "{tiny}/tiny-a.gguf"
        context-shift = true
        fit = "off"
        threads = 1
        {defaults}
        [models.short]
        ctx-size = 256
        sampling = {{ temp = 0.25, top-k = 5 }}
        [models.long]
        ctx-size = 512
        sampling = {{ temp = 0.75, top-k = 9 }}
        [models.third]
        ctx-size = 256
    """


def slow_server(tmp_path: Path, server: str = "") -> tuple[str, Path]:
    """A config with one server that is ready once a file exists, and that file."""
    file = tmp_path / "ready"
    command = json.dumps([sys.executable, str(ECHO_SERVER), "--port", "${PORT}", "--ready-when", str(file)])
    return f"[server]\n{server}\n[models.slow]\ncmd = {command}\n", file


@contextmanager
def held_answer(service: RunningService, model: str) -> Iterator[Callable[[], str]]:
    """A streamed answer under way whose child stands still. Call what this gives to let it go on, for its text."""
    assert service.chat(model).status_code == 200
    pid = service.pid(model)
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(service.chat, model, stream=True)

        def rest() -> str:
            os.kill(pid, signal.SIGCONT)
            return answer.result().text

        try:
            eventually(lambda: service.model(model)["state"] == "busy")
            yield rest
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def endless_answer(service: RunningService, model: str) -> Iterator[Iterator[str]]:
    """The pieces of a streamed answer that is still going on."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50_000, "stream": True}
    with service.http as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_text()
        next(pieces)
        yield pieces


@contextmanager
def raw_request(service: RunningService, model: str) -> Iterator[None]:
    """A chat request whose client leaves at the end of the block, without a word."""
    address = urlsplit(service.url)
    body = json.dumps({"model": model, "messages": []}).encode()
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        yield


def has_pid(service: RunningService, model: str) -> bool:
    """Whether a process of this model has been spawned."""
    process: Any = service.model(model)["process"]
    return process is not None and process["pid"] is not None


def manage(service: RunningService, verb: str, **fields: object) -> Any:
    """What `/models/load` or `/models/unload` answers."""
    with service.http as http:
        return http.post(f"/models/{verb}", json=fields).json()


def props(service: RunningService, model: str) -> Any:
    """How the child of this model is set up."""
    with service.http as http:
        answer = http.get("/props", params={"model": model})
    assert answer.status_code == 200
    return answer.json()["default_generation_settings"]


def starts(service: RunningService) -> int:
    """How many children there have been."""
    return (service.directory / "service.log").read_text().count(" spawned pid ")


def assert_only(service: RunningService, *names: str) -> None:
    """Exactly these models have a process, by every account."""
    with service.http as http:
        running = http.get("/running").json()["running"]
    pids = {model["id"]: model["process"]["pid"] for model in service.status()["models"] if model["process"]}  # type: ignore[attr-defined]
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in service.children()]

    assert set(pids) == {row["model"] for row in running} == set(names)
    assert sorted(pids.values()) == sorted(service.children())
    assert {command[command.index(b"--alias") + 1].decode() for command in commands} == set(names)
