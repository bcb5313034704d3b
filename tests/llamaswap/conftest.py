"""llama-supervise started as a llama-swap user starts it, with journaling children, and nothing left behind.

In the configs of these tests `<child>` is the command line of `child.py` with the model's port and id, `<stopper>` that
of one as a `cmdStop`, and `<dir>` the directory of the config; within braces they need quotes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.conftest import DEADLINE, RunningService, alive, eventually
from tests.llamaswap.children import CHILD, Server, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from websockets.sync.client import ClientConnection

COMMAND = Path(sys.executable).parent / "llama-supervise"
PATIENCE = 3.0
"""Seconds a service gets to end by itself when its test has ended."""


class Events:
    """The messages of `/api/events`, decoded twice."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def next(self) -> tuple[str, Any]:
        """The kind and the data of the next message."""
        text = next(line for line in self._lines if line.startswith("data:")).removeprefix("data:")
        message = json.loads(text)
        return message["type"], json.loads(message["data"])

    def until(self, kind: str, fact: Callable[[Any], object] = lambda _: True) -> Any:
        """The data of the first message of this kind of which the fact is true."""
        while True:
            found, data = self.next()
            if found == kind and fact(data):
                return data


@dataclass
class Swap(RunningService):
    """The service, and what its children wrote into their journal."""

    start_port: int = 0
    client: httpx.Client = field(default_factory=httpx.Client)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(64))

    def journal(self) -> list[dict[str, Any]]:
        path = self.directory / "journal"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def starts(self, model: str) -> list[dict[str, Any]]:
        """The starts of a model's processes."""
        return [entry for entry in self.journal() if entry["event"] == "start" and entry["model"] == model]

    def child(self, model: str) -> Server:
        """The newest process of a model, which may not listen yet."""
        eventually(lambda: self.starts(model))
        return Server(self.starts(model)[-1]["port"])

    def child_pid(self, model: str) -> int:
        return int(self.starts(model)[-1]["pid"])

    def running(self) -> dict[str, str]:
        """The states of the running models, as /running tells them."""
        return {row["model"]: row["state"] for row in self.client.get("/running").json()["running"]}

    def stdout(self) -> str:
        return (self.directory / "stdout").read_text(errors="replace")

    def stderr(self) -> str:
        return (self.directory / "stderr").read_text(errors="replace")

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.client.post(path, **options)

    def socket(self, path: str, **options: Any) -> ClientConnection:
        """A websocket that a client has opened."""
        options = {"proxy": None, "open_timeout": DEADLINE, "close_timeout": DEADLINE, **options}
        socket: ClientConnection = connect(self.url.replace("http:", "ws:") + path, **options)
        return socket

    def ask(
        self,
        model: str,
        *,
        path: str = "/v1/chat/completions",
        do: str = "echo",
        name: str = "",
        headers: dict[str, str] | None = None,
        **fields: object,
    ) -> httpx.Response:
        """A JSON request; `do` tells the child what to do, and `name` by what to remember it."""
        told = {"x-do": do, "x-name": name, **(headers or {})}
        return self.client.post(path, json={"model": model, **fields}, headers=told)

    def later(self, call: Callable[..., httpx.Response], *args: Any, **options: Any) -> Future[httpx.Response]:
        return self.threads.submit(call, *args, **options)

    def hold(self, model: str, name: str, *, of: str | None = None, **options: Any) -> Future[httpx.Response]:
        """A request that its child has and keeps until `go`; `of` is the model's id where `model` is another name."""
        held = self.later(self.ask, model, do="hold", name=name, **options)
        self.await_start(of or model, name)
        return held

    def await_start(self, model: str, name: str, count: int = 1) -> None:
        """Wait until a model's child has so many requests of this name."""

        def has_started() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return bool(self.child(model).facts(name)["started"] == count)
            return False

        eventually(has_started)

    @contextlib.contextmanager
    def events(self, **options: Any) -> Iterator[Events]:
        with self.client.stream("GET", "/api/events", **options) as response:
            assert response.status_code == 200
            yield Events(response.iter_lines())


