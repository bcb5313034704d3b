"""However the service ends, and whatever its children do: nothing of it is left once it has ended, or started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from supervisor.runtime.marks import MARK, carriers
from tests.conftest import ROOT, alive, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import RunningService

CHILD = ROOT / "tests" / "runtime" / "server_child.py"
RUNAWAY = """
import os, subprocess, sys
port, note = sys.argv[1:]
away = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"], start_new_session=True)
open(note, "a").write(f"{away.pid}\\n")
os.execv(sys.executable, [sys.executable, "-S", %r, "--port", port])
"""


@pytest.fixture
def runtime() -> Iterator[dict[str, str]]:
    """A run directory whose path is short enough, shared by the services of a test."""
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as folder:
        yield {"RUNTIME_DIRECTORY": folder}


def config(note: Path, *, stop: list[str] | None = None) -> str:
    """A server that starts a process in a session of its own, out of reach of signals to its group."""
    cmd = [sys.executable, "-S", "-c", RUNAWAY % str(CHILD), "${PORT}", str(note)]
    return f"""
        [models.family]
        cmd = {json.dumps(cmd)}
        {f"cmd_stop = {json.dumps(stop)}" if stop else ""}
    """


def loaded(service: RunningService, note: Path) -> list[int]:
    """Load its model; the pids of the server and of the process it has started."""
    with service.http as http:
        assert http.post("/models/load", json={"model": "family"}).status_code == 200
    eventually(lambda: service.model("family")["state"] == "ready")
    return [service.pid("family"), int(note.read_text().split()[-1])]


def log(service: RunningService) -> str:
    return (service.directory / "service.log").read_text()


@pytest.mark.parametrize("how", ["unload", "crash", "SIGTERM"])
def test_what_left_the_group_of_a_model_ends_with_it(
    start: Callable[..., RunningService], runtime: dict[str, str], tmp_path: Path, how: str
) -> None:
    """At an unload, a crash and the end of the service, though no signal to the group reaches it."""
    service = start(config(tmp_path / "note"), env=runtime)
    server, away = loaded(service, tmp_path / "note")
    if how == "unload":
        with service.http as http:
            http.post("/models/unload", json={"model": "family"})
    elif how == "crash":
        os.kill(server, signal.SIGKILL)
    else:
        assert service.stop() == 0
        assert not alive(away)
    eventually(lambda: not alive(server) and not alive(away))
    eventually(lambda: f"ended pid {away}, which pid {server} had left behind" in log(service))


def test_a_killed_service_is_tidied_up_after_by_the_next(
    start: Callable[..., RunningService], runtime: dict[str, str], tmp_path: Path
) -> None:
    """What outlives `kill -9` is ended before the next service listens, containers are stopped, sockets removed."""
    note, stopped = tmp_path / "note", tmp_path / "stopped"
    text = config(note, stop=["touch", str(stopped)])
    first = start(text, env=runtime)
    _, away = loaded(first, note)
    first.process.kill()
    first.process.wait()
    assert alive(away)
    assert len(list(Path(runtime["RUNTIME_DIRECTORY"]).iterdir())) == 1

    second = start(text, env=runtime)

    assert not alive(away)
    assert stopped.exists()
    assert len(list(Path(runtime["RUNTIME_DIRECTORY"]).iterdir())) == 1
    (line,) = re.findall(r".*a service before this one.*", log(second))
    assert f"(pid {first.process.pid}) did not end well: ended family (pid {away})" in line
    assert f"ran `touch {stopped}`" in line


def test_two_services_side_by_side(
    start: Callable[..., RunningService], runtime: dict[str, str], tmp_path: Path
) -> None:
    """Neither a start nor an end touches what another service of the same user runs."""
    first = start(config(tmp_path / "one"), env=runtime)
    ones = loaded(first, tmp_path / "one")
    second = start(config(tmp_path / "two"), env=runtime)
    twos = loaded(second, tmp_path / "two")
    assert all(map(alive, ones))
    assert second.stop() == 0

    assert all(map(alive, ones))
    assert not any(map(alive, twos))
    assert "did not end well" not in log(second)


def test_all_children_have_marks_of_their_own(
    start: Callable[..., RunningService], runtime: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    """llama-servers too: one token for each service, and the number of the run."""
    service = start(f'[models.text]\nmodel = "{tiny}/tiny-a.gguf"\nctx-size = 256', env=runtime)
    assert service.chat("text").status_code == 200
    environ = Path(f"/proc/{service.pid('text')}/environ").read_bytes().split(b"\0")
    (mark,) = [each.decode() for each in environ if each.startswith(MARK.encode())]
    token, _, run = mark.removeprefix(f"{MARK}=").partition(".")

    assert len(token) == 32
    assert run == "1"
    assert [carrier.pid for carrier in carriers(f"{token}.")] == [service.pid("text")]


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="only root can make a pid namespace")
def test_as_the_first_process_of_a_container(runtime: dict[str, str], tmp_path: Path) -> None:
    """As PID 1 it reaps what others leave to it, ends on SIGTERM with 0, and all is gone."""
    orphan = "setsid sh -c 'setsid sh -c \"sleep 0.5; exit 3\" & exit' &"
    cmd = ["sh", "-c", f'{orphan} exec {sys.executable} -S {CHILD} --port "$1"', "sh", "${PORT}"]
    (tmp_path / "models.toml").write_text(f"[models.family]\ncmd = {json.dumps(cmd)}")
    program = Path(sys.executable).parent / "llama-supervise"
    argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", program, "-c", tmp_path / "models.toml"]
    with (tmp_path / "log").open("w") as log:
        outer = subprocess.Popen(
            [*argv, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **runtime},
        )
    try:
        assert outer.stdout is not None
        url = next(line.split()[-1] for line in outer.stdout if line.startswith("listening on"))
        (inner,) = _children(outer.pid)
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
            http.post("/models/load", json={"model": "family"})
            eventually(lambda: http.get("/status").json()["models"][0]["state"] == "ready")
        eventually(lambda: [pid for pid in _children(inner) if not alive(pid)])
        eventually(lambda: not [pid for pid in _children(inner) if not alive(pid)], within=10.0)
        os.kill(inner, signal.SIGTERM)
        assert outer.wait(20) == 0
    finally:
        outer.kill()
        outer.wait()
        outer.stdout.close()  # type: ignore[union-attr]


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
