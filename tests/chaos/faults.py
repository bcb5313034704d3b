"""What is broken while the clients ask. Each fault writes down what it does before it does it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    Breaks = Callable[[], Awaitable[None]]

    from tests.chaos.ledger import Ledger
    from tests.chaos.supervised import Supervised

SMALL = "1m"
"""The size of the disk that is filled."""


class Faults:
    """One fault after another, chosen by the seed."""

    def __init__(
        self, supervised: Supervised, ledger: Ledger, choice: random.Random, say: Callable[[str], None]
    ) -> None:
        self.supervised = supervised
        self.ledger = ledger
        self._choice = choice
        self._is_small = _mount(supervised)
        if not self._is_small:
            say("no tmpfs can be mounted here: the disk is filled by RLIMIT_FSIZE")

    async def run(self, seconds: float) -> None:
        """Break something every now and then, for so long; in the end everything is mended."""
        every: list[tuple[Breaks, int]] = [
            (self.kill_child, 4),
            (self.stop_child, 1),
            (self.crash_child, 2),
            (self.delete_model, 2),
            (self.fill_disk, 2),
            (self.reload_good, 1),
            (self.reload_bad, 1),
            (self.unload, 3),
        ]
        ends: list[tuple[Breaks, int]] = [(self.kill_supervisor, 2), (self.end_supervisor, 1)]
        begun = time.monotonic()
        coming = self._shuffled(every) + self._shuffled(ends)  # each once, from the end, whatever the seed
        while (passed := time.monotonic() - begun) < seconds:
            # The last service lives for half of the time, or nobody would see what it leaks.
            faults, weights = zip(*(every + ends if passed < seconds / 2 else every), strict=True)
            fault = coming.pop() if coming else self._choice.choices(faults, weights)[0]
            await fault()
            await asyncio.sleep(self._choice.uniform(0.3, 1.5))

    def _shuffled(self, weighted: list[tuple[Breaks, int]]) -> list[Breaks]:
        faults = [fault for fault, _ in weighted]
        self._choice.shuffle(faults)
        return faults

    def close(self) -> None:
        """Take the small disk away."""
        if self._is_small:
            subprocess.run(["umount", "-l", self.supervised.small], check=False)

    # Children.

    async def kill_child(self) -> None:
        await self._signal_child("kill -9", signal.SIGKILL)

    async def crash_child(self) -> None:
        await self._signal_child("kill -SEGV", signal.SIGSEGV)

    async def stop_child(self) -> None:
        await self._signal_child("kill -STOP", signal.SIGSTOP)

    async def _signal_child(self, kind: str, signum: signal.Signals) -> None:
        children = self.supervised.children()
        if children:
            pid, model = self._choice.choice(sorted(children.items()))
            self.ledger.fault(kind, model)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    async def unload(self) -> None:
        self.ledger.fault("unload")
        force = self._choice.random() < 0.5
        names = [*self.supervised.models, None]
        async with self.supervised.client() as http:
            name = self._choice.choice(names)
            with contextlib.suppress(httpx.HTTPError):
                if name is None:
                    await http.post("/api/models/unload")
                else:
                    await http.post("/models/unload", json={"model": name, "force": force})

    # Files.

    async def delete_model(self) -> None:
        name = self._choice.choice(sorted(self.supervised.models))
        path = self.supervised.models[name]
        away = path.with_suffix(".away")
        self.ledger.fault("delete a model", name)
        path.rename(away)
        await asyncio.sleep(self._choice.uniform(0.5, 2))
        away.rename(path)
        self.ledger.still("delete a model", name)

    async def fill_disk(self) -> None:
        """No byte more for the cache, the run directory and whatever else is written."""
        self.ledger.fault("fill the disk")
        pause = self._choice.uniform(1, 3)
        if self._is_small:
            waste = self.supervised.small / "waste"
            with contextlib.suppress(OSError), waste.open("wb") as file:
                while True:
                    file.write(b"x" * 4096)
                    file.flush()
            await asyncio.sleep(pause)
            waste.unlink()
            return
        pid = self.supervised.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
        await asyncio.sleep(pause)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    # The config.

    async def reload_good(self) -> None:
        self.supervised.write_config(description=f"number {self._choice.randrange(10**6)}")
        await self._reload("the config has been reloaded")

    async def reload_bad(self) -> None:
        self.supervised.write_config(broken=True)
        await self._reload("the config has not been reloaded")
        self.supervised.write_config()

    async def _reload(self, outcome: str) -> None:
        """Ask for one, and wait until the log tells what became of it."""
        self.ledger.fault("reload")
        before = len(self.supervised.log())
        os.kill(self.supervised.pid, signal.SIGHUP)
        if not await self.supervised.has_said(outcome, since=before):
            self.ledger.broken.append(f"after a SIGHUP the log does not say that {outcome}")

    # The supervisor itself.

    async def kill_supervisor(self) -> None:
        self.ledger.fault("kill -9 of the supervisor")
        await self.supervised.restart(signal.SIGKILL)

    async def end_supervisor(self) -> None:
        self.ledger.fault("SIGTERM")
        await self.supervised.restart(signal.SIGTERM)


def _mount(supervised: Supervised) -> bool:
    argv = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "chaos", supervised.small]
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
