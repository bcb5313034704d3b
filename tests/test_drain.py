"""The end of the service, phase by phase: no new requests, those in flight, the children; each with its own budget."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import ROOT, alive, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import RunningService

CHILD = [sys.executable, "-S", str(ROOT / "tests" / "runtime" / "server_child.py"), "--port", "${PORT}"]
DEAF = [*CHILD, "--ignore-term"]
FAKE = [sys.executable, str(ROOT / "tests" / "fake_llama.py"), "--port", "${PORT}"]
NEVER_READY = [*CHILD, "--status", "503"]
FOR_EVER = ["sleep", "1000"]
SOON = 8.0
"""Seconds; far less than any budget that is set to an hour, and more than a busy machine needs."""
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def config(server: str = "", **models: object) -> str:
    """A config of models by their `cmd`."""
    tables = "\n".join(f"[models.{name}]\ncmd = {json.dumps(cmd)}" for name, cmd in models.items())
    return f"[server]\nmax_loaded = 4\n{server}\n{tables}\n"


def load(service: RunningService, *models: str) -> list[int]:
    """Load models; their pids."""
    with service.http as http:
        for model in models:
            http.post("/models/load", json={"model": model})
    for model in models:
        eventually(lambda model=model: service.model(model)["state"] == "ready")  # type: ignore[misc]
    return [service.pid(model) for model in models]


def awaited_pid(service: RunningService, model: str) -> int:
    """The pid of a model that is just being started."""
    eventually(lambda: (service.model(model)["process"] or {}).get("pid"))  # type: ignore[attr-defined]
    return service.pid(model)


def child_of(service: RunningService, model: str) -> httpx.Client:
    """A client of the server behind a model, for when the service listens no more."""
    process: Any = service.model(model)["process"]
    return httpx.Client(base_url=process["endpoint"], trust_env=False, timeout=30)


@contextlib.contextmanager
def connection(service: RunningService, sent: bytes) -> Iterator[socket.socket]:
    """A connection on which this has been sent."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 0), timeout=30) as sock:
        sock.sendall(sent)
        yield sock


def rest(sock: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def refuses(service: RunningService) -> bool:
    """Whether nobody listens any more; a connection reset met a listener that was just being closed."""
    try:
        with connection(service, b""):
            return False
    except ConnectionResetError:
        return False
    except ConnectionRefusedError:
        return True


def log(service: RunningService) -> str:
    return (service.directory / "service.log").read_text()


def terminate(service: RunningService) -> None:
    service.process.send_signal(signal.SIGTERM)
    eventually(lambda: "SIGTERM: shutting down" in log(service))


def ends(service: RunningService, *, within: float = SOON) -> bool:
    return service.process.wait(within) == 0


# Who has no request in flight.


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /hea"])
def test_idle_connections_hold_nobody_up(start: Callable[..., RunningService], sent: bytes) -> None:
    """Neither a new one, nor one that is kept, nor one with half a head."""
    service = start(config('drain_timeout = "1h"', fake=FAKE))
    with connection(service, sent) as sock:
        if sent.endswith(b"\r\n\r\n"):
            assert b"200 OK" in sock.recv(65536)
        terminate(service)

        assert rest(sock) == b""
        assert ends(service)


def test_no_new_connections(start: Callable[..., RunningService]) -> None:
    """While requests in flight finish, others find nobody listening, and can go elsewhere."""
    service = start(config('drain_timeout = "1h"', fake=FAKE))
    load(service, "fake")
    request = b"GET /upstream/fake/x HTTP/1.1\r\nHost: x\r\nx-do: hold\r\nx-name: one\r\n\r\n"
    with connection(service, request) as sock, child_of(service, "fake") as child:
        eventually(lambda: child.get("/facts/one").json()["started"])
        terminate(service)
        eventually(lambda: refuses(service))
        child.post("/go/one")
        answer = rest(sock)

    assert answer.endswith(b"held")
    assert b"connection: close" in answer
    assert ends(service)


def test_who_waits_is_told_to_come_again(start: Callable[..., RunningService]) -> None:
    """A request whose model is still loading gets a 503 with Retry-After at once, and the load ends."""
    service = start(config('drain_timeout = "1h"\nstop_timeout = "1h"', slow=NEVER_READY))
    body = b'{"model": "slow"}'
    with connection(service, CHAT + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)) as sock:
        pid = awaited_pid(service, "slow")
        terminate(service)
        answer = rest(sock)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5\r\n" in answer.lower()
    assert b'"code":"shutting_down"' in answer
    assert ends(service)
    assert not alive(pid)


