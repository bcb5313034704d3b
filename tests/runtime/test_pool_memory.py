"""The pool on a machine with two GPUs: where models go, who leaves, and what a slow driver does to a swap."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from supervisor.config.values import Memory
from supervisor.errors import CannotFit, ModelFailed
from supervisor.fleet.decisions import Kind
from supervisor.fleet.memory import Device, Footprint, Source
from supervisor.llama.diagnosis import Diagnosis, report
from supervisor.runtime.pool import Pool
from tests.runtime.test_pool import ScriptedLauncher, config
from tests.scripted_readings import ScriptedReadings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from supervisor.config.values import Model
    from supervisor.errors import Failure
    from supervisor.runtime.live import Lease, LiveRun

pytestmark = pytest.mark.anyio

G = 2**30
DEVICES = Device("CUDA0", "large", 24 * G), Device("CUDA1", "small", 12 * G)
OUT_OF_MEMORY = Diagnosis("out_of_device_memory", "there is too little", "take less", permanent=False)


class GpuLauncher(ScriptedLauncher):
    """Children that are ready at once and occupy what the test says on the device they were put on."""

    def __init__(self, readings: ScriptedReadings, **takes: int) -> None:
        super().__init__()
        self.ledger = SimpleNamespace(on_change=[], readings=readings)
        self.takes = takes
        self.holds_on = False
        """Whether devices are slow to give back what a child held."""
        self.refuses: set[str] = set()
        """Models whose next start runs out of memory."""
        self.placed: dict[str, tuple[str, ...]] = {}
        self._readings = readings
        self._pids = count(1)

    async def check(self, model: Model) -> Failure | None:
        footprint = Footprint({"CUDA0": self.takes[model.id] * G}, source=Source.MEASURED)
        for tell in self.ledger.on_change:
            tell(model.id, footprint)
        return None

    async def run(self, live: LiveRun, on_ready: Callable[[], None]) -> Failure | None:
        name, pid = live.model.id, next(self._pids)
        self.started.append(name)
        self.placed[name] = live.devices
        if name in self.refuses:
            self.refuses.remove(name)
            return report(name, OUT_OF_MEMORY)
        live.child = SimpleNamespace(pid=pid, force=lambda: None)  # type: ignore[assignment]
        self._readings.occupy(pid, **dict.fromkeys(live.devices, self.takes[name] * G // max(len(live.devices), 1)))
        self.ready[name] = on_ready
        self.running[name] = asyncio.get_running_loop().create_future()
        on_ready()
        try:
            return await self.running[name]
        finally:
            self.ended.append(name)
            if not self.holds_on:
                self._readings.give_back(pid)


@contextlib.asynccontextmanager
async def a_pool(folder: Path, **takes: int) -> AsyncIterator[tuple[Pool, GpuLauncher, ScriptedReadings]]:
    readings = ScriptedReadings(folder, *DEVICES)
    launcher = GpuLauncher(readings, **takes)
    settings = replace(config(*takes, max_loaded=None), memory=Memory(reserve=0))
    async with Pool(settings, launcher) as pool:  # type: ignore[arg-type]
        await pool.checked.wait()
        yield pool, launcher, readings


async def use(pool: Pool, name: str) -> None:
    with await pool.lease(name):
        pass


def kinds(pool: Pool) -> list[Kind]:
    return [each.decision.kind for each in pool.decisions]


async def test_models_go_where_they_fit_best(tmp_path: Path) -> None:
    """The small one to the small device; so the large one fits beside it, and nobody leaves."""
    async with a_pool(tmp_path, small=10, large=22) as (pool, launcher, _):
        await use(pool, "small")
        await use(pool, "large")

        assert launcher.placed == {"small": ("CUDA1",), "large": ("CUDA0",)}
        assert launcher.ended == []


async def test_model_too_large_for_one_device_is_split(tmp_path: Path) -> None:
    """It is told nothing, for llama-server splits by itself; and everybody else leaves for it."""
    async with a_pool(tmp_path, small=4, huge=34) as (pool, launcher, _):
        await use(pool, "small")
        await use(pool, "huge")

        assert launcher.placed["huge"] == ()
        assert launcher.ended == ["small"]


async def test_model_larger_than_all_devices_together_is_refused(tmp_path: Path) -> None:
    """Where the number of layers is fixed; otherwise the processor gets what is left."""
    async with a_pool(tmp_path, whole=40) as (pool, launcher, _):
        model = replace(pool.config.models["whole"], options={"n-gpu-layers": 99})
        pool.adopt(replace(pool.config, models={"whole": model}))
        await use_when_looked_at(pool)
        with pytest.raises(CannotFit, match=r"needs .* GiB on CUDA0"):
            await use(pool, "whole")

        assert launcher.started == []


async def use_when_looked_at(pool: Pool) -> None:
    """The machine has been asked; before, nobody knows how large it is."""
    with contextlib.suppress(CannotFit):
        await use(pool, next(iter(pool.config.models)))


async def test_start_that_runs_out_of_memory_is_tried_once_more(tmp_path: Path) -> None:
    """The books said that it fits: another one leaves, and the client who waits never hears of it."""
    async with a_pool(tmp_path, a=20, b=6) as (pool, launcher, _):
        await use(pool, "a")
        launcher.refuses.add("b")
        await use(pool, "b")

        assert launcher.started == ["a", "b", "b"]
        assert launcher.ended == ["a"]
        assert Kind.RETRIED in kinds(pool)


async def test_start_that_runs_out_of_memory_goes_where_there_is_more(tmp_path: Path) -> None:
    """Nobody leaves as long as another device has room."""
    async with a_pool(tmp_path, a=6, b=6) as (pool, launcher, _):
        await use(pool, "a")
        launcher.refuses.add("b")
        await use(pool, "b")

        assert launcher.placed == {"a": ("CUDA1",), "b": ("CUDA0",)}
        assert launcher.ended == []


async def test_start_that_runs_out_of_memory_in_an_empty_house_tries_the_other_device(tmp_path: Path) -> None:
    """It was put where it fits best by a number that was wrong; there is a larger one."""
    async with a_pool(tmp_path, a=6) as (pool, launcher, _):
        launcher.refuses.add("a")
        await use(pool, "a")

        assert launcher.started == ["a", "a"]
        assert launcher.placed == {"a": ("CUDA0",)}


async def test_start_that_runs_out_of_memory_on_all_devices_fails(tmp_path: Path) -> None:
    """There is nobody whose leaving would help, and nowhere else to go."""
    async with a_pool(tmp_path, a=34) as (pool, launcher, _):
        launcher.refuses.add("a")
        with pytest.raises(ModelFailed):
            await use(pool, "a")

        assert launcher.started == ["a"]


async def test_memory_that_comes_back_late_is_waited_for(tmp_path: Path) -> None:
    """The next one starts once the device says so, and nobody else had to leave for it."""
    async with a_pool(tmp_path, a=22, b=22, c=10) as (pool, launcher, readings):
        await use(pool, "c")
        await use(pool, "a")
        launcher.holds_on = True
        async with anyio.create_task_group() as tasks:
            leases: list[Lease] = []

            async def lease() -> None:
                leases.append(await pool.lease("b"))

            tasks.start_soon(lease)
            while launcher.ended != ["a"] or pool.fleet.books.read_at < pool.fleet.books.freed_at:
                await anyio.lowlevel.checkpoint()
            assert launcher.started == ["c", "a"]
            readings.give_back(2)
        leases.pop().give_back()

        assert launcher.started == ["c", "a", "b"]
        assert launcher.ended == ["a"]
