"""The service under test: started, killed and started again at one address, and looked at from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from supervisor.runtime.command_lines import free_port
from tests.chaos.oracle import OPTIONS
from tests.conftest import ROOT, eventually

if TYPE_CHECKING:
    from tests.chaos.ledger import Ledger

START_LIMIT = 30.0
END_LIMIT = 20.0
"""Seconds the end may take: `drain_timeout`, `stop_timeout` and the rest of what the config below promises."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What the service holds."""

    files: int
    sockets: int
    tasks: int
    megabytes: float
    kinds: Counter[str]
    """Objects by the name of their class."""

    def is_within(self, before: Measure) -> bool:
        """Whether nothing is open or under way that was not before."""
        return self.sockets <= before.sockets and self.tasks <= before.tasks and self.files <= before.files

    def grown(self, before: Measure, most: int = 5) -> str:
        """What there is more of than before."""
        return ", ".join(f"{name} +{count}" for name, count in (self.kinds - before.kinds).most_common(most))


class Supervised:
    """One service after another in the same place."""

    def __init__(self, folder: Path, binary: Path, ledger: Ledger) -> None:
        self.folder = folder
        self.models = {name: folder / "models" / f"{name}.gguf" for name in ("a", "b", "c", "embed")}
        self.config = folder / "models.toml"
        self.small = folder / "small"
        """The disk that is filled: the cache, the run directory and the store are on it."""
        self.small.mkdir()
        self.url = f"http://127.0.0.1:{free_port()}"
        self.is_up = asyncio.Event()
        self.epoch = 0
        """Counts the ends of the service; a request during which it changes may be cut."""
        self.down_since = 0.0
        self._binary = binary
        self._ledger = ledger
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def write_config(self, *, description: str = "as it was", broken: bool = False) -> None:
        """Write a good config, changed in what does no harm, or a broken one."""
        if broken:
            self.config.write_text("[server]\nmax_loaded = = 1\n")
            return
        options = "".join(
            f"{key.removeprefix('--')} = {json.dumps(int(value) if value.isdecimal() else value)}\n"
            for key, value in zip(OPTIONS[::2], OPTIONS[1::2], strict=True)
        )
        head = '[server]\nmax_loaded = 2\ndrain_timeout = "5s"\nstop_timeout = "2s"\nmax_wait = "5s"\n'
        head += f'store = "{self.small}/activity.db"\nlog_dir = "{self.small}/logs"\n'
        head += f'decision_log = "{self.folder}/decisions.jsonl"\n'
        defaults = '[defaults]\nstall_timeout = "3s"\nload_timeout = "10s"\n'
        text = f'{head}{defaults}binary = "{self._binary}"\n'
        for name in ("a", "b", "embed"):
            extra = "embeddings = true\n" if name == "embed" else ""
            about = f'description = "{description}"\n'
            text += f'[models.{name}]\nmodel = "{self.models[name]}"\n{options}{extra}{about}'
        script = f'setsid sleep 1000 & exec "$0" "$@" -m {self.models["c"]} {" ".join(OPTIONS)} --host 127.0.0.1'
        command = ["sh", "-c", script, str(self._binary), "--port", "${PORT}"]
        # A server that a script starts, with a process that leaves the group and is nobody's child any more.
        text += f'[models.c]\ncmd = {json.dumps(command)}\nstall_timeout = "3s"\nload_timeout = "10s"\n'
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._spawn()
        deadline = time.monotonic() + START_LIMIT
        while not await self._answers():
            assert self._process is not None
            assert self._process.poll() is None, f"the service did not start: {self.log()[-2000:]}"
            assert time.monotonic() < deadline, "the service does not answer"
            await asyncio.sleep(0.02)
        self.is_up.set()

    def _spawn(self) -> None:
        (self.small / "run").mkdir(exist_ok=True)
        environ = {
            **os.environ,
            "RUNTIME_DIRECTORY": str(self.small / "run"),
            "XDG_CACHE_HOME": str(self.small / "cache"),
            "CHAOS_REPORT": str(self.folder / "report.json"),
            "PYTHONPATH": str(ROOT),
        }
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.inside", "-c", self.config, "--listen", self.url.split("/")[-1]],
                stdout=log,
                stderr=log,
                env=environ,
            )

    async def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            async with self.client() as http:
                return (await http.get("/health")).status_code == httpx.codes.OK
        return False

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=60)

    async def end(self, signum: signal.Signals) -> None:
        """SIGKILL or SIGTERM, and wait for the end; nobody is to send anything meanwhile."""
        assert self._process is not None
        self.is_up.clear()
        self.down_since = time.monotonic()
        self.epoch += 1
        self._process.send_signal(signum)
        begun = time.monotonic()
        while self._process.poll() is None:
            if time.monotonic() - begun > END_LIMIT:
                self._ledger.broken.append(f"{signum.name}: the service still ran after {END_LIMIT:.0f} s")
                self._process.kill()
            await asyncio.sleep(0.02)
        if signum is signal.SIGTERM:
            if self._process.returncode != 0:
                self._ledger.broken.append(f"SIGTERM ended the service with {self._process.returncode}")
            self.note_orphans("after SIGTERM")

    async def restart(self, signum: signal.Signals) -> None:
        """End it and start it again; nothing that the old one has started may be left then."""
        old = self.processes()
        await self.end(signum)
        await self.start()
        alive = {pid: name for pid, name in self.processes().items() if pid in old}
        self._note(alive, f"after {signum.name} and a start")

    def note_orphans(self, when: str) -> None:
        """Whatever is left of ours is an orphan now."""
        self._note(self.processes(), when)

    def _note(self, orphans: dict[int, str], when: str) -> None:
        for pid, name in orphans.items():
            self._ledger.orphans.setdefault(pid, f"{name} (pid {pid}) {when}")

    def processes(self) -> dict[int, str]:
        """Everything that the service has started, however indirectly: it alone has our folder in its environment."""
        wanted = f"RUNTIME_DIRECTORY={self.small}/run".encode()
        found = {}
        for path in Path("/proc").iterdir():
            if path.name.isdecimal() and int(path.name) not in {os.getpid(), self.pid}:
                with contextlib.suppress(OSError):
                    if wanted in (path / "environ").read_bytes().split(b"\0"):
                        words = (path / "cmdline").read_bytes().split(b"\0")
                        found[int(path.name)] = " ".join(word.decode() for word in words[:6])
        return found

    def children(self) -> dict[int, str]:
        """The llama-servers among them, and whose model each has loaded."""
        names = {str(path): name for name, path in self.models.items()}
        found = {}
        for pid in self.processes():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if model := next((names[word] for word in words if word in names), None):
                    found[pid] = model
        return found

    def log(self) -> str:
        path = self.folder / "service.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def has_said(self, words: str, *, since: int) -> bool:
        """Whether its log says so behind this place, now or soon."""
        deadline = time.monotonic() + START_LIMIT
        while words not in self.log()[since:]:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def measure(self) -> Measure:
        """What it holds now."""
        return await asyncio.to_thread(self._measured)

    def _measured(self) -> Measure:
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        eventually(report.exists)
        told = json.loads(report.read_text())
        links = [str(fd.readlink()) for fd in Path(f"/proc/{self.pid}/fd").iterdir()]
        status = Path(f"/proc/{self.pid}/status").read_text()
        kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        sockets = sum(link.startswith("socket:") for link in links)
        return Measure(len(links), sockets, len(told["tasks"]), kilobytes / 1024, Counter(told["kinds"]))
