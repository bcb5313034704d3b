"""The ledger: estimated, then measured, then known after a restart; and who is told of it."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from supervisor.config.values import Model
from supervisor.fleet.memory import HOST, Device, Footprint, Source
from supervisor.fleet.values import Phase, Run, RunId
from supervisor.llama.command import Surroundings
from supervisor.llama.flags import parse_help
from supervisor.llama.preflight import Inspection, Inspector
from supervisor.runtime.ledger import BUSY_AGAIN, Ledger, is_due
from supervisor.runtime.live import LiveRun
from supervisor.runtime.process_memory import memory_of
from tests.scripted_readings import ScriptedReadings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.anyio

MIB = 2**20
GPU = "  CUDA0: a card (24000 MiB, 23000 MiB free)"
CARD = Device("CUDA0", "a card", 24000 * MIB, "GPU-a", "0000:01:00.0")
MACHINE = Device(HOST, "memory", 64000 * MIB)
HELP = parse_help("-c,    --ctx-size N                     size of the prompt context\n")


@dataclass
class Scene:
    """A model of a llama-server that lists these devices, on a machine that a test scripts."""

    base: Path
    tiny: Path
    devices: str = ""
    told: list[tuple[str, Footprint]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.binary = self.base / "llama-server"
        self.binary.write_text(f"#!/bin/sh\ncat {self.base}/devices\n")
        self.binary.chmod(0o755)
        (self.base / "devices").write_text(f"Available devices:\n{self.devices}\n")
        (self.base / "readings").mkdir(exist_ok=True)
        self.readings = ScriptedReadings(self.base / "readings", MACHINE, *([CARD] if self.devices else []))
        self.model = Model(id="m", options={"model": str(self.tiny / "tiny-a.gguf")}, binary=str(self.binary))

    def service(self, *, again: float = 0.0) -> Ledger:
        """The ledger of a service that has just started; it looks for what is new whenever the loop turns."""
        around = Surroundings(self.base, self.base, {"PATH": "/usr/bin:/bin"}, self.base / "private")
        self.inspector = Inspector(around, cache_dir=None)
        ledger = Ledger(self.inspector, readings=self.readings, cache_dir=self.base / "cache", again=again)
        ledger.on_change.append(lambda model, footprint: self.told.append((model, footprint)))
        return ledger

    async def look(self, ledger: Ledger, model: Model | None = None) -> Footprint | None:
        """What the ledger knows after a look at the model."""
        model = model or self.model
        await ledger.look(model, await self.inspection(model))
        return ledger.footprint(model.id)

    async def inspection(self, model: Model) -> Inspection:
        found = await self.inspector.inspect(model)
        return replace(found, problems=(), binary=self.binary, catalogue=HELP)


@pytest.fixture
def scene(tmp_path: Path, tiny: Path) -> Scene:
    return Scene(tmp_path, tiny)


@pytest.fixture
def with_gpu(tmp_path: Path, tiny: Path) -> Scene:
    return Scene(tmp_path, tiny, GPU)


def running(model: Model, *lines: str, argv: tuple[str, ...] = ("--fit", "off")) -> LiveRun:
    """A run whose process is ours, and which has said this while it loaded."""
    live = LiveRun(Run(RunId(1), model, Phase.STARTING, 0.0, 0.0))
    live.child = SimpleNamespace(pid=os.getpid(), command=SimpleNamespace(argv=argv))  # type: ignore[assignment]
    for line in lines:
        live.heard.listen(line)
    return live


class Following:
    """A run that is being measured."""

    def __init__(self, scene: Scene, ledger: Ledger, live: LiveRun) -> None:
        self._scene, self._ledger, self._live = scene, ledger, live

    async def __aenter__(self) -> Following:
        self._tasks = await anyio.create_task_group().__aenter__()
        ready = anyio.Event()
        ready.set()
        inspection = await self._scene.inspection(self._live.model)
        self._tasks.start_soon(self._ledger.follow, self._live, inspection, ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)


def more(size: int) -> mmap.mmap:
    """So much more memory for our process, past what it may have lying around unused."""
    held = mmap.mmap(-1, size)
    for place in range(0, size, mmap.PAGESIZE):
        held[place] = 1
    return held


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact."""
    with anyio.fail_after(30):
        while not fact():  # noqa: ASYNC110 - it becomes true in threads too
            await anyio.sleep(0.001)


def is_measured(ledger: Ledger) -> bool:
    return ledger.is_measured("m")