@contextlib.contextmanager
def following(swap: Swap, path: str) -> Iterator[Callable[[str], str]]:
    """A log that is read until a text comes; gives back all of it so far."""
    with swap.client.stream("GET", path) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain")
        pieces, got = response.iter_text(), ""

        def until(text: str) -> str:
            nonlocal got
            while text not in got:
                got += next(pieces)
            return got

        yield until


def seen(response: httpx.Response) -> dict[str, Any]:
    """The request as the child saw it; headers by their names in small letters, of several the last."""
    assert response.status_code == 200, response.text
    echo: dict[str, Any] = response.json()
    return {**echo, "headers": {name.lower(): value for name, value in echo["headers"]}}


def sent(response: httpx.Response) -> Any:
    """The JSON body that the child saw."""
    return json.loads(seen(response)["body"])


def written(text: str, directory: Path, start_port: int) -> str:
    """The config as it stands in the file."""
    program = f"{sys.executable} {CHILD} --journal {directory}/journal"
    known = {
        "<child>": f"{program} --id ${{MODEL_ID}} --port ${{PORT}}",
        "<stopper>": f"{program} --stop ${{PID}}",
        "<dir>": str(directory),
    }
    for name, value in known.items():
        text = text.replace(name, value)
    return text if "startPort:" in text else f"startPort: {start_port}\n{text}"


def run_command(directory: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command with these arguments, of which it is expected that it ends by itself."""
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, cwd=directory, timeout=DEADLINE, check=False
    )


@contextlib.contextmanager
def running_command(directory: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> Iterator[Swap]:
    """Start the command; on leaving, its processes are gone."""
    runtime = directory / "run"
    runtime.mkdir(exist_ok=True)
    with (directory / "stdout").open("w") as stdout, (directory / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [COMMAND, *arguments, "-listen", "127.0.0.1:0"],
            stdout=stdout,
            stderr=stderr,
            text=True,
            cwd=directory,
            env={**os.environ, "RUNTIME_DIRECTORY": str(runtime), **(env or {})},
        )
    swap = Swap(process, "", directory)
    try:
        swap.url = _url_of(swap)
        swap.client = httpx.Client(
            base_url=swap.url, timeout=DEADLINE, trust_env=False, verify=False, limits=httpx.Limits()
        )
        yield swap
    finally:
        _end(swap)
    assert "Traceback" not in swap.stderr()
    if process.returncode == 0:
        assert list(runtime.iterdir()) == []


def _url_of(swap: Swap) -> str:
    def announced() -> list[str]:
        assert swap.process.poll() is None, swap.stderr()
        return [line.split()[-1] for line in swap.stdout().splitlines() if line.startswith("listening on")]

    eventually(announced)
    return announced()[0]


def _end(swap: Swap) -> None:
    """End the service, by force if a request still holds it; no process may stay."""
    for _ in range(2):
        if swap.process.poll() is None:
            swap.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                swap.process.wait(PATIENCE)
    if forced := swap.process.poll() is None:
        swap.process.kill()
        swap.process.wait()
    swap.client.close()
    swap.threads.shutdown()
    pids = [entry.get("child", entry["pid"]) for entry in swap.journal() if entry["event"] in {"start", "grandchild"}]
    try:
        eventually(lambda: not any(map(alive, pids)))
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)
    assert not forced, "the service did not end"


@contextlib.contextmanager
def running_swap(directory: Path, text: str, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Swap]:
    """`llama-supervise -config config.yaml -listen 127.0.0.1:0` and these arguments."""
    directory.mkdir(exist_ok=True)
    start_port = free_ports()
    (directory / "config.yaml").write_text(written(text, directory, start_port))
    with running_command(directory, "-config", directory / "config.yaml", *arguments, env=env) as swap:
        swap.start_port = start_port
        yield swap


@pytest.fixture
def start_swap(tmp_path: Path) -> Iterator[Callable[..., Swap]]:
    """Start services that end with the test."""
    with contextlib.ExitStack() as stack:
        count = 0

        def start_one(text: str, *arguments: str, **options: Any) -> Swap:
            nonlocal count
            count += 1
            return stack.enter_context(running_swap(tmp_path / f"swap{count}", text, *arguments, **options))

        yield start_one
