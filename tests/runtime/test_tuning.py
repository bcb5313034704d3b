"""What is added to a start: nothing it did not ask for, `--fit off` only where it is known to change nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.config.values import Config, Model
from supervisor.fleet.values import Phase, Run, RunId
from supervisor.llama.command import Command, Surroundings
from supervisor.llama.diagnosis import End
from supervisor.llama.endpoint import UnixEndpoint
from supervisor.llama.flags import Catalogue, parse_help
from supervisor.llama.preflight import Inspection, Inspector
from supervisor.runtime.fits import Fits
from supervisor.runtime.launcher import MUTE_RETRIES, Launcher
from supervisor.runtime.live import LiveRun
from supervisor.runtime.logs import Logs
from supervisor.runtime.tuning import TRACE, Tuner, Tuning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.config.values import Option

pytestmark = pytest.mark.anyio

HELP = """\
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
-fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory
-lv,   --verbosity, --log-verbosity N   Set the verbosity threshold.
"""
NEW = parse_help(HELP)
MODES = parse_help(
    HELP
    + """\
-lm,   --load-mode MODE                 model loading mode (default: auto)
                                        - auto: mmap, unless a device does not support it
                                        - none: no special loading mode
                                        - mmap: memory-map model
                                        - dio: use DirectIO if available