def test_an_upload_that_has_not_ended(start: Callable[..., RunningService]) -> None:
    """It would be refused once it is whole, so it is at once; and a client that sends no more holds nobody up."""
    service = start(config('drain_timeout = "1h"', fake=FAKE))
    with connection(service, CHAT + b'Content-Length: 1000000\r\n\r\n{"model": "fa') as sock:
        eventually(lambda: connections(service) >= 1)
        terminate(service)
        answer = rest(sock)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5\r\n" in answer.lower()
    assert ends(service)


def test_a_websocket(start: Callable[..., RunningService]) -> None:
    """A conversation has no end to wait for: it is closed with 1012, which means that the service restarts."""
    service = start(config('drain_timeout = "1h"', fake=[*FAKE, "--websockets"]))
    url = service.url.replace("http:", "ws:") + "/upstream/fake/echo"
    with connect(url, proxy=None) as sock:
        sock.send("hello")
        assert sock.recv(10) == "hello"
        terminate(service)
        with pytest.raises(ConnectionClosed):
            sock.recv(10)

    assert sock.close_code == 1012
    assert ends(service)


def test_a_websocket_that_waits_for_its_model(start: Callable[..., RunningService]) -> None:
    """It is refused like a request."""
    service = start(config('drain_timeout = "1h"', slow=NEVER_READY))
    handshake = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    with connection(service, b"GET /upstream/slow/x HTTP/1.1\r\nHost: x\r\n" + handshake + key) as sock:
        awaited_pid(service, "slow")
        terminate(service)

        assert rest(sock).startswith(b"HTTP/1.1 503 ")
    assert ends(service)


def test_event_streams(start: Callable[..., RunningService]) -> None:
    """What has no end of its own ends at once, properly."""
    service = start(config('drain_timeout = "1h"', fake=FAKE))
    with service.http as http, http.stream("GET", "/api/events") as answer:
        pieces = answer.iter_raw()
        next(pieces)
        terminate(service)
        list(pieces)

    assert ends(service)


# Who has one, for as long as `drain_timeout`.


def test_an_upload_on_its_way_to_a_child(start: Callable[..., RunningService]) -> None:
    """One that has got its model, and stalls, is cut when the time is over."""
    service = start(config('drain_timeout = "500ms"', fake=FAKE))
    load(service, "fake")
    head = b"POST /upstream/fake/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
    with connection(service, head + b"x" * 1_000_000) as sock:
        eventually(lambda: service.model("fake")["state"] == "busy")
        terminate(service)
        answer = rest(sock)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert ends(service)


def test_a_client_that_takes_nothing_of_its_answer(start: Callable[..., RunningService]) -> None:
    """It is cut with the others, and its connection does not outlast the drain."""
    service = start(config('drain_timeout = "500ms"', fake=FAKE))
    with connection(service, b"GET /upstream/fake/x HTTP/1.1\r\nHost: x\r\nx-do: endless\r\n\r\n") as sock:
        assert sock.recv(100)
        eventually(lambda: service.model("fake")["state"] == "busy")
        terminate(service)

        assert ends(service)


