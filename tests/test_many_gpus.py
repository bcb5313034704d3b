"""A machine with two GPUs, the whole way: children are told where to go, say what they take, and the books learn it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from supervisor.config.loader import load
from supervisor.fleet.decisions import Kind
from supervisor.fleet.memory import Device
from supervisor.household import running_service
from tests.conftest import DEADLINE
from tests.gpu_llama import WORLD, built
from tests.scripted_readings import ScriptedReadings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from pathlib import Path

    from supervisor.api.service import Service

pytestmark = pytest.mark.anyio

G = 2**30
BUILDS = {"older": "", "newer": "log-jsonl = true\nverbosity = 3"}
"""One says what it allocates, line by line as our service asks for; the other has only what fitting reckoned with."""
DEVICES = Device("CUDA0", "a card", 24 * G), Device("CUDA1", "a card", 12 * G)


class Silent(ScriptedReadings):
    """A driver that does not tell processes apart: what the child says is all there is."""

    def used_by(self, pids: Collection[int]) -> dict[str, int]:
        return {}


@dataclass
class Room:
    """A folder that is the machine, and services on it."""

    folder: Path
    model: Path
    binary: Path
    options: str = ""
    """Of every model, in TOML."""
    readings: ScriptedReadings = field(init=False)
    takes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "readings").mkdir()
        self.readings = ScriptedReadings(self.folder / "readings", *DEVICES)

    def script(self, *, slow: tuple[str, ...] = (), **takes: int) -> None:
        """From now on models take so many GiB; the memory of the slow ones comes back when the test says so."""
        self.takes = takes
        devices = {device.id: device.total for device in DEVICES}
        sizes = {name: size * G for name, size in takes.items()}
        (self.folder / "script.json").write_text(json.dumps({"devices": devices, "takes": sizes, "slow": slow}))

    @contextlib.asynccontextmanager
    async def service(self, **expected: int) -> AsyncIterator[Service]:
        """A service that has looked at each model and expects so many GiB, or else what it takes."""
        tables = [
            f'[models.{name}]\nmodel = "{self.model}"\nbinary = "{self.binary}"\n{self.options}\n'
            f'ctx-size = {number}\nenv = {{ {WORLD} = "{self.folder}" }}\n'
            for number, name in enumerate(self.takes, 512)  # of starts that are the same the books know the same
        ]
        path = self.folder / "models.toml"
        path.write_text("[memory]\nreserve = 0\n" + "".join(tables))
        async with running_service(load(path, environ=os.environ), readings=self.readings) as service:
            await service.pool.checked.wait()
            ledger = service.launcher.ledger
            for name, size in {**self.takes, **expected}.items():
                if not ledger.is_measured(name):
                    ledger.correct(name, {"CUDA0": size * G})
            yield service

    def starts(self, model: str) -> list[dict[str, Any]]:
        """How its children were started, in order."""
        path = self.folder / "starts.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [start for start in map(json.loads, lines) if start["model"] == model]

    def place(self, model: str) -> str | None:
        """The devices its newest child was told to use; None: it was told nothing."""
        argv = self.starts(model)[-1]["argv"]
        return argv[argv.index("--device") + 1] if "--device" in argv else None


@pytest.fixture(params=BUILDS.values(), ids=BUILDS)
def room(request: pytest.FixtureRequest, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return Room(tmp_path, tiny / "tiny-a.gguf", built(tmp_path, compiler), request.param)


async def until(fact: Callable[[], object]) -> None:
    with anyio.fail_after(DEADLINE):
        while not fact():  # noqa: ASYNC110 - a file of another process, a thread's measurement: nobody tells
            await anyio.sleep(0.01)


async def use(service: Service, model: str) -> None:
    """A request, and what it taught."""
    with await service.pool.lease(model):
        await until(lambda: service.launcher.ledger.is_measured(model))


def takes(service: Service, model: str) -> dict[str, int]:
    """Whole GiB by GPU, as the ledger has it."""
    footprint = service.launcher.ledger.footprint(model)
    assert footprint is not None
    return {name: round(size / G) for name, size in footprint.total().items() if name != "host"}


def kinds(service: Service) -> list[Kind]:
    return [each.decision.kind for each in service.pool.decisions]


async def test_what_children_take_decides_where_the_next_ones_go(room: Room) -> None:
    """Once each has been seen, a restart places them by best fit, so that nobody has to leave."""
    room.script(small=10, large=22)
    async with room.service(small=1, large=13) as service:
        for model in ("large", "small"):
            await use(service, model)
            await service.pool.unload(model)
    async with room.service(small=1, large=1) as service:
        for model in ("small", "large"):
            await use(service, model)

        assert (room.place("small"), room.place("large")) == ("CUDA1", "CUDA0")
        assert takes(service, "small") == {"CUDA1": 10}
        assert takes(service, "large") == {"CUDA0": 22}
        assert len(service.pool.fleet.runs) == 2
        assert len(room.starts("large")) == 2, "it was not known what it takes"


async def test_children_tell_what_the_driver_does_not(room: Room) -> None:
    """The books have it from the child's own words, and what the driver takes besides is guessed."""
    room.readings = Silent(room.folder / "readings", *DEVICES)
    room.script(a=10)
    async with room.service() as service:
        await use(service, "a")

        footprint = service.launcher.ledger.footprint("a")
        assert footprint is not None
        assert takes(service, "a") == {"CUDA1": 10}
        assert sum(part.bytes for part in footprint.parts if "told by the child" in part.label) == pytest.approx(
            10 * G, rel=0.01
        )


async def test_a_model_larger_than_each_device_is_split(room: Room) -> None:
    """It is told nothing, for llama-server splits by itself; the books have its share of each device."""
    room.script(a=4, huge=34)
    async with room.service() as service:
        await use(service, "a")
        await use(service, "huge")

        assert room.place("a") == "CUDA1"
        assert room.place("huge") is None
        assert takes(service, "huge") == {"CUDA0": 23, "CUDA1": 11}
        assert service.pool.fleet.run_of("a") is None


async def test_a_start_that_runs_out_of_memory_is_tried_once_more(room: Room) -> None:
    """It is larger than was reckoned: another model leaves, it starts, and from then on the books know."""
    room.script(a=20, b=14)
    async with room.service(b=11) as service:
        await use(service, "a")
        await use(service, "b")

        assert [start["argv"][start["argv"].index("--device") + 1] for start in room.starts("b")] == ["CUDA1", "CUDA0"]
        assert Kind.RETRIED in kinds(service)
        assert service.pool.fleet.run_of("a") is None
        assert takes(service, "b") == {"CUDA0": 14}


async def test_memory_that_comes_back_late_is_waited_for(room: Room) -> None:
    """The child is gone, its memory is not: the next one starts when the device says so, and nobody else leaves."""
    room.script(a=22, b=22, c=10, slow=("a",))
    async with room.service() as service:
        await use(service, "c")
        await use(service, "a")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use, service, "b")
            await until(lambda: service.pool.fleet.run_of("a") is None)
            books = service.pool.fleet.books
            await until(lambda: service.pool.fleet.books.read_at > books.freed_at)
            assert room.starts("b") == []
            room.readings.give_back(room.starts("a")[0]["pid"])

        assert len(room.starts("b")) == 1
        assert service.pool.fleet.run_of("c") is not None