async def test_before_a_first_load_there_is_an_estimate(scene: Scene) -> None:
    """From the header, marked as such, with its parts, and somebody is told."""
    ledger = scene.service()
    assert ledger.footprint("m") is None

    found = await scene.look(ledger)

    assert found is not None
    assert found.source is Source.ESTIMATE
    assert str(scene.tiny / "tiny-a.gguf") in found.shared
    assert "KV cache (2048 tokens)" in [part.label for part in found.parts]
    assert scene.told == [("m", found)]


async def test_a_second_look_that_finds_the_same_is_no_news(scene: Scene) -> None:
    """Only changes are told."""
    ledger = scene.service()
    await scene.look(ledger)
    await scene.look(ledger)

    assert len(scene.told) == 1


async def test_of_a_file_that_is_not_there_nothing_is_known(scene: Scene) -> None:
    """No estimate without a header; one that has gone takes its estimate along."""
    ledger = scene.service()
    await scene.look(ledger)

    gone = replace(scene.model, options={"model": "/nope.gguf"})

    assert await scene.look(ledger, gone) is None


async def test_a_run_is_measured_when_it_is_ready(scene: Scene) -> None:
    """The measurement is what the kernel counts, takes the place of the estimate and is known after a restart."""
    ledger = scene.service()
    await scene.look(ledger)

    async with Following(scene, ledger, running(scene.model)):
        await until(lambda: is_measured(ledger))
        found = ledger.footprint("m")
        counted = memory_of([os.getpid()])

    assert found is not None
    assert counted is not None
    assert found.total()[HOST] == pytest.approx(counted.total, rel=0.1)
    assert scene.told[-1] == ("m", found)
    assert await scene.look(scene.service()) == found


@pytest.mark.parametrize(
    "change",
    [{"options": {"ctx-size": 512}}, {"env": {"GGML_X": "1"}}],
    ids=["options", "environment"],
)
async def test_another_start_is_another_footprint(scene: Scene, change: dict[str, dict[str, object]]) -> None:
    """What was measured holds for this binary, these files, options and environment only."""
    ledger = scene.service()
    async with Following(scene, ledger, running(scene.model)):
        await until(lambda: is_measured(ledger))

    options = {**scene.model.options, **change.get("options", {})}
    other = replace(scene.model, options=options, env=change.get("env", {}))  # type: ignore[arg-type]

    found = await scene.look(scene.service(), other)
    assert found is not None
    assert not found.is_measured


