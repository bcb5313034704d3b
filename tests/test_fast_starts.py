"""Starts that are quicker than the first: fitting left out where it is known to change nothing, and files read ahead.

With real llama-servers. An RPC server of theirs stands in for a graphics card: to fitting it is a device like others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from supervisor.runtime.residency import residency
from tests.conftest import ROOT, RunningService, alive, eventually
from tests.llamaswap.children import free_ports
from tests.test_swapping import held_answer, raw_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., RunningService]

ECHO_SERVER = Path(__file__).with_name("echo_server.py")
MEGA = 1 << 20
PADDING = 64 * MEGA
NETWORK = re.compile(r"ffn_(gate|up|down)\.")


# What is learned.


def test_the_second_start_leaves_fitting_out(start: Start, cache: Path, tiny: Path, binary: Path) -> None:
    """It is the same model with the same context and the same answers; status tells the one start from the other."""
    service = service_of(start, cache, tiny, f'binary = "{binary}"')
    first, first_props, first_load = answer(service), props(service), load(service)
    assert "--fit" not in arguments(service)
    eventually(lambda: lessons(cache) == 1)

    reload(service)
    assert fit_argument(service) == "off"
    assert answer(service) == first
    assert props(service) == first_props
    assert (first_load["fitted"], load(service)["fitted"]) == (True, False)


def test_a_restarted_service_knows(start: Start, cache: Path, tiny: Path) -> None:
    """What one service has learned, the next one uses at its first start."""
    service = service_of(start, cache, tiny)
    learn(service, cache)
    service.stop()

    assert fit_argument(started(service_of(start, cache, tiny))) == "off"


@pytest.mark.parametrize("other", ["ctx-size = 512", 'env = { ANYTHING = "1" }'])
def test_another_option_is_another_start(start: Start, cache: Path, tiny: Path, other: str) -> None:
    """With another context, or a variable of its own, a model of the same file is fitted; then both are known."""
    service = service_of(start, cache, tiny, f"[models.other]\n{other}")
    learn(service, cache)
    learn(service, cache, "other", lessons_then=2)

    for name in ("m", "other"):
        assert fit_argument(started(service, name), name) == "off"
    assert props(service, "other")["n_ctx"] == (512 if "ctx" in other else 2048)


def test_another_binary_is_another_start(start: Start, cache: Path, tiny: Path, wheel_binary: Path) -> None:
    """A build that was updated in its place is fitted again."""
    build = cache.parent / "build"
    shutil.copytree(wheel_binary.parent, build, symlinks=True)
    where = f'binary = "{build / wheel_binary.name}"'
    service = service_of(start, cache, tiny, where)
    learn(service, cache)
    os.utime(build / wheel_binary.name)

    reload(service)
    assert fit_argument(service) is None
    eventually(lambda: lessons(cache) == 2)


def test_another_file_is_another_start(start: Start, cache: Path, tiny: Path) -> None:
    """A model that was replaced is fitted again, by the service that runs and by the next; then that is known."""
    folder = cache.parent / "own"
    folder.mkdir()
    shutil.copy(tiny / "tiny-a.gguf", folder)
    service = service_of(start, cache, folder)
    learn(service, cache)
    (folder / "new.gguf").write_bytes((tiny / "tiny-b.gguf").read_bytes())
    (folder / "new.gguf").replace(folder / "tiny-a.gguf")

    reload(service)
    assert fit_argument(service) is None
    eventually(lambda: lessons(cache) == 2)
    reload(service)
    assert fit_argument(service) == "off"


@pytest.mark.parametrize(
    "options", ["parallel = 4", "parallel = 4\nkv-unified = true", "ctx-size = 500\nparallel = 3", "ctx-size = 0"]
)
def test_shared_contexts_are_understood(start: Start, cache: Path, tiny: Path, binary: Path, options: str) -> None:
    """However the context is shared among slots, a start that had room for it is known the next time."""
    service = service_of(start, cache, tiny, f'binary = "{binary}"\n{options}')
    learn(service, cache)

    reload(service)
    assert fit_argument(service) == "off"


def test_two_entries_for_one_start_teach_each_other(start: Start, cache: Path, tiny: Path) -> None:
    """The name of an entry is nothing that fitting depends on."""
    service = service_of(start, cache, tiny, "[models.twin]")
    learn(service, cache)
    assert service.chat("twin").status_code == 200

    assert fit_argument(service, "twin") == "off"


# What is left alone.


@pytest.mark.parametrize(("option", "expected"), [("fit_cache = false", None), ('fit = "on"', "on")])
def test_who_wants_fitting_gets_it_every_time(
    start: Start, cache: Path, tiny: Path, option: str, expected: str | None
) -> None:
    """Turned off, or fitting asked for: every start is as written, and nothing is kept."""
    service = service_of(start, cache, tiny, f"[models.other]\n{option}")
    learn(service, cache)
    for _ in range(2):
        assert fit_argument(started(service, "other"), "other") == expected
        assert load(service, "other")["fitted"] is None
        assert fit_argument(started(service)) == "off"

    assert lessons(cache) == 1


def test_a_context_beyond_the_training_is_fitted_every_time(start: Start, cache: Path, tiny: Path) -> None:
    """A child that gives less context than was asked for proves nothing, and status says that it gives less."""
    service = service_of(start, cache, tiny, "ctx-size = 4096")
    for _ in range(2):
        reload(service)
        assert fit_argument(service) is None

    warnings: Any = service.model("m")["warnings"]
    assert "context_reduced" in {warning["code"] for warning in warnings}
    assert lessons(cache) == 0


def test_without_the_memory_of_then_it_fits(start: Start, cache: Path, tiny: Path) -> None:
    """Less memory than the first start took, with a margin, may be too little: fitting decides."""
    service = service_of(start, cache, tiny)
    learn(service, cache)
    service.stop()
    known = json.loads(kept_in(cache).read_bytes())
    for fit in known.values():
        assert MEGA < fit["host_bytes"] < 1 << 40
        fit["host_bytes"] = 1 << 60
    kept_in(cache).write_text(json.dumps(known))

    assert fit_argument(started(service_of(start, cache, tiny))) is None


def test_a_broken_cache_is_no_harm(start: Start, cache: Path, tiny: Path) -> None:
    """A file that says nothing is written anew by the first start."""
    kept_in(cache).parent.mkdir(parents=True)
    kept_in(cache).write_text("{")
    service = service_of(start, cache, tiny)
    learn(service, cache)

    reload(service)
    assert fit_argument(service) == "off"


def test_another_server_is_left_alone(start: Start, cache: Path) -> None:
    """Of a server of any other kind only the length of its start is known."""
    command = json.dumps([sys.executable, str(ECHO_SERVER), "--port", "${PORT}"])
    service = start(f"[models.m]\ncmd = {command}\n", env=environ(cache))
    assert service.chat("m").status_code == 200

    assert "--fit" not in arguments(service)
    told = load(service)
    assert told["seconds"] > 0
    assert [told["phases"][name] for name in ("prepare", "read", "warm_up")] == [None, None, None]
    assert (told["bytes"], told["prefetched_bytes"]) == (None, 0)


# With a device.


def test_a_model_that_is_whole_on_its_device(start: Start, cache: Path, tiny: Path, device: Device) -> None:
    """The first start says what fitting did, at a verbosity of ours; the second is quiet and does not fit."""
    service = service_of(start, cache, tiny, device.options)
    learn(service, cache)
    assert argument(service, "--verbosity") == "4"
    first = answer(service)

    reload(service)
    assert fit_argument(service) == "off"
    assert argument(service, "--verbosity") is None
    assert answer(service) == first


def test_a_model_that_is_not_whole_on_its_device(start: Start, cache: Path, tiny: Path, device: Device) -> None:
    """Layers that fitting left to the processor are left there the next time too."""
    service = service_of(start, cache, tiny, f"ctx-size = 2048\n{device.with_free(1)}")
    for _ in range(2):
        reload(service)
        assert fit_argument(service) is None
        assert offloaded(service) != "3/3"

    assert lessons(cache) == 0


def test_a_mixture_that_is_not_whole_on_its_device(start: Start, cache: Path, device: Device, mixture: Path) -> None:
    """Of a mixture of experts all layers count as offloaded even where experts stay with the processor."""
    service = service_of(start, cache, mixture, f"ctx-size = 512\n{device.with_free(12)}")
    for _ in range(2):
        reload(service)
        assert fit_argument(service) is None
        assert offloaded(service) == "3/3"

    assert lessons(cache) == 0


def test_a_draft_does_not_speak_for_its_model(start: Start, cache: Path, tiny: Path, device: Device) -> None:
    """The draft is whole on the device, the model is not; the draft is the last to say so."""
    draft = f'spec-draft-model = "{tiny}/tiny-b.gguf"\nspec-type = "draft-simple"'
    service = service_of(start, cache, tiny, f"ctx-size = 2048\n{draft}\n{device.with_free(1)}")
    for _ in range(2):
        reload(service)
        assert fit_argument(service) is None
        assert offloaded(service) == "3/3"

    assert lessons(cache) == 0


def test_a_mixture_that_is_whole_on_its_device(start: Start, cache: Path, device: Device, mixture: Path) -> None:
    """With room for all experts a mixture is like any other model."""
    service = service_of(start, cache, mixture, f"ctx-size = 512\n{device.options}")
    learn(service, cache)

    reload(service)
    assert fit_argument(service) == "off"


def test_a_start_that_fails_without_fitting_is_repeated_with_it(
    start: Start, cache: Path, tiny: Path, device: Device
) -> None:
    """The request that started it is served by the second attempt, and what was known is learned anew."""
    service = service_of(start, cache, tiny, device.options)
    learn(service, cache)
    reload(service)
    known = kept_in(cache).read_bytes()
    unload(service)
    with device.standing_still(), ThreadPoolExecutor() as threads:
        request = threads.submit(service.chat, "m")
        eventually(lambda: has_pid(service))
        pid = service.pid("m")
        eventually(lambda: fit_argument(service) == "off")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not alive(pid))
        eventually(lambda: lessons(cache) == 0)
        device.go_on()
        assert request.result().status_code == 200

    assert fit_argument(service) is None
    eventually(lambda: lessons(cache) == 1)
    assert kept_in(cache).read_bytes().split(b":")[0] == known.split(b":")[0]
    reload(service)
    assert fit_argument(service) == "off"


# What is read ahead.


def test_a_cold_file_is_read_ahead(start: Start, cache: Path, tiny: Path, binary: Path) -> None:
    """A start helps its child to read; when the file is in memory already, there is nothing to help with."""
    service = service_of(
        start, cache, tiny, f'binary = "{binary}"\nmodel = "{large(cache.parent / "large.gguf", tiny)}"'
    )
    dropped(cache.parent / "large.gguf")
    assert service.chat("m").status_code == 200
    assert load(service)["prefetched_bytes"] > 0

    eventually(lambda: reload(service) is None and load(service)["prefetched_bytes"] == 0)


def test_the_next_model_is_read_while_the_other_drains(start: Start, cache: Path, tiny: Path) -> None:
    """Its file is in memory before its process is spawned, and status says who brought it there."""
    file = large(cache.parent / "large.gguf", tiny)
    service = service_of(start, cache, tiny, f'[models.next]\nmodel = "{file}"')
    dropped(file)
    with held_answer(service, "m") as rest, ThreadPoolExecutor() as threads:
        other = threads.submit(service.chat, "next")
        eventually(lambda: service.model("m")["state"] == "draining")
        eventually(lambda: residency(file) == 1.0)
        assert service.model("next")["process"] is None
        rest()
        assert other.result().status_code == 200

    assert load(service, "next")["prefetched_bytes"] > PADDING / 2


def test_a_swap_that_is_called_off_reads_no_further(start: Start, cache: Path, tiny: Path) -> None:
    """A client that leaves takes its wish along: the service goes on serving, and a later start is as any other."""
    file = large(cache.parent / "large.gguf", tiny)
    service = service_of(start, cache, tiny, f'[models.next]\nmodel = "{file}"')
    dropped(file)
    with held_answer(service, "m") as rest:
        with raw_request(service, "next"):
            eventually(lambda: service.model("m")["state"] == "draining")
        eventually(lambda: service.model("m")["state"] == "busy")
        eventually(lambda: readers(service) == 0)
        assert rest().endswith("data: [DONE]\n\n")

    assert service.chat("next").status_code == 200
    eventually(lambda: readers(service) == 0)


@pytest.mark.parametrize("option", ["prefetch = false", 'load-mode = "dio"'])
def test_what_is_not_to_be_read_is_not(start: Start, cache: Path, tiny: Path, option: str) -> None:
    """Turned off, or a child that reads past the page cache: nothing is read ahead, neither for a swap nor a start."""
    file = large(cache.parent / "large.gguf", tiny)
    service = service_of(start, cache, tiny, f'[models.next]\nmodel = "{file}"\n{option}')
    dropped(file)
    with held_answer(service, "m") as rest, ThreadPoolExecutor() as threads:
        other = threads.submit(service.chat, "next")
        eventually(lambda: service.model("m")["state"] == "draining")
        assert readers(service) == 0
        rest()
        assert other.result().status_code == 200

    assert load(service, "next")["prefetched_bytes"] == 0


# What status says.


def test_the_phases_of_a_start(start: Start, cache: Path, tiny: Path, binary: Path) -> None:
    """They are parts of the whole, in seconds; the size is the model's."""
    service = started(service_of(start, cache, tiny, f'binary = "{binary}"'))
    told = load(service)

    assert set(told["phases"]) == {"spawn", "prepare", "read", "warm_up"}
    assert all(seconds >= 0 for seconds in told["phases"].values())
    assert sum(told["phases"].values()) <= told["seconds"] + 0.002
    assert told["bytes"] == 337152


