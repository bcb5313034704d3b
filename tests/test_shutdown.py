"""How the service ends, and how it does not begin: signals, crashes, an address that is taken, a wrong config."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import DEADLINE, ROOT, RunningService, alive, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND = Path(sys.executable).parent / "llama-supervise"
DEMO_MODEL = ROOT / "models" / "gemma-3-270m-q4_k_m.gguf"
SIGNALS = pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)


@SIGNALS
def test_idle(start: Callable[..., RunningService], tiny: Path, signum: signal.Signals) -> None:
    """A signal ends an idle service and the processes of its models, with exit code 0."""
    service = start(config(tiny, "max_loaded = 2"))
    pids = []
    for name in ("text", "other"):
        service.chat(name)
        pids.append(service.pid(name))

    assert end(service, signum) == 0
    assert not any(map(alive, pids))


@SIGNALS
def test_while_loading(start: Callable[..., RunningService], tiny: Path, signum: signal.Signals) -> None:
    """Who waits for a load is refused with a 503, and the load ends at once."""
    service = start(config(tiny))
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(service.chat, "sleeper")
        eventually(lambda: has_pid(service, "sleeper"))
        pid = service.pid("sleeper")
        code = end(service, signum)
        refused = waiting.result()

    assert code == 0
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "shutting_down"
    assert not alive(pid)


@SIGNALS
def test_while_answering(start: Callable[..., RunningService], tiny: Path, signum: signal.Signals) -> None:
    """An answer under way comes to its end before the service does."""
    service = start(config(tiny))
    service.chat("text")
    pid = service.pid("text")
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(service.chat, "text", stream=True)
        eventually(lambda: service.model("text")["state"] == "busy")
        service.process.send_signal(signum)
        eventually(lambda: "shutting down" in log(service))
        os.kill(pid, signal.SIGCONT)
        text = answer.result().text

    assert text.endswith("data: [DONE]\n\n")
    assert service.process.wait(10) == 0
    assert not alive(pid)


def test_while_answering_for_too_long(start: Callable[..., RunningService], tiny: Path) -> None:
    """An answer that takes longer than `drain_timeout` is cut, and its client is told so in the stream."""
    service = start(config(tiny, 'drain_timeout = "300ms"'))
    with stream(service) as pieces:
        pid = service.pid("text")
        service.process.send_signal(signal.SIGTERM)
        text = "".join(pieces)

    assert "[DONE]" not in text
    assert json.loads(text.rpartition("data: ")[2])["error"]["message"]
    assert service.process.wait(10) == 0
    assert not alive(pid)


def test_second_signal(start: Callable[..., RunningService], tiny: Path) -> None:
    """A second signal does not wait for answers under way."""
    service = start(config(tiny, 'drain_timeout = "1h"'))
    with stream(service):
        pid = service.pid("text")
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: "shutting down" in log(service))
        code = end(service, signal.SIGTERM)

    assert code == 0
    assert not alive(pid)


def test_while_somebody_follows_a_log(start: Callable[..., RunningService], tiny: Path) -> None:
    """Streams that never end by themselves do not hold the service up."""
    service = start(config(tiny, 'drain_timeout = "1h"'))
    service.chat("text")
    with service.http as http, http.stream("GET", "/logs/stream/text") as answer:
        pieces = answer.iter_text()
        next(pieces)
        code = end(service, signal.SIGTERM)

    assert code == 0


def test_what_a_server_started_itself_ends_too(start: Callable[..., RunningService], tiny: Path) -> None:
    """A wrapper that leaves its own child running is ended with all its group."""
    service = start(config(tiny))
    file = service.directory / "grandchild"
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(service.chat, "family")
        eventually(lambda: file.exists() and file.read_text().endswith("\n"))
        grandchild = int(file.read_text())
        assert alive(grandchild)
        code = end(service, signal.SIGTERM)
        waiting.result()

    assert code == 0
    eventually(lambda: not alive(grandchild))


def test_killed_with_a_model_ready(start: Callable[..., RunningService], tiny: Path, binary: Path) -> None:
    """When the service itself is killed, its ready llama-server does not outlive it."""
    service = start(config(tiny, binary=binary))
    service.chat("text")
    pid = service.pid("text")
    service.process.kill()

    eventually(lambda: not alive(pid))


def test_killed_while_answering(start: Callable[..., RunningService], tiny: Path) -> None:
    """Nor does one that is in the middle of an answer; the client sees the answer break off."""
    service = start(config(tiny))
    with stream(service) as pieces:
        pid = service.pid("text")
        service.process.kill()
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            list(pieces)

    eventually(lambda: not alive(pid))


def test_killed_while_loading(start: Callable[..., RunningService], tiny: Path, binary: Path) -> None:
    """Nor does one that is loading, which listens to nobody."""
    if not DEMO_MODEL.exists():
        pytest.skip("needs the demo model, which takes a second to load")
    service = start(config(tiny, binary=binary))
    with service.http as http:
        http.post("/models/load", json={"model": "large"})
    eventually(lambda: has_pid(service, "large"))
    pid = service.pid("large")
    assert service.model("large")["state"] == "loading"
    service.process.kill()

    eventually(lambda: not alive(pid))


# How it does not begin.


def test_address_taken(tmp_path: Path, tiny: Path) -> None:
    """When somebody else listens there, the service says so and exits 1."""
    (tmp_path / "models.toml").write_text(config(tiny))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = serve(tmp_path, "--listen", f"127.0.0.1:{port}")

    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_config_errors(tmp_path: Path) -> None:
    """Everything wrong with a config is said at once, and nothing is started: exit 2."""
    (tmp_path / "models.toml").write_text("""
        [server]
        max_loaded = "many"
        frobnicate = true
        [models.a]
        model = "a.gguf"
        ttl = "soon"
        [models.b]
        cmd = "server --without-port"
    """)
    ended = serve(tmp_path)

    assert ended.returncode == 2
    for place in ("server.max_loaded", "server.frobnicate", "models.a.ttl", "models.b.cmd"):
        assert f"{place}: " in ended.stderr
    assert "4 problem(s)" in ended.stderr
    assert ended.stdout == ""
    assert list((tmp_path / "run").iterdir()) == []


def test_config_missing_or_no_toml(tmp_path: Path) -> None:
    """A file that cannot be read as TOML is named with the line; so is one that is not there."""
    missing = serve(tmp_path)
    (tmp_path / "models.toml").write_text("[server]\nmax_loaded = = 1\n")
    broken = serve(tmp_path)

    assert (missing.returncode, broken.returncode) == (2, 2)
    assert "models.toml" in missing.stderr
    assert "line 2" in broken.stderr


# What the tests above use.


def config(tiny: Path, server: str = "", *, binary: Path | None = None) -> str:
    """Models that are quick, one that takes its time, and servers that never become ready."""
    family = ["sh", "-c", "sleep 1000 & echo $! > grandchild; wait", "${PORT}"]
    return f"""
        [server]
        {server or "max_loaded = 1"}
        [defaults]
        {f'binary = "{binary}"' if binary else ""}
        [models.text]
        model = "{tiny}/tiny-a.gguf"
        ctx-size = 256
        context-shift = true
        fit = "off"
        threads = 1
        [models.other]
        model = "{tiny}/tiny-b.gguf"
        ctx-size = 256
        fit = "off"
        threads = 1
        [models.large]
        model = "{DEMO_MODEL}"
        [models.sleeper]
        cmd = ["sleep", "1000", "${{PORT}}"]
        [models.family]
        cmd = {json.dumps(family)}
    """


@contextmanager
def stream(service: RunningService) -> Iterator[Iterator[str]]:
    """The pieces of an answer that is still going on."""
    body = {"model": "text", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50_000, "stream": True}
    with service.http as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_text()
        next(pieces)
        yield pieces


def has_pid(service: RunningService, model: str) -> bool:
    """Whether a process of this model has been spawned."""
    process: Any = service.model(model)["process"]
    return process is not None and process["pid"] is not None


def end(service: RunningService, signum: signal.Signals) -> int:
    """Send a signal; the exit code, which must come soon."""
    service.process.send_signal(signum)
    return service.process.wait(10)


def log(service: RunningService) -> str:
    """What the service has logged."""
    return (service.directory / "service.log").read_text()


def serve(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Start the service where that must fail."""
    (folder / "run").mkdir(exist_ok=True)
    return subprocess.run(
        [COMMAND, "-c", folder / "models.toml", *options],
        env={**os.environ, "RUNTIME_DIRECTORY": str(folder / "run")},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


@pytest.mark.parametrize("kind", ["binary", "cmd"])
def test_the_server_behind_a_wrapper_dies_with_a_killed_service(
    start: Callable[..., RunningService], tiny: Path, wheel_binary: Path, tmp_path: Path, kind: str
) -> None:
    """`kill -9` of the service reaches what a wrapper script has started, not the script alone."""
    wrapper = tmp_path / "wrap.sh"
    wrapper.write_text(f'#!/bin/sh\n{wheel_binary} "$@" &\necho $! > {tmp_path}/pid\nwait\n')
    wrapper.chmod(0o755)
    options = {
        "binary": f'binary = "{wrapper}"\nmodel = "{tiny}/tiny-a.gguf"\nctx-size = 256',
        "cmd": f'cmd = "{wrapper} -m {tiny}/tiny-a.gguf -c 256 --host 127.0.0.1 --port ${{PORT}}"',
    }
    service = start(f"[models.wrapped]\n{options[kind]}\n")
    assert service.chat("wrapped").status_code == 200
    server = int((tmp_path / "pid").read_text())
    assert alive(server)

    service.process.kill()

    eventually(lambda: not alive(server))
