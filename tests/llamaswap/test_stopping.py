"""How processes stop (spec 2.3), expire (2.4), and what happens when the service itself ends (2.12)."""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import DEADLINE, alive, eventually
from tests.llamaswap.conftest import Swap, running_swap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = """
models:
  plain:
    cmd: <child> --grandchild
  stubborn:
    cmd: <child> --ignore-term --grandchild
    unloadTimeout: 1
  wedged:
    cmd: <child> --ignore-term
    unloadTimeout: 1
  told:
    cmd: <child>
    cmdStop: |
      # by a signal of its own
      <stopper> --with SIGUSR1
    env: [TEST_A=1]
    unloadTimeout: 60
  told-in-vain:
    cmd: <child>
    cmdStop: <stopper> --with none
    unloadTimeout: 1
  told-wrongly:
    cmd: <child>
    cmdStop: /nonexistent/program ${PID}
    unloadTimeout: 1
  slow:
    cmd: <child> --health 503
"""
EXPIRING = """
globalTTL: 1
models:
  clock: {cmd: "<child>"}
  busy: {cmd: "<child>", ttl: 1}
  kept: {cmd: "<child>", ttl: 0}
  inherits: {cmd: "<child>", ttl: -1}
  quiet: {cmd: "<child>", compat: {ignoreWebsockets: true}}
routing: {router: {settings: {groups: {all: {swap: false, members: [clock, busy, kept, inherits, quiet]}}}}}
"""
SIGNALS = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("stopping"), CONFIG) as swap:
        yield swap


def notes(swap: Swap, event: str, pid: int) -> list[dict[str, Any]]:
    """What a process wrote about itself, or its cmdStop about it."""
    return [entry for entry in swap.journal() if entry["event"] == event and pid in {entry["pid"], entry.get("target")}]


# 2.3


def test_term(swap: Swap) -> None:
    """2.3: the whole process group gets SIGTERM."""
    swap.ask("plain").raise_for_status()
    pid = swap.child_pid("plain")
    (grandchild,) = notes(swap, "grandchild", pid)
    swap.get("/unload")

    assert [entry["name"] for entry in notes(swap, "signal", pid)] == ["SIGTERM"]
    assert not alive(pid)
    eventually(lambda: not alive(grandchild["child"]))


def test_kill(swap: Swap) -> None:
    """2.3: who does not go within unloadTimeout is killed with its group, and /unload waits for that."""
    swap.ask("stubborn").raise_for_status()
    pid = swap.child_pid("stubborn")
    (grandchild,) = notes(swap, "grandchild", pid)
    response = swap.get("/unload")

    assert response.text == "OK"
    assert [entry["name"] for entry in notes(swap, "signal", pid)] == ["SIGTERM"]
    assert notes(swap, "stop", pid) == []
    assert not alive(pid)
    eventually(lambda: not alive(grandchild["child"]))


def test_eviction(swap: Swap) -> None:
    """2.3, on purpose: a process that makes room has unloadTimeout to go, not the time of a health check."""
    swap.ask("wedged").raise_for_status()
    pid = swap.child_pid("wedged")

    assert swap.ask("plain").status_code == 200
    assert not alive(pid)


def test_stop_command(swap: Swap) -> None:
    """2.3: `cmdStop` stops the process in place of SIGTERM; it knows the pid and has the model's environment."""
    swap.ask("told").raise_for_status()
    pid = swap.child_pid("told")
    swap.get("/unload")
    (stop,) = notes(swap, "cmdStop", pid)

    assert stop["env"].items() >= {"TEST_A": "1"}.items()
    assert [entry["name"] for entry in notes(swap, "signal", pid)] == ["SIGUSR1"]
    assert not alive(pid)


@pytest.mark.parametrize("model", ["told-in-vain", "told-wrongly"])
def test_stop_command_fails(swap: Swap, model: str) -> None:
    """2.3: a process that its cmdStop does not stop is killed after unloadTimeout."""
    swap.ask(model).raise_for_status()
    pid = swap.child_pid(model)
    swap.get("/unload")

    assert not alive(pid)
    assert swap.ask("plain").status_code == 200


def test_stop_while_starting(swap: Swap) -> None:
    """2.3: a start that is called off leaves no process."""
    waiting = swap.later(swap.ask, "slow")
    eventually(lambda: swap.running() == {"slow": "starting"})
    swap.child("slow")
    pid = swap.child_pid("slow")
    swap.get("/unload")

    assert waiting.result().status_code in {500, 503}
    eventually(lambda: not alive(pid))


# 2.4


@pytest.fixture
def expiring(start_swap: Callable[..., Swap]) -> Swap:
    """A service whose models expire after a second, beside each other."""
    return start_swap(EXPIRING)