"""
)
OLD = parse_help("-c,    --ctx-size N                     size of the prompt context\n")
GPU = "  CUDA0: a card (24000 MiB, 23000 MiB free)"
TWO_GPUS = f"{GPU}\n  CUDA1: a card (24000 MiB, 23000 MiB free)"
WHOLE = {"meta": {"n_ctx": 2048, "n_ctx_train": 2048}}
SHRUNK = {"meta": {"n_ctx": 1024, "n_ctx_train": 2048}}


@dataclass
class Scene:
    """One model of a llama-server that sees the devices in a file, and every tuner there ever was for it."""

    base: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.binary = self.base / "llama-server"
        self.binary.write_text(f"#!/bin/sh\ncat {self.base}/devices\n")
        self.binary.chmod(0o755)
        self.sees("")
        (self.base / "m.gguf").write_bytes(b"weights")
        self.model = Model(id="m", options={"model": "m.gguf"}, binary=str(self.binary))
        self.inspection = Inspection(binary=self.binary, catalogue=NEW)

    def sees(self, devices: str) -> None:
        (self.base / "devices").write_text(f"Available devices:\n{devices}\n")

    def service(self) -> Tuner:
        """The tuner of a service that has just started."""
        around = Surroundings(self.base, self.base, {"PATH": "/usr/bin:/bin", **self.environ}, self.base / "private")
        return Tuner(Inspector(around, cache_dir=None), self.base / "cache")

    async def next(self, **changes: object) -> Tuning:
        """What a new service adds to the start of the model, changed like this."""
        return await self.service().tuning(replace(self.model, **changes), self.inspection, beside=())  # type: ignore[arg-type]

    async def start(
        self,
        payload: Mapping[str, object] = WHOLE,
        *,
        was_left_alone: bool = False,
        beside: int = 0,
        tuner: Tuner | None = None,
    ) -> Tuning:
        """A start that becomes ready and says this."""
        tuner = tuner or self.service()
        tuning = await tuner.tuning(self.model, self.inspection, beside=company(beside))
        await tuner.learn(ready(self.model, payload, was_left_alone), tuning, self.binary)
        return tuning


def company(count: int) -> tuple[Model, ...]:
    """Other models whose children run."""
    return tuple(Model(id=f"other{number}") for number in range(count))


def live_run(model: Model) -> LiveRun:
    return LiveRun(Run(RunId(1), model, Phase.STARTING, 0.0, 0.0))


def ready(model: Model, payload: Mapping[str, object], was_left_alone: bool = False) -> LiveRun:
    """A run that has become ready; its process is ours."""
    live = live_run(model)
    live.child = SimpleNamespace(pid=os.getpid())  # type: ignore[assignment]
    live.ready_payload, live.was_left_alone = payload, was_left_alone
    return live


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# Without devices.


async def test_a_start_that_is_known_need_not_fit(scene: Scene) -> None:
    """The first start is as it was asked for, the next one of any service leaves fitting out."""
    first = await scene.start()

    assert (dict(first.options), first.skips_fit) == ({}, False)
    assert await scene.next() == Tuning({"fit": "off"}, first.key, 0, False, skips_fit=True)


async def test_a_start_that_was_changed_fits_again(scene: Scene) -> None:
    """What fitting has changed it must change the next time too."""
    await scene.start(SHRUNK)

    assert (await scene.next()).options == {}


async def test_a_start_that_did_not_become_ready_teaches_nothing(scene: Scene) -> None:
    """Only from a process that is there something is learned."""
    tuner = scene.service()
    tuning = await tuner.tuning(scene.model, scene.inspection, beside=())
    await tuner.learn(live_run(scene.model), tuning, scene.binary)

    assert (await scene.next()).options == {}


async def test_what_was_forgotten_is_learned_again(scene: Scene) -> None:
    """After a start without fitting has failed, the next one fits, and teaches anew."""
    await scene.start()
    tuner = scene.service()
    tuner.forget(await tuner.tuning(scene.model, scene.inspection, beside=()))
    assert (await scene.start()).options == {}

    assert (await scene.next()).options == {"fit": "off"}


async def test_nothing_is_learned_from_a_start_without_fitting(scene: Scene) -> None:
    """What such a start says of its context proves nothing."""
    await scene.start()
    written = scene.base / "cache" / "fits.json"
    before = written.read_bytes()
    await scene.start()

    assert written.read_bytes() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {"model": "m.gguf", "ctx-size": 4096}},
        {"options": {"model": "m.gguf", "threads": 2}},
        {"options": {"model": "other.gguf"}},
        {"sampling": {"temp": 0.5}},
        {"env": {"GGML_VK_VISIBLE_DEVICES": "0"}},
        {"env": {"ANYTHING": "1"}},
    ],
)
async def test_another_start_is_not_known(scene: Scene, changes: dict[str, object]) -> None:
    """Whatever the config changes of the child makes it another start."""
    (scene.base / "other.gguf").write_bytes(b"weights")
    await scene.start()

    assert (await scene.next(**changes)).options == {}
    assert (await scene.next()).options == {"fit": "off"}


@pytest.mark.parametrize("changes", [{"id": "n"}, {"ttl": 1.0}, {"prefetch": False}, {"description": "x"}])
async def test_what_the_child_does_not_see_changes_nothing(scene: Scene, changes: dict[str, object]) -> None:
    """Two entries for one start teach each other."""
    await scene.start()

    assert (await scene.next(**changes)).options == {"fit": "off"}


async def test_another_file_of_the_same_name_is_not_known(scene: Scene) -> None:
    """A replaced model fits again; so it does with a replaced binary."""
    await scene.start()
    (scene.base / "m.gguf").write_bytes(b"other weights")
    assert (await scene.start()).options == {}
    assert (await scene.next()).options == {"fit": "off"}

    scene.binary.write_text(scene.binary.read_text() + "# newer\n")
    assert (await scene.next()).options == {}


async def test_only_variables_that_matter_are_part_of_it(scene: Scene) -> None:
    """A login's environment is no reason to fit again; one that chooses devices is."""
    await scene.start()
    scene.environ["SSH_CONNECTION"] = "::1"
    assert (await scene.next()).options == {"fit": "off"}

    scene.environ["CUDA_VISIBLE_DEVICES"] = "1"
    assert (await scene.next()).options == {}