@pytest.mark.parametrize(
    "beside", ['mmproj = "{}/tiny-mmproj.gguf"', 'spec-draft-model = "{}/tiny-b.gguf"\nspec-type = "draft-simple"']
)
def test_a_model_with_another_beside_it_has_phases_too(start: Start, cache: Path, tiny: Path, beside: str) -> None:
    """A projector or a draft tells of its own progress, after that of the model."""
    told = load(started(service_of(start, cache, tiny, beside.format(tiny))))

    assert all(seconds is not None for seconds in told["phases"].values())
    assert sum(told["phases"].values()) <= told["seconds"] + 0.002
    assert told["bytes"] == 337152


def test_a_model_that_loads_has_no_report_yet(start: Start, cache: Path, tmp_path: Path) -> None:
    """There is none before it is ready."""
    file = tmp_path / "ready"
    command = json.dumps([sys.executable, str(ECHO_SERVER), "--port", "${PORT}", "--ready-when", str(file)])
    service = start(f"[models.m]\ncmd = {command}\n", env=environ(cache))
    with ThreadPoolExecutor() as threads:
        request = threads.submit(service.chat, "m")
        eventually(lambda: has_pid(service))
        assert load(service) is None
        file.touch()
        assert request.result().status_code == 200

    assert load(service)["seconds"] > 0