def let_time_pass(swap: Swap) -> None:
    """Until another model has expired twice since."""
    for _ in range(2):
        swap.ask("clock").raise_for_status()
        eventually(lambda: "clock" not in swap.running())


@pytest.mark.parametrize("model", ["clock", "inherits", "busy"])
def test_expires(expiring: Swap, model: str) -> None:
    """2.4: a model is unloaded `ttl` seconds after its last request; -1 and nothing are the file's globalTTL."""
    expiring.ask(model).raise_for_status()
    pid = expiring.child_pid(model)
    eventually(lambda: expiring.running() == {})

    assert not alive(pid)
    assert expiring.ask(model).status_code == 200


def test_never_expires(expiring: Swap) -> None:
    """2.4: with a ttl of 0 it stays."""
    expiring.ask("kept").raise_for_status()
    let_time_pass(expiring)

    assert expiring.running() == {"kept": "ready"}


def test_one_that_was_never_asked(start_swap: Callable[..., Swap]) -> None:
    """2.4, on purpose: its time starts when it is ready; llama-swap unloads it within a second."""
    swap = start_swap("""
hooks: {on_startup: {preload: [fresh]}}
models: {fresh: {cmd: "<child>", ttl: 600}, clock: {cmd: "<child>", ttl: 1}}
groups: {all: {swap: false, members: [fresh, clock]}}
""")
    eventually(lambda: swap.running() == {"fresh": "ready"})
    let_time_pass(swap)

    assert swap.running() == {"fresh": "ready"}


def test_requests_keep_it(expiring: Swap) -> None:
    """2.4: the time starts when the last request has ended."""
    held = expiring.hold("busy", "long")
    let_time_pass(expiring)

    assert expiring.running() == {"busy": "ready"}
    expiring.child("busy").go("long")
    assert held.result().status_code == 200
    eventually(lambda: expiring.running() == {})


def test_websockets_keep_it(expiring: Swap) -> None:
    """2.4, 1.6: so does an open websocket, unless they are ignored."""
    for model in ("busy", "quiet"):
        expiring.ask(model).raise_for_status()
    with expiring.socket("/upstream/busy/ws"), expiring.socket("/upstream/quiet/ws"):
        eventually(lambda: "quiet" not in expiring.running())
        let_time_pass(expiring)

        assert expiring.running() == {"busy": "ready"}
    eventually(lambda: expiring.running() == {})


# 2.12


@SIGNALS
def test_shutdown(start_swap: Callable[..., Swap], signum: signal.Signals) -> None:
    """2.12: a signal ends the service and every process, with exit code 0."""
    swap = start_swap(EXPIRING)
    for model in ("kept", "busy"):
        swap.ask(model).raise_for_status()
    swap.process.send_signal(signum)

    assert swap.process.wait(DEADLINE) == 0
    assert not alive(swap.child_pid("kept"))
    assert not alive(swap.child_pid("busy"))


def test_shutdown_ends_streams(start_swap: Callable[..., Swap]) -> None:
    """2.12: streams of events and logs end first and do not hold it up."""
    swap = start_swap(EXPIRING)
    with (
        swap.client.stream("GET", "/api/events") as events,
        swap.client.stream("GET", "/logs/stream") as log,
    ):
        assert (events.status_code, log.status_code) == (200, 200)
        next(events.iter_raw())
        code = swap.stop()

    assert code == 0


def test_shutdown_lets_requests_finish(start_swap: Callable[..., Swap]) -> None:
    """2.12: a request in flight is still answered, while new ones are not."""
    swap = start_swap(EXPIRING)
    held = swap.hold("kept", "last")
    swap.process.send_signal(signal.SIGTERM)
    eventually(lambda: not accepts(swap))
    swap.child("kept").go("last")

    assert held.result().text == "held"
    assert swap.process.wait(DEADLINE) == 0


def accepts(swap: Swap) -> bool:
    """Whether the service takes a new request."""
    url = httpx.URL(swap.url)
    with contextlib.suppress(OSError), socket.create_connection((url.host, url.port), timeout=DEADLINE) as client:
        client.sendall(b"GET /props?model=kept HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return client.recv(100).startswith(b"HTTP/1.1 200")
    return False


def test_shutdown_with_a_stop_command(start_swap: Callable[..., Swap]) -> None:
    """2.12, 2.3: the shutdown stops a process the way its model says."""
    swap = start_swap(CONFIG)
    swap.ask("told").raise_for_status()
    pid = swap.child_pid("told")

    assert swap.stop() == 0
    assert len(notes(swap, "cmdStop", pid)) == 1
    assert not alive(pid)