async def test_a_run_that_was_used_is_measured_again(scene: Scene) -> None:
    """What it takes now is told; what its next start takes on the host is what it took when it was ready."""
    ledger, live = scene.service(), running(scene.model)
    async with Following(scene, ledger, live):
        await until(lambda: is_measured(ledger))
        first = ledger.footprint("m")
        assert first is not None

        held = more(first.total()[HOST] // 4)
        live.used_at += 1
        await until(lambda: ledger.footprint("m") != first)
        grown = ledger.footprint("m")

        assert grown is not None
        assert grown.total()[HOST] >= first.total()[HOST] + len(held) // 2
        assert ledger.of_start("m") == first
        await until(lambda: scene.told[-1] == ("m", grown))
    assert ledger.footprint("m") == first
    assert scene.told[-1] == ("m", first)
    held.close()


@pytest.mark.parametrize(
    ("used_at", "leases", "now", "due"),
    [(5.0, 0, 100.0, False), (6.0, 0, 11.0, True), (6.0, 1, 11.0, False), (5.0, 1, 10.0 + BUSY_AGAIN, True)],
    ids=["unused", "a busy spell has ended", "busy", "busy for long"],
)
async def test_measuring_needs_a_reason(scene: Scene, used_at: float, leases: int, now: float, due: bool) -> None:
    """A run that nobody has used since is left alone; one that is busy, until it is idle or for a while."""
    live = running(scene.model)
    live.used_at, live.leases = used_at, leases

    assert is_due(live, now, used_at=5.0, measured_at=10.0) is due


# Devices.


async def test_an_estimate_is_spread_over_devices(with_gpu: Scene) -> None:
    """What the binary lists gets the layers."""
    found = await with_gpu.look(with_gpu.service())

    assert found is not None
    assert found.total().keys() == {HOST, "CUDA0"}


async def test_the_drivers_count_is_what_a_process_holds(with_gpu: Scene) -> None:
    """Where the driver counts by process, nobody else is asked."""
    ledger = with_gpu.service()
    with_gpu.readings.occupy(os.getpid(), CUDA0=700 * MIB)

    async with Following(with_gpu, ledger, running(with_gpu.model, "I load: CUDA0 model buffer size = 500.00 MiB")):
        await until(lambda: is_measured(ledger))

    found = ledger.footprint("m")
    assert found is not None
    assert found.amounts["CUDA0"] == 700 * MIB


async def test_what_the_child_tells_counts_where_the_driver_does_not(with_gpu: Scene) -> None:
    """Its buffers, and a guess at what its driver takes; the address it names says which device it is."""
    ledger = with_gpu.service()
    lines = (
        "I llama_model_load: using device CUDA7 (a card) (0000:01:00.0) - 23000 MiB free",
        "I load_tensors: CUDA7 model buffer size = 500.00 MiB",
        "I llama_kv_cache: CUDA7 KV buffer size = 100.00 MiB",
    )

    async with Following(with_gpu, ledger, running(with_gpu.model, *lines)):
        await until(lambda: is_measured(ledger))

    found = ledger.footprint("m")
    assert found is not None
    labels = {part.label: part.bytes // MIB for part in found.parts if part.device == "CUDA0"}
    assert labels == {"weights (told by the child)": 500, "KV cache (told by the child)": 100, "driver (a guess)": 350}


async def test_a_start_that_tells_nothing_takes_of_gpus_what_it_took_before(with_gpu: Scene) -> None:
    """A later start is not asked to tell; what is known of it stays."""
    ledger = with_gpu.service()
    async with Following(with_gpu, ledger, running(with_gpu.model, "I load: CUDA0 model buffer size = 500.00 MiB")):
        await until(lambda: is_measured(ledger))
    known = ledger.footprint("m")
    assert known is not None

    held = more(known.total()[HOST] // 4)
    async with Following(with_gpu, ledger, running(with_gpu.model)):
        await until(lambda: ledger.of_start("m") != known)
        found = ledger.footprint("m")

    assert found is not None
    assert found.amounts["CUDA0"] == known.amounts["CUDA0"]
    held.close()


async def test_what_a_run_came_to_on_a_gpu_is_what_its_next_start_takes(with_gpu: Scene) -> None:
    """Workspaces come with the first large batch, and the next run will want them as well."""
    ledger, live = with_gpu.service(), running(with_gpu.model)
    with_gpu.readings.occupy(os.getpid(), CUDA0=700 * MIB)
    async with Following(with_gpu, ledger, live):
        await until(lambda: is_measured(ledger))

        with_gpu.readings.occupy(os.getpid(), CUDA0=900 * MIB)
        live.used_at += 1
        await until(lambda: (found := ledger.of_start("m")) and found.amounts["CUDA0"] == 900 * MIB)

    again = await with_gpu.look(with_gpu.service())
    assert again is not None
    assert again.amounts["CUDA0"] == 900 * MIB


@pytest.mark.parametrize(
    ("was_left_alone", "argv", "keeps"),
    [(False, (), True), (True, (), False), (False, ("-m", "x", "-fit", "off"), False)],
    ids=["fitted", "left alone", "not fitted"],
)
async def test_what_fitting_made_of_a_start_is_not_what_it_needs(
    with_gpu: Scene, was_left_alone: bool, argv: tuple[str, ...], keeps: bool
) -> None:
    """Beside others it got along with less; the next one is to have what it was estimated to take."""
    ledger = with_gpu.service()
    estimated = await with_gpu.look(ledger)
    live = running(with_gpu.model, argv=argv)
    live.was_left_alone = was_left_alone
    with_gpu.readings.occupy(os.getpid(), CUDA0=5 * MIB)

    async with Following(with_gpu, ledger, live):
        await until(lambda: is_measured(ledger))
        now = ledger.footprint("m")

    start = ledger.of_start("m")
    assert estimated is not None
    assert start is not None
    assert now is not None
    assert now.amounts["CUDA0"] == 5 * MIB
    assert start.amounts["CUDA0"] == (estimated.amounts["CUDA0"] if keeps else 5 * MIB)


async def test_a_start_that_did_not_fit_corrects_the_ledger(with_gpu: Scene) -> None:
    """It takes at least what was free; what is known besides stays as it is."""
    ledger = with_gpu.service()
    before = await with_gpu.look(ledger)
    assert before is not None

    ledger.correct("m", {"CUDA0": 5000 * MIB})

    after = ledger.footprint("m")
    assert after is not None
    assert after.amounts["CUDA0"] == 5000 * MIB
    assert after.amounts[HOST] == before.amounts[HOST]
    assert after.source is before.source
    assert with_gpu.told[-1] == ("m", after)


async def test_a_process_that_has_gone_is_not_measured(scene: Scene) -> None:
    """The estimate stays."""
    ledger, live = scene.service(), running(scene.model)
    live.child = SimpleNamespace(pid=2**22 + 1, command=SimpleNamespace(argv=()))  # type: ignore[assignment]
    before = await scene.look(ledger)

    ready = anyio.Event()
    ready.set()
    await ledger.follow(live, await scene.inspection(scene.model), ready)

    assert ledger.footprint("m") == before