# What the tests above use.


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache directory that services of one test share."""
    return tmp_path / "cache"


def environ(cache: Path) -> dict[str, str]:
    return {"CACHE_DIRECTORY": str(cache)}


def kept_in(cache: Path) -> Path:
    return cache / "fits.json"


def lessons(cache: Path) -> int:
    """How many starts are known."""
    return len(json.loads(kept_in(cache).read_bytes())) if kept_in(cache).exists() else 0


def service_of(start: Start, cache: Path, model: Path, more: str = "") -> RunningService:
    """A service with one tiny model `m`, of a file or a folder with one, that is fitted unless it says otherwise."""
    file = model / "tiny-a.gguf" if model.is_dir() else model
    own, table, others = more.partition("[models.")
    defaults = f'[defaults]\nmodel = "{file}"\nthreads = 1\n[models.m]\n'
    if re.search("^model = ", own, re.MULTILINE):
        defaults = "[defaults]\nthreads = 1\n[models.m]\n"
    return start(f"[server]\nmax_loaded = 1\n{defaults}{own}\n{table}{others}", env=environ(cache))


def started(service: RunningService, name: str = "m") -> RunningService:
    assert service.chat(name).status_code == 200
    return service


def learn(service: RunningService, cache: Path, name: str = "m", *, lessons_then: int = 1) -> None:
    """A first start, until it is known."""
    assert fit_argument(started(service, name), name) is None
    eventually(lambda: lessons(cache) == lessons_then)


def unload(service: RunningService) -> None:
    with service.http as http:
        assert http.get("/unload").status_code == 200


def reload(service: RunningService) -> None:
    unload(service)
    started(service)


def answer(service: RunningService) -> str:
    """What the model says without any chance in it."""
    response = service.chat("m", temperature=0, max_tokens=16)
    assert response.status_code == 200
    text: str = response.json()["choices"][0]["message"]["content"]
    assert text
    return text


def props(service: RunningService, name: str = "m") -> Any:
    """How the child is set up."""
    with service.http as http:
        return http.get("/props", params={"model": name}).json()["default_generation_settings"]


def load(service: RunningService, name: str = "m") -> Any:
    """What status says of the start of the process that runs."""
    process: Any = service.model(name)["process"]
    return process["load"]


def has_pid(service: RunningService) -> bool:
    process: Any = service.model("m")["process"]
    return process is not None and process["pid"] is not None


def arguments(service: RunningService, name: str = "m") -> list[str]:
    """The command line of the child, as the kernel has it."""
    return Path(f"/proc/{service.pid(name)}/cmdline").read_text().split("\0")


def argument(service: RunningService, option: str, name: str = "m") -> str | None:
    """What follows an option on the command line of the child; None if it is not there."""
    words = arguments(service, name)
    assert words.count(option) <= 1
    return words[words.index(option) + 1] if option in words else None


def fit_argument(service: RunningService, name: str = "m") -> str | None:
    return argument(service, "--fit", name)


def offloaded(service: RunningService) -> str:
    """How many layers went to the device, as the child last told."""
    with service.http as http:
        lines = http.get("/logs/m").text
    return re.findall(r"offloaded (\d+/\d+) layers to GPU", lines)[-1]


def readers(service: RunningService) -> int:
    """Threads of the service that read ahead."""
    return sum(path.read_text() == "prefetch\n" for path in Path(f"/proc/{service.process.pid}/task").glob("*/comm"))


def large(path: Path, tiny: Path) -> Path:
    """A tiny model with a long tail, which a child maps and nobody needs."""
    with path.open("wb") as file:
        file.write((tiny / "tiny-a.gguf").read_bytes())
        file.writelines(bytes(MEGA) for _ in range(PADDING // MEGA))
    if residency(path) is None:
        pytest.skip(f"the filesystem of {path.parent} has no RWF_NOWAIT")
    return path


def dropped(path: Path) -> None:
    """Leave next to nothing of a file in memory; the kernel may keep pages that it has just been busy with."""
    with path.open("rb") as file:
        os.fsync(file.fileno())

        def is_cold() -> bool:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return (residency(path) or 0.0) < 0.1

        eventually(is_cold)


class Device:
    """An RPC server, which a llama-server takes for a device with as much memory as the machine has."""

    def __init__(self, process: subprocess.Popen[bytes], binary: Path, address: str) -> None:
        self._process = process
        self._binary = binary
        self._env = {"LLAMA_ARG_RPC": address}

    @property
    def options(self) -> str:
        """What an entry needs to use it."""
        return self._options(self._env)

    def with_free(self, megabytes: int) -> str:
        """The same, with a target for fitting that leaves so much of it to use."""
        run = subprocess.run(
            [self._binary, "--list-devices"], env={**os.environ, **self._env}, capture_output=True, text=True
        )
        free = re.search(r"RPC0: .*, (\d+) MiB free", run.stdout + run.stderr)
        assert free is not None
        return self._options({**self._env, "LLAMA_ARG_FIT_TARGET": str(int(free[1]) - megabytes)})

    def _options(self, env: dict[str, str]) -> str:
        variables = ", ".join(f'{name} = "{value}"' for name, value in env.items())
        return f'binary = "{self._binary}"\nenv = {{ {variables} }}'

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """It answers nobody."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.go_on()

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture
def device(binary: Path, tmp_path: Path) -> Iterator[Device]:
    """A device of the same build."""
    server = binary.with_name("ggml-rpc-server")
    if not server.exists():
        pytest.skip(f"no RPC server beside {binary}")
    port = free_ports(1)
    with (tmp_path / "rpc.log").open("wb") as log:
        command = [server, "-t", "1", "-p", str(port)]
        # Without restoring signals it goes on ignoring SIGPIPE, as we do: a client that is killed must not kill it.
        process = subprocess.Popen(command, stdout=log, stderr=log, restore_signals=False)
    try:
        eventually(lambda: process.poll() is not None or _answers(port))
        assert process.poll() is None, (tmp_path / "rpc.log").read_text()
        yield Device(process, binary, f"127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny mixture of experts, most of whose weights are in its experts."""
    return write_mixture(tmp_path_factory.mktemp("mixture") / "tiny-mixture.gguf")


def write_mixture(path: Path) -> Path:
    """Like the tiny models, with experts of 6 MiB a layer in the place of the feed-forward network."""
    tiny_models = ModuleType("make_tiny_models")
    SourceFileLoader("make_tiny_models", str(ROOT / "scripts" / "make_tiny_models")).exec_module(tiny_models)
    width, hidden, experts = tiny_models.WIDTH, tiny_models.FEED_FORWARD, 64
    random = np.random.default_rng(8)
    model = tiny_models.TextModel("Tiny Mixture", seed=8)
    tensors = {name: each for name, each in tiny_models.text_tensors(random).items() if not NETWORK.search(name)}
    for layer in range(tiny_models.LAYERS):
        shapes = {"gate_exps": (hidden, width), "up_exps": (hidden, width), "down_exps": (width, hidden)}
        for part, shape in shapes.items():
            weights = random.standard_normal((experts, *shape), dtype=np.float32) * 0.1
            tensors[f"blk.{layer}.ffn_{part}.weight"] = weights.astype(np.float16)
        tensors[f"blk.{layer}.ffn_gate_inp.weight"] = random.standard_normal((experts, width), dtype=np.float32)
    writer = tiny_models.GGUFWriter(path, model.architecture)
    tiny_models._add_facts(writer, model)
    tiny_models._add_vocabulary(writer)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(2)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    tiny_models._save(writer)
    return path