@pytest.mark.parametrize("name", ["fit", "fit-target", "fit-ctx", "fitt", "fitc"])
@pytest.mark.parametrize("value", ["on", "off", 512])
async def test_a_model_that_says_how_to_fit_is_left_alone(scene: Scene, name: str, value: Option) -> None:
    """Whoever configures fitting gets what is written, and nothing is learned of it."""
    scene.model = replace(scene.model, options={**scene.model.options, name: value})
    for _ in range(2):
        assert await scene.start() == Tuning()
    assert not (scene.base / "cache").exists()


async def test_the_cache_can_be_turned_off(scene: Scene) -> None:
    """`fit_cache = false` neither learns nor uses what was learned."""
    await scene.start()

    assert await scene.next(fit_cache=False) == Tuning()


@pytest.mark.parametrize("catalogue", [None, OLD])
async def test_a_binary_without_fitting_is_left_alone(scene: Scene, catalogue: Catalogue | None) -> None:
    """A wrapper, or a llama-server from before there was `--fit`, gets no option it does not know."""
    scene.inspection = Inspection(binary=scene.binary, catalogue=catalogue)

    assert await scene.start() == Tuning()


async def test_a_device_that_comes_during_a_start_teaches_nothing(scene: Scene) -> None:
    """A driver that is ready late makes it another start than the one that was planned."""
    tuner = scene.service()
    tuning = await tuner.tuning(scene.model, scene.inspection, beside=())
    scene.sees(GPU)
    late = scene.service()
    await late.learn(ready(scene.model, WHOLE), tuning, scene.binary)

    scene.sees("")
    assert (await scene.next()).options == {}


# With devices.


async def test_with_a_device_the_first_start_tells_of_fitting(scene: Scene) -> None:
    """What fitting did a child says at a higher verbosity only; a known start need not say it."""
    scene.sees(GPU)
    first = await scene.start(was_left_alone=True)

    assert first.options == {"verbosity": TRACE}
    assert (await scene.next()).options == {"fit": "off"}


async def test_a_start_that_was_not_left_alone_fits_again(scene: Scene) -> None:
    """A start that was changed on its device, or did not say, is fitted anew."""
    scene.sees(GPU)
    await scene.start()

    assert (await scene.next()).options == {"verbosity": TRACE}


async def test_another_machine_is_a_device(scene: Scene) -> None:
    """`rpc` names devices that only the start itself sees."""
    scene.model = replace(scene.model, options={**scene.model.options, "rpc": "10.0.0.1:50052"})
    first = await scene.start()
    assert first.options == {"verbosity": TRACE}
    assert not (await scene.next()).skips_fit

    await scene.start(was_left_alone=True)
    assert (await scene.next()).skips_fit


async def test_a_variable_may_say_how_to_fit(scene: Scene) -> None:
    """`LLAMA_ARG_FIT` in the model's own variables is the same as the option."""
    scene.model = replace(scene.model, env={"LLAMA_ARG_FIT": "on"})

    assert await scene.start() == Tuning()


@pytest.mark.parametrize("name", ["verbosity", "log-verbosity", "lv", "verbose", "log-verbose", "v"])
async def test_a_verbosity_that_was_chosen_stays(scene: Scene, name: str) -> None:
    """We do not make a log longer or shorter than somebody wants it."""
    scene.sees(GPU)
    scene.model = replace(scene.model, options={**scene.model.options, name: 1})

    assert (await scene.start()).options == {}


async def test_free_memory_is_not_part_of_what_a_device_is(scene: Scene) -> None:
    """The same card with less memory free is the same card; another card, or one more, is not."""
    scene.sees(GPU)
    await scene.start(was_left_alone=True)
    scene.sees(GPU.replace("23000 MiB free", "9 MiB free"))
    assert (await scene.next()).skips_fit

    for devices in (GPU.replace("24000", "12000"), TWO_GPUS, ""):
        scene.sees(devices)
        assert not (await scene.next()).skips_fit


