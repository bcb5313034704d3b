"""`/api/events` (spec 1.11) and logs (spec 1.12)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import eventually
from tests.llamaswap.conftest import Swap, following, running_swap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = """
models:
  zeta:
    cmd: <child> --stdout zeta_says_1 --stderr zeta_says_2
    name: Zeta
    description: the last
    aliases: [nick, nick/slash]
    capabilities: {in: [text, image], context: 8192}
  author/model:
    cmd: <child> --stdout author_says_1
    unlisted: true
peers:
  away: {proxy: "http://127.0.0.1:1", models: [far]}
"""
SECRETS = {"authorization": "Bearer a", "proxy-authorization": "b", "cookie": "c=1", "x-api-key": "d"}


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("events"), CONFIG) as swap:
        yield swap


def entry(models: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(model for model in models if model["id"] == name)


# Events.


def test_headers_and_frames(swap: Swap) -> None:
    """1.11: frames are `event:message` and `data:` with JSON whose data is JSON again, as EventSource reads it."""
    with swap.client.stream("GET", "/api/events") as response:
        lines = response.iter_lines()
        first = [next(lines) for _ in range(3)]

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-accel-buffering"] == "no"
    assert (first[0], first[2]) == ("event:message", "")
    assert first[1].startswith('data:{"type":"')
    assert json.loads(first[1].removeprefix("data:")).keys() == {"type", "data"}
    assert isinstance(json.loads(first[1].removeprefix("data:"))["data"], str)


def test_first_messages(swap: Swap) -> None:
    """1.11: first come both logs, the models, the page's settings, the profile and the requests, in this order."""
    with swap.events() as events:
        messages = [events.next() for _ in range(6)]
    kinds = [kind for kind, _ in messages]
    logs, (settings, profile) = [data for _, data in messages[:2]], [data for _, data in messages[3:5]]

    assert kinds == ["logData", "logData", "modelStatus", "uiConfig", "profileChanged", "inflight"]
    assert [log["source"] for log in logs] == ["proxy", "upstream"]
    assert settings == {"activity": {"session_id": ["X-Session-ID", "X-Litellm-Session-Id"]}}
    assert profile == {"active": None}
    assert messages[5][1] == {"operation": "snapshot"}


def test_model_status(swap: Swap) -> None:
    """1.11: all models are listed, those of this machine first, without what there is nothing to say about."""
    swap.get("/unload")
    with swap.events() as events:
        models = events.until("modelStatus")

    assert [model["id"] for model in models] == ["author/model", "zeta", "away/far"]
    author, zeta, far = models
    assert author == {
        "id": "author/model",
        "name": "",
        "description": "",
        "state": "stopped",
        "unlisted": True,
        "peerID": "",
    }
    assert zeta.items() >= {"name": "Zeta", "description": "the last", "state": "stopped", "unlisted": False}.items()
    assert (zeta["aliases"], zeta["context_length"]) == (["nick", "nick/slash"], 8192)
    assert zeta["capabilities"]["vision"] is True
    assert far.items() >= {"state": "", "peerID": "away", "unlisted": False}.items()


def test_states(swap: Swap) -> None:
    """1.11: every change of a process's state is told."""
    swap.get("/unload")
    with swap.events() as events:
        events.until("inflight")
        swap.ask("zeta").raise_for_status()
        unloading = swap.later(swap.get, "/unload")
        for state in ("starting", "ready", "stopping", "stopped"):
            events.until("modelStatus", lambda models, state=state: entry(models, "zeta")["state"] == state)

    assert unloading.result().text == "OK"


def test_log_events(swap: Swap) -> None:
    """1.11: what a child prints is told, and what we log."""
    swap.get("/unload")
    with swap.events() as events:
        events.until("inflight")
        swap.ask("zeta").raise_for_status()

        events.until("logData", lambda log: log["source"] == "upstream" and "zeta says" in log["data"])
        events.until("logData", lambda log: log["source"] == "proxy")


def test_requests(swap: Swap) -> None:
    """1.11: a request is told when it comes and when it is gone, with everything but its secrets."""
    swap.ask("zeta").raise_for_status()
    with swap.events() as events:
        events.until("inflight", lambda data: data["operation"] == "snapshot")
        held = swap.hold("nick", "told", of="zeta", headers={**SECRETS, "x-session-id": "s"})
        request = events.until("inflight", lambda data: data["operation"] == "upsert")["request"]
        swap.child("zeta").go("told")
        events.until("inflight", lambda data: data == {"operation": "remove", "id": request["id"]})
    headers = {name.lower(): value for name, value in request["req_headers"].items()}

    assert held.result().text == "held"
    expected = {"model": "zeta", "req_path": "/v1/chat/completions", "method": "POST", "remote_ip": "127.0.0.1"}
    assert request.items() >= expected.items()
    assert request["id"].isdecimal()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$", request["timestamp"])
    assert isinstance(request["elapsed_ms"], int)
    assert headers["x-session-id"] == "s"
    assert {headers[name] for name in SECRETS if name in headers} == {"[REDACTED]"}


