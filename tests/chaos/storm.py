"""A whole run: the answers beforehand, the storm, calm, and the account."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.clients import Customer
from tests.chaos.faults import Faults
from tests.chaos.ledger import Ledger
from tests.chaos.oracle import questions
from tests.chaos.supervised import Measure, Supervised

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.oracle import Question

ROOT = Path(__file__).parents[2]
CLIENTS = 16
RECOVERY = 90.0
"""Seconds in which every model has to serve again once nothing is broken any more."""
QUIET = 10.0
"""Seconds after which what has not been closed is a leak."""
MEGABYTES = 24
"""Growth that is no leak: rings of logs, the record and samples that fill, and what is not worth giving back."""
FEW = 2
"""File descriptors that may be open for a moment."""


async def storm(models: Path, binary: Path, *, seconds: float, seed: int, say: Callable[[str], None]) -> Ledger:
    """Run it; `models` is the folder of the tiny models."""
    ledger = Ledger()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as name:
        supervised = Supervised(Path(name), binary, ledger)
        _copy(models, supervised)
        asked = await asyncio.to_thread(questions, binary, supervised.models, seed=seed)
        choice = random.Random(seed)
        faults = Faults(supervised, ledger, choice, say)
        try:
            await _weather(faults, asked, choice, seconds, say)
        except Exception as exc:  # what goes wrong with our own requests is a finding, too, and the account comes first
            traceback.print_exc()
            ledger.broken.append(f"the run ended early: {type(exc).__name__} {exc}")
        finally:
            if supervised.is_up.is_set():
                await supervised.end(signal.SIGTERM)
            faults.close()
            await _replay(supervised, ledger)
            if not ledger.is_clean:
                kept = Path(tempfile.gettempdir()) / f"chaos-{seed}.log"
                shutil.copyfile(supervised.folder / "service.log", kept)
                say(f"the service's log is kept in {kept}")
    return ledger


async def _replay(supervised: Supervised, ledger: Ledger) -> None:
    """Every decision of every service there was, taken again."""
    log = supervised.folder / "decisions.jsonl"
    argv = [sys.executable, ROOT / "scripts" / "replay", log]
    replay = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = await replay.communicate()
    if replay.returncode != 0:
        ledger.broken.append(f"the decision log does not replay: {said.decode()[-2000:]}")


async def _weather(
    faults: Faults, asked: list[Question], choice: random.Random, seconds: float, say: Callable[[str], None]
) -> None:
    supervised, ledger = faults.supervised, faults.ledger
    supervised.write_config()
    await supervised.start()
    fresh = await supervised.measure()
    await _all_served(supervised, ledger, asked, choice)
    before = await _at_rest(supervised, fresh)
    say(f"{len(asked)} questions, {CLIENTS} clients, {seconds:.0f} s")
    customers = [Customer(supervised, ledger, asked, random.Random(choice.random())) for _ in range(CLIENTS)]
    async with asyncio.TaskGroup() as tasks:
        for customer in customers:
            tasks.create_task(customer.run())
        await faults.run(seconds)
        for customer in customers:
            customer.stopped.set()
    await _all_served(supervised, ledger, asked, choice)
    after = await _at_rest(supervised, before)
    _compare(before, after, ledger, say)


async def _all_served(supervised: Supervised, ledger: Ledger, asked: list[Question], choice: random.Random) -> None:
    """Once nothing is broken, every model has to serve again."""
    customer = Customer(supervised, ledger, asked, choice)
    deadline = time.monotonic() + RECOVERY
    async with supervised.client() as http:
        for model in supervised.models:
            question = next(each for each in asked if each.model == model)
            while not await customer.ask(http, question):
                if time.monotonic() > deadline:
                    ledger.broken.append(f"{model} does not serve, {RECOVERY:.0f} s after everything was mended")
                    return
                await asyncio.sleep(0.5)


async def _at_rest(supervised: Supervised, earlier: Measure) -> Measure:
    """What it holds without models, once that is no more than it was, or will not be less any more."""
    async with supervised.client() as http:
        (await http.post("/api/models/unload")).raise_for_status()
    deadline = time.monotonic() + RECOVERY
    while supervised.children():
        assert time.monotonic() < deadline, "models were unloaded, and their processes stay"
        await asyncio.sleep(0.1)
    deadline = time.monotonic() + QUIET
    while True:
        measure = await supervised.measure()
        if measure.is_within(earlier) or time.monotonic() > deadline:
            return measure
        await asyncio.sleep(0.1)


def _compare(before: Measure, after: Measure, ledger: Ledger, say: Callable[[str], None]) -> None:
    for name in ("files", "sockets", "tasks", "megabytes"):
        was, now = getattr(before, name), getattr(after, name)
        say(f"{name:10} {was:10.0f} before, {now:10.0f} after")
        limit = {"files": FEW, "sockets": 0, "tasks": 0, "megabytes": MEGABYTES}.get(name)
        if limit is not None and now - was > limit:
            ledger.leaks.append(f"{name}: {was:.0f} before, {now:.0f} after")
    say(f"objects    {before.kinds.total():10} before, {after.kinds.total():10} after: {after.grown(before)}")


def _copy(models: Path, supervised: Supervised) -> None:
    """Each model is a file of its own, for they are deleted one by one."""
    (supervised.folder / "models").mkdir()
    for name, source in {"a": "tiny-a", "b": "tiny-b", "c": "tiny-a", "embed": "tiny-embed"}.items():
        shutil.copyfile(models / f"{source}.gguf", supervised.models[name])