async def test_more_company_than_at_first_fits_again(scene: Scene) -> None:
    """Other children may hold memory of the device; what is learned beside them holds beside them."""
    scene.sees(GPU)
    tuner = scene.service()
    await scene.start(was_left_alone=True, tuner=tuner)
    assert not (await tuner.tuning(scene.model, scene.inspection, beside=company(1))).skips_fit

    await scene.start(was_left_alone=True, beside=1, tuner=tuner)
    assert (await tuner.tuning(scene.model, scene.inspection, beside=company(1))).skips_fit
    assert (await tuner.tuning(scene.model, scene.inspection, beside=())).skips_fit


async def test_a_binary_that_does_not_name_its_devices_may_have_some(scene: Scene) -> None:
    """Where nobody knows of devices, the child has to say what fitting did."""
    scene.binary.write_text("#!/bin/sh\nexit 1\n")
    first = await scene.start()
    assert first.options == {"verbosity": TRACE}
    assert not (await scene.next()).skips_fit

    await scene.start(was_left_alone=True)
    assert (await scene.next()).skips_fit


# The load mode.


async def test_a_load_mode_is_chosen_where_it_is_left_to_us(scene: Scene) -> None:
    """`load-mode = "auto"` becomes one for this start, beside whatever is done about fitting."""
    scene.inspection = replace(scene.inspection, catalogue=MODES)
    scene.model = replace(scene.model, options={**scene.model.options, "load-mode": "auto"})

    assert (await scene.start()).options == {"load-mode": "mmap"}
    assert (await scene.next()).options == {"fit": "off", "load-mode": "mmap"}
    assert (await scene.next(fit_cache=False)).options == {"load-mode": "mmap"}


async def test_a_file_that_another_child_has_is_mapped(scene: Scene) -> None:
    """On a device too, whatever of it is cached."""
    scene.sees(GPU)
    scene.inspection = replace(scene.inspection, catalogue=MODES)
    scene.model = replace(scene.model, options={**scene.model.options, "load-mode": "auto", "fit": "on"})
    beside = (*company(1), replace(scene.model, id="twin"), Model(id="server", cmd=("server",)))

    assert (await scene.service().tuning(scene.model, scene.inspection, beside=beside)).options == {"load-mode": "mmap"}


async def test_a_device_without_memory_of_its_own_is_loaded_past_the_cache(scene: Scene) -> None:
    """Mapped pages would take the room of the weights; a card beside it that is used too has room of its own."""
    unified = "ggml_vulkan: 0 = a chip (radv) | uma: 1 | fp16: 1\n  Vulkan0: a chip (24000 MiB, 23000 MiB free)"
    scene.inspection = replace(scene.inspection, catalogue=MODES)
    modes = []
    for devices in ("  Vulkan0: a card (24000 MiB, 23000 MiB free)", unified, f"{unified}\n{GPU}"):
        scene.sees(devices)
        tuning = await scene.next(options={**scene.model.options, "load-mode": "auto"})
        modes.append(tuning.options["load-mode"])
    chosen = await scene.next(options={**scene.model.options, "load-mode": "auto", "device": "Vulkan0"})

    assert modes in (["mmap", "none", "mmap"], ["none", "dio", "none"])  # as the file is known to be cached or not
    assert chosen.options["load-mode"] == modes[1]


@pytest.mark.parametrize("options", [{}, {"load-mode": "none"}, {"load-mode": "mmap"}, {"lm": "auto"}])
async def test_a_load_mode_that_is_not_left_to_us_stays(scene: Scene, options: dict[str, Option]) -> None:
    """Without the word of the config nothing is chosen."""
    scene.inspection = replace(scene.inspection, catalogue=MODES)
    scene.model = replace(scene.model, options={**scene.model.options, **options})

    assert (await scene.start()).options == {}


async def test_a_binary_without_load_modes_gets_none(scene: Scene) -> None:
    """One that was built before `--load-mode` is not told what it does not know."""
    scene.model = replace(scene.model, options={**scene.model.options, "load-mode": "auto"})

    assert (await scene.start()).options == {}


# A start that fails.