def test_requests_below_upstream(swap: Swap) -> None:
    """1.6: a model's own routes below /upstream are told by the path behind it; other paths are not."""
    swap.ask("zeta").raise_for_status()
    with swap.events() as events:
        events.until("inflight", lambda data: data["operation"] == "snapshot")
        swap.get("/upstream/zeta/other").raise_for_status()
        swap.post("/upstream/zeta/v1/embeddings", json={}).raise_for_status()
        request = events.until("inflight", lambda data: data["operation"] == "upsert")["request"]

    assert (request["req_path"], request["model"]) == ("/v1/embeddings", "zeta")


def test_session_headers(start_swap: Callable[..., Swap]) -> None:
    """1.11: which headers tell sessions apart is the file's to say."""
    swap = start_swap(f"ui: {{activity: {{session_id: [X-Mine]}}}}\n{CONFIG}")
    with swap.events() as events:
        assert events.until("uiConfig") == {"activity": {"session_id": ["X-Mine"]}}


# Logs.


@pytest.mark.parametrize(
    ("to_stdout", "has_proxy", "has_upstream"),
    [
        ("", True, False),
        ("proxy", True, False),
        ("upstream", False, True),
        ("both", True, True),
        ("none", False, False),
    ],
)
def test_history(start_swap: Callable[..., Swap], to_stdout: str, has_proxy: bool, has_upstream: bool) -> None:
    """1.12: /logs has what goes to stdout: our own log, that of the children, both or none."""
    swap = start_swap((f"logToStdout: {to_stdout}\n" if to_stdout else "") + CONFIG)
    swap.ask("zeta").raise_for_status()
    with following(swap, "/logs/stream/upstream") as until:
        until("zeta says 2")
    eventually(lambda: "POST /v1/chat" in swap.get("/logs").text or not has_proxy)
    response = swap.get("/logs")

    assert response.headers["content-type"].startswith("text/plain")
    assert ("zeta says 1" in response.text) is has_upstream
    assert ("POST /v1/chat" in response.text) is has_proxy


@pytest.mark.parametrize(
    ("to_stdout", "has_proxy", "has_upstream"),
    [("proxy", True, False), ("upstream", False, True), ("both", True, True), ("none", False, False)],
)
def test_stdout(start_swap: Callable[..., Swap], to_stdout: str, *, has_proxy: bool, has_upstream: bool) -> None:
    """1.12: stdout shows what /logs has, each line once, and stderr nothing of it."""
    swap = start_swap(f"logToStdout: {to_stdout}\n{CONFIG}")
    swap.ask("zeta").raise_for_status()
    with following(swap, "/logs/stream/upstream") as until:
        until("zeta says 2")
    with following(swap, "/logs/stream/proxy") as until:
        until("POST /v1/chat")
    eventually(lambda: "zeta says 2" in swap.stdout() or not has_upstream)
    eventually(lambda: "POST /v1/chat" in swap.stdout() or not has_proxy)

    assert swap.stdout().count("zeta says 1") == has_upstream
    assert len(re.findall(r"^\[INFO\] Request .* \"POST /v1/chat", swap.stdout(), re.MULTILINE)) == has_proxy
    assert len(re.findall(r"^\[INFO\] .*zeta is ready", swap.stdout(), re.MULTILINE)) == has_proxy
    assert "zeta" not in swap.stderr()


def test_history_in_a_browser(swap: Swap) -> None:
    """1.12: a browser is led to the page."""
    response = swap.get("/logs", headers={"accept": "text/html,*/*"})

    assert (response.status_code, response.headers["location"]) == (302, "/ui/")


@pytest.mark.parametrize("path", ["upstream", "zeta", "nick", "nick/slash", "nick%2Fslash"])
def test_following(swap: Swap, path: str) -> None:
    """1.12: a log starts with its history and goes on; a model's has both its streams, as they are."""
    swap.ask("zeta").raise_for_status()
    with following(swap, f"/logs/stream/{path}") as until:
        until("zeta says 1\n")
        before = until("zeta says 2\n")
        swap.get("/unload")
        swap.ask("zeta").raise_for_status()
        after = until(before + "zeta says")

    assert after.startswith(before)


def test_each_model_has_its_own(swap: Swap) -> None:
    """1.12: one model's log has nothing of another's; that of all has both."""
    for model in ("zeta", "author/model"):
        swap.ask(model).raise_for_status()
    with following(swap, "/logs/stream/upstream") as until:
        until("zeta says 1")
        until("author says 1")
    with following(swap, "/logs/stream/author/model") as until:
        assert "zeta" not in until("author says 1\n")


def test_without_history(swap: Swap) -> None:
    """1.12: with `no-history` only what comes now is sent."""
    swap.ask("zeta").raise_for_status()
    with following(swap, "/logs/stream/zeta?no-history=false") as until:
        swap.get("/unload")
        swap.ask("zeta").raise_for_status()

        assert until("zeta says 2").count("zeta says 1") == 1


@pytest.mark.parametrize("path", ["/logs/stream", "/logs/stream/proxy"])
def test_own_log(swap: Swap, path: str) -> None:
    """1.12: our own log is followed the same way."""
    with following(swap, path) as until:
        swap.get(f"/health?{len(path)}", headers={"user-agent": f"agent of {path}"})
        until(f"agent of {path}")


@pytest.mark.parametrize("name", ["unknown", "far"])
def test_unknown_log(swap: Swap, name: str) -> None:
    """1.12: a log that nobody writes is a 400."""
    assert swap.get(f"/logs/stream/{name}").status_code == 400
