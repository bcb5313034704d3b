"""The small endpoints (spec 1.5): what runs, unloading, versions, cancelling, health."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.conftest import alive, eventually
from tests.llamaswap.conftest import Swap, running_swap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = """
globalTTL: 300
models:
  zeta:
    cmd: |
      <child>
      # a comment
      --ctx-size 10 \\
      --name ${MODEL_ID}
    ttl: 60
    name: Zeta
    description: the last
  alpha:
    cmd: <child>
    aliases: [first]
  author/model:
    cmd: <child>
  slow:
    cmd: <child> --health 503
  stubborn:
    cmd: <child> --ignore-term
    unloadTimeout: 60
peers:
  away: {proxy: "http://127.0.0.1:1", models: [far]}
"""
TOGETHER = """
routing: {router: {settings: {groups: {all: {swap: false, members: [zeta, alpha, author/model]}}}}}
"""


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("small"), CONFIG) as swap:
        yield swap


@pytest.fixture
def together(start_swap: Callable[..., Swap]) -> Swap:
    """A service in which three models may run at the same time."""
    return start_swap(CONFIG + TOGETHER)


def test_nothing_runs(swap: Swap) -> None:
    """1.5: without processes the list is empty."""
    swap.get("/unload")

    assert swap.get("/running").json() == {"running": []}


def test_running(swap: Swap) -> None:
    """1.5: a process is told with its command as the file has it, its address, ttl, name and description."""
    swap.ask("zeta").raise_for_status()
    (row,) = swap.get("/running").json()["running"]
    command = row.pop("cmd")

    assert row == {
        "model": "zeta",
        "state": "ready",
        "proxy": f"http://localhost:{swap.child('zeta').port}",
        "ttl": 60,
        "name": "Zeta",
        "description": "the last",
    }
    assert f"--port {swap.child('zeta').port}\n" in command
    assert "--name zeta" in command.splitlines()[-1]
    assert "${" not in command


def test_running_defaults(swap: Swap) -> None:
    """1.5: a model that says nothing itself has the file's ttl and empty texts."""
    swap.ask("alpha").raise_for_status()
    (row,) = swap.get("/running").json()["running"]

    assert (row["ttl"], row["name"], row["description"]) == (300, "", "")


def test_running_is_sorted(together: Swap) -> None:
    """1.5: rows are sorted by model."""
    for model in ("zeta", "author/model", "alpha"):
        together.ask(model).raise_for_status()

    assert [row["model"] for row in together.get("/running").json()["running"]] == ["alpha", "author/model", "zeta"]


def test_starting_and_stopping(swap: Swap) -> None:
    """1.5: states are starting, ready and stopping."""
    waiting = swap.later(swap.ask, "slow")
    eventually(lambda: swap.running() == {"slow": "starting"})
    swap.child("slow")
    eventually(lambda: answers(swap, "slow"))
    swap.child("slow").set_health(200)
    waiting.result().raise_for_status()
    swap.ask("stubborn").raise_for_status()
    unloading = swap.later(swap.get, "/unload")
    eventually(lambda: swap.running() == {"stubborn": "stopping"})
    swap.child("stubborn").end()

    assert unloading.result().text == "OK"
    assert swap.running() == {}


def answers(swap: Swap, model: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return bool(swap.child(model).about())
    return False


def test_unload_all(together: Swap) -> None:
    """1.5: GET /unload answers OK when every process is gone."""
    pids = []
    for model in ("zeta", "alpha"):
        together.ask(model).raise_for_status()
        pids.append(together.child_pid(model))
    response = together.get("/unload")

    assert not any(map(alive, pids))
    assert (response.status_code, response.text) == (200, "OK")
    assert response.headers["content-type"].startswith("text/plain")
    assert together.running() == {}


def test_unload_all_by_post(together: Swap) -> None:
    """1.5: POST /api/models/unload does the same and says so in JSON."""
    together.ask("zeta").raise_for_status()
    response = together.post("/api/models/unload")

    assert not alive(together.child_pid("zeta"))
    assert response.json() == {"msg": "ok"}


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("alpha", "alpha"),
        ("alpha", "first"),
        ("author/model", "author/model"),
        ("author/model", "author%2Fmodel"),
    ],
)
def test_unload_one(together: Swap, model: str, path: str) -> None:
    """1.5: one model is unloaded by its id or alias, slashes or not; the others stay."""
    for name in ("zeta", model):
        together.ask(name).raise_for_status()
    response = together.post(f"/api/models/unload/{path}")

    assert not alive(together.child_pid(model))
    assert (response.status_code, response.text) == (200, "OK")
    assert together.running() == {"zeta": "ready"}


def test_unload_what_does_not_run(swap: Swap) -> None:
    """1.5: a model that does not run is unloaded already."""
    swap.get("/unload")

    assert swap.post("/api/models/unload/alpha").text == "OK"
    assert swap.get("/unload").text == "OK"


@pytest.mark.parametrize("name", ["unknown", "far", "away/far"])
def test_unload_unknown(swap: Swap, name: str) -> None:
    """1.5, 1.3: only models of this machine can be unloaded."""
    assert swap.post(f"/api/models/unload/{name}").status_code == 404


def test_unload_lets_requests_finish(swap: Swap) -> None:
    """2.6, different: unloading by hand waits a while for requests in flight, and takes no new ones meanwhile."""
    held = swap.hold("alpha", "last")
    unloading = swap.later(swap.post, "/api/models/unload/alpha")
    eventually(lambda: swap.model("alpha")["state"] == "draining")
    swap.child("alpha").go("last")

    assert held.result().status_code == 200
    assert unloading.result().text == "OK"


def test_version(swap: Swap) -> None:
    """1.5: the version is told with commit and date, all of them text."""
    version = swap.get("/api/version").json()

    assert version.keys() == {"build_date", "commit", "version"}
    assert all(isinstance(value, str) for value in version.values())
    assert version["version"]


def test_cancel(swap: Swap) -> None:
    """1.5: cancelling a request in flight ends it at the child and for its client."""
    swap.ask("alpha").raise_for_status()
    held = swap.hold("alpha", "cancelled")
    with swap.events() as events:
        (request,) = events.until("inflight", lambda data: data["operation"] == "snapshot")["requests"]
    response = swap.post(f"/api/inflight/{request['id']}/cancel")
    eventually(lambda: swap.child("alpha").facts("cancelled")["gone"] == 1)

    assert response.json() == {"msg": "ok"}
    with contextlib.suppress(httpx.RemoteProtocolError):
        assert held.result().status_code >= 400
    assert swap.running() == {"alpha": "ready"}


@pytest.mark.parametrize("number", ["4711", "x", "-1"])
def test_cancel_unknown(swap: Swap, number: str) -> None:
    """1.5: a request that is not in flight is a 404."""
    assert swap.post(f"/api/inflight/{number}/cancel").status_code == 404


@pytest.mark.parametrize("path", ["/health", "/wol-health"])
def test_health(swap: Swap, path: str) -> None:
    """1.5: health is OK, as text, whatever the models do."""
    response = swap.get(path)

    assert (response.status_code, response.text) == (200, "OK")
    assert response.headers["content-type"].startswith("text/plain")