SAID = ("load_model: error: something",)
FAILED, MUTE = End("loading", SAID, 1), End("loading", (), 1)
CRASHED = End("serving", SAID, -11)


class ScriptedLauncher(Launcher):
    """Attempts that end as the test says; each is noted by what was added to it."""

    ends: list[End]
    attempts: list[dict[str, Option]]

    async def _attempt(
        self, live: LiveRun, inspection: Inspection, tuning: Tuning, on_ready: Callable[[], None]
    ) -> tuple[Command, End]:
        self.attempts.append(dict(tuning.options))
        return Command(("llama-server",), {}, Path("/"), UnixEndpoint(Path("/s")), True), self.ends.pop(0)


async def attempts_of(scene: Scene, *ends: End) -> tuple[list[dict[str, Option]], End]:
    """What was added to each attempt of a start whose attempts end like this, and how it all ended."""
    around = Surroundings(scene.base, scene.base, {"PATH": "/usr/bin:/bin"}, scene.base / "private")
    launcher = ScriptedLauncher(
        Config(scene.base),
        around,
        inspector=Inspector(around, cache_dir=None),
        logs=Logs(1000),
        cache_dir=scene.base / "cache",
    )
    launcher.ends, launcher.attempts = list(ends), []
    _, end = await launcher._attempts(live_run(scene.model), scene.inspection, lambda: None)
    assert launcher.ends == []
    return launcher.attempts, end


async def test_a_failed_shortcut_is_taken_back_at_once(scene: Scene) -> None:
    """The same start is tried with fitting, how that ends counts, and the next start fits too."""
    await scene.start()

    assert await attempts_of(scene, FAILED, CRASHED) == ([{"fit": "off"}, {}], CRASHED)
    assert not (await scene.next()).skips_fit


async def test_a_failed_shortcut_asks_for_fitting_again(scene: Scene) -> None:
    """On a device, the second attempt may teach."""
    scene.sees(GPU)
    await scene.start(was_left_alone=True)

    assert (await attempts_of(scene, FAILED, CRASHED))[0] == [{"fit": "off"}, {"verbosity": TRACE}]


async def test_a_start_that_fails_either_way_is_tried_twice(scene: Scene) -> None:
    """The reason of the start with fitting is the one that is told."""
    await scene.start()
    other = replace(FAILED, returncode=2)

    assert await attempts_of(scene, FAILED, other) == ([{"fit": "off"}, {}], other)


async def test_a_crash_while_serving_does_not_blame_the_shortcut(scene: Scene) -> None:
    """It became ready without fitting, which was all that was asked of it."""
    await scene.start()

    assert await attempts_of(scene, CRASHED) == ([{"fit": "off"}], CRASHED)
    assert (await scene.next()).skips_fit


async def test_a_first_start_that_fails_is_not_repeated(scene: Scene) -> None:
    """There is no shortcut to take back."""
    assert await attempts_of(scene, FAILED) == ([{}], FAILED)


async def test_a_mute_failure_is_asked_again_with_fitting(scene: Scene) -> None:
    """After the shortcut has failed, no attempt takes it again, however often it is asked for its reason."""
    await scene.start()
    mute = [MUTE] * (MUTE_RETRIES + 1)

    attempts, end = await attempts_of(scene, MUTE, *mute)
    assert attempts == [{"fit": "off"}, *[{}] * len(mute)]
    assert end.is_mute


async def test_nothing_is_learned_for_a_process_that_is_gone(scene: Scene) -> None:
    """Its memory cannot be known any more."""
    gone = await anyio.open_process(["true"])
    await gone.wait()
    tuner = scene.service()
    tuning = await tuner.tuning(scene.model, scene.inspection, beside=())
    live = ready(scene.model, WHOLE)
    live.child = SimpleNamespace(pid=gone.pid)  # type: ignore[assignment]
    await tuner.learn(live, tuning, scene.binary)

    assert not Fits(scene.base / "cache").can_skip(str(tuning.key), available=1 << 50, beside=0, has_devices=False)