def test_an_answer_of_a_peer(start: Callable[..., RunningService]) -> None:
    """It may finish like a child's, and is cut with the same words."""
    other = start(config(fake=FAKE))
    load(other, "fake")
    service = start(config('drain_timeout = "300ms"') + f'[peers.far]\nproxy = "{other.url}"\nmodels = ["fake"]')
    request = {"model": "far/fake", "stream": True}
    headers = {"x-do": "sse", "x-name": "one"}
    with service.http as http, http.stream("POST", "/v1/chat/completions", json=request, headers=headers) as answer:
        pieces = answer.iter_text()
        next(pieces)
        terminate(service)
        text = "".join(pieces)

    assert json.loads(text.rpartition("data: ")[2])["error"]["code"] == "shutting_down"
    assert ends(service)


# The children, for as long as `stop_timeout`, all together.


def test_children_that_ignore_everything(start: Callable[..., RunningService]) -> None:
    """They get their time side by side, then SIGKILL."""
    service = start(config('stop_timeout = "2s"', a=DEAF, b=DEAF, c=DEAF))
    pids = load(service, "a", "b", "c")
    begun = time.monotonic()
    terminate(service)

    assert ends(service)
    assert 2.0 <= time.monotonic() - begun < 6.0  # one after the other they would take 6
    assert not any(map(alive, pids))


def test_a_child_under_sigstop(start: Callable[..., RunningService]) -> None:
    """One that can hear nothing is killed."""
    service = start(config('stop_timeout = "300ms"', a=CHILD))
    (pid,) = load(service, "a")
    os.kill(pid, signal.SIGSTOP)
    terminate(service)

    assert ends(service)
    assert not alive(pid)


@pytest.mark.parametrize("kind", ["deaf", "stop command"])
def test_a_second_signal_kills(start: Callable[..., RunningService], kind: str) -> None:
    """It waits for neither requests nor children, whatever time those were promised."""
    text = config('drain_timeout = "1h"\nstop_timeout = "1h"', a=DEAF)
    service = start(text if kind == "deaf" else f"{text}cmd_stop = {json.dumps(FOR_EVER)}\nunload_timeout = '2s'")
    (pid,) = load(service, "a")
    terminate(service)
    eventually(lambda: refuses(service))
    assert alive(pid)
    service.process.send_signal(signal.SIGTERM)

    assert ends(service)
    assert not alive(pid)


def test_a_third_signal_does_not_even_wait_for_the_dead(start: Callable[..., RunningService]) -> None:
    """Where something cannot be ended, the owner can leave all the same; the exit code says that it was not clean."""
    text = config('drain_timeout = "1h"', a=DEAF)
    service = start(f"{text}cmd_stop = {json.dumps(FOR_EVER)}\nunload_timeout = '1h'")
    (pid,) = load(service, "a")
    terminate(service)
    eventually(lambda: refuses(service))
    service.process.send_signal(signal.SIGTERM)
    eventually(lambda: "without waiting" in log(service))
    eventually(lambda: not alive(pid))
    children = service.children()
    assert service.process.poll() is None
    service.process.send_signal(signal.SIGTERM)

    assert service.process.wait(SOON) == 1
    eventually(lambda: not any(map(alive, children)))


def test_a_second_signal_cuts_every_connection(start: Callable[..., RunningService]) -> None:
    """Requests in flight, those on their way to a child too."""
    service = start(config('drain_timeout = "1h"', fake=FAKE))
    load(service, "fake")
    head = b"POST /upstream/fake/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
    endless = b"GET /upstream/fake/x HTTP/1.1\r\nHost: x\r\nx-do: endless\r\n\r\n"
    with connection(service, head + b"x" * 1_000_000), connection(service, endless), ThreadPoolExecutor() as threads:
        hang = threads.submit(service.http.get, "/upstream/fake/x", headers={"x-do": "hang", "x-name": "one"})
        with child_of(service, "fake") as child:
            eventually(lambda: child.get("/facts/one").json()["started"])
        terminate(service)
        eventually(lambda: refuses(service))
        service.process.send_signal(signal.SIGTERM)

        assert ends(service)
        assert hang.result().status_code == 503


def connections(service: RunningService) -> int:
    """How many connections the service has, beside the one that asks."""
    return sum("socket:" in str(fd.readlink()) for fd in Path(f"/proc/{service.process.pid}/fd").iterdir()) - 1
