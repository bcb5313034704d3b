"""Memory as users see it, with real llama-servers: an estimate before the first load, and then what it really took."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.llama.estimate import estimate
from supervisor.llama.gguf import read_header
from supervisor.llama.offloading import Plan
from tests.conftest import RunningService, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

DEMO = Path(__file__).parents[1] / "models" / "gemma-3-270m-q4_k_m.gguf"
"""Joined by `scripts/demo_model`; without it the tests make do with the tiny model."""


def held(pid: int) -> int:
    """What the kernel counts as the process's: anonymous memory and the pages of mapped files."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
    return sizes["Anonymous"] + (sizes["Rss"] - sizes["Anonymous"])


def memory(service: RunningService, name: str) -> dict[str, Any]:
    """What `/status` says that a model takes."""
    found = service.model(name)["memory"]
    assert isinstance(found, dict)
    return found


def is_measured(service: RunningService, name: str) -> bool:
    return service.model(name)["memory"] is not None and memory(service, name)["source"] == "measured"


@pytest.fixture(params=["tiny", "demo"])
def model(request: pytest.FixtureRequest, tiny: Path) -> Path:
    if request.param == "demo" and not DEMO.exists():
        pytest.skip("the demo model is not here")
    return DEMO if request.param == "demo" else tiny / "tiny-a.gguf"


@pytest.mark.parametrize("context", [512, 8192])
def test_the_ledger_knows_what_a_process_takes(
    start: Callable[..., RunningService], tmp_path: Path, model: Path, binary: Path, context: int
) -> None:
    """After one load within a tenth of the kernel's count, and after a restart at once."""
    config = f'[models.m]\nmodel = "{model}"\nbinary = "{binary}"\nctx-size = {context}\n'
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    service = start(config, env=env)
    eventually(lambda: service.model("m")["memory"] is not None)
    estimated = memory(service, "m")
    assert service.chat("m").status_code == 200
    eventually(lambda: is_measured(service, "m"))

    measured = memory(service, "m")
    assert measured["devices"]["host"] == pytest.approx(held(service.pid("m")), rel=0.1)
    assert any(part["file"] == str(model.resolve()) for part in measured["parts"]) or model.stat().st_size < 2**20
    assert estimated["source"] == "estimate"
    assert estimated["devices"]["host"] == pytest.approx(measured["devices"]["host"], rel=1.0)
    service.stop()
    again = start(config, env=env)
    eventually(lambda: again.model("m")["memory"] is not None)
    assert memory(again, "m") == measured
    assert again.model("m")["process"] is None


@pytest.mark.parametrize(
    "options",
    [
        {"ctx-size": 512},
        {"ctx-size": 4096, "parallel": 1},
        {"ctx-size": 4096, "parallel": 2, "ubatch-size": 256},
        {"ctx-size": 16384, "kv-unified": True, "parallel": 3},
    ],
)
def test_estimates_are_what_llama_server_allocates(
    tmp_path: Path, model: Path, binary: Path, options: dict[str, int | bool]
) -> None:
    """Of caches to the byte, of compute buffers within a tenth, as the child itself tells of them."""
    told = allocated(tmp_path, model, binary, options)

    estimated = estimate(Plan(header=read_header(model), file=str(model), options=options))

    of_caches = sum(part.bytes for part in estimated if part.label.startswith("KV cache"))
    computing = sum(part.bytes for part in estimated if part.label == "compute buffer")
    assert of_caches == pytest.approx(told["KV"], abs=0.02 * 2**20)
    assert computing == pytest.approx(told["compute"], rel=0.1)


def allocated(folder: Path, model: Path, binary: Path, options: dict[str, int | bool]) -> Counter[str]:
    """Bytes by kind of buffer, from the log of a real start."""
    words = [
        word for name, value in options.items() for word in (f"--{name}", *([] if value is True else [str(value)]))
    ]
    argv = [binary, "-m", model, *words, "-fit", "off", "-lv", "4", "--host", folder / "x.sock", "--port", "0"]
    env = {**os.environ, "LLAMA_SERVER_ROUTER_PORT": "0", "XDG_CONFIG_HOME": str(folder)}
    log = folder / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=env) as process,
    ):
        assert process.stdout is not None
        assert any(b'"ready"' in line for line in process.stdout), log.read_text()
        process.communicate()
    found = re.findall(r"CPU +(\w+) buffer size = +([\d.]+) MiB", log.read_text())
    return sum((Counter({kind: round(float(size) * 2**20)}) for kind, size in found), Counter())


def test_people_see_where_the_numbers_come_from(
    start: Callable[..., RunningService], tmp_path: Path, tiny: Path, binary: Path
) -> None:
    """`check` and `ps` say how much, how it is known, of what it is made up and how much there may be."""
    text = f'[memory]\nbudget = {{ host = "2GiB" }}\n[models.m]\nmodel = "{tiny}/tiny-a.gguf"\nbinary = "{binary}"\n'
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    config = tmp_path / "models.toml"
    config.write_text(text)

    before = run("check", "-c", config, env=env)
    assert " of 2.0 GiB on host, estimated: weights tiny-a.gguf " in before
    assert "KV cache (2048 tokens) 1 MiB" in before
    service = start(text, env=env)
    assert service.chat("m").status_code == 200
    eventually(lambda: is_measured(service, "m"))

    assert "on host, measured: memory of its own " in run("ps", "--url", service.url, env=env)
    assert " of 2.0 GiB on host, measured: memory of its own " in run("check", "-c", config, env=env)
    config.write_text(text.replace("host =", 'CUDA7 = "1GiB", host ='))
    assert "memory.budget.CUDA7: no llama-server here lists such a device" in run(
        "check", "-c", config, env=env, of="err"
    )
    config.write_text(text)
    told = json.loads(run("check", "-c", config, "--json", env=env))["memory"]
    assert told["models"]["m"]["source"] == "measured"
    assert [device["budget_bytes"] for device in told["devices"]] == [2**31]
    devices = service.status()["devices"]
    assert isinstance(devices, list)
    assert devices[0].keys() == {"id", "name", "total_bytes", "free_bytes", "budget_bytes", "uuid", "pci", "unified"}
    assert 0 < devices[0]["free_bytes"] <= devices[0]["total_bytes"]


def test_a_wrapped_server_is_measured_with_its_wrapper(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """Of a command all processes count; of what nobody knows beforehand there is no estimate."""
    child = "import sys; held = bytearray(b'x' * (64 << 20)); sys.argv[:] = sys.argv[1:]; import runpy; "
    child += "runpy.run_path(sys.argv[0], run_name='__main__')"
    echo = Path(__file__).with_name("echo_server.py")
    words = ["sh", "-c", '"$@" & wait', "sh", sys.executable, "-c", child, str(echo), "--port", "${PORT}"]
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    service = start(f"[models.m]\ncmd = {json.dumps(words)}\n", env=env)
    assert service.model("m")["memory"] is None

    assert service.chat("m").status_code == 200
    eventually(lambda: is_measured(service, "m"))

    assert memory(service, "m")["devices"]["host"] > 64 << 20


def run(*words: object, env: dict[str, str], of: str = "out") -> str:
    """What a command prints."""
    argv = [Path(sys.executable).parent / "llama-supervise", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **env}, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr if of == "err" else done.stdout


def test_models_stay_as_long_as_they_fit(
    start: Callable[..., RunningService], tmp_path: Path, model: Path, binary: Path
) -> None:
    """A budget for two: the third evicts the one that is used more rarely, and `why` says so with the numbers."""
    config = f"""
        [defaults]
        model = "{model}"
        binary = "{binary}"
        threads = 1
        no-warmup = true
        [models.a]
        ctx-size = 2048
        [models.b]
        ctx-size = 4096
        [models.c]
        ctx-size = 2048
    """
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    taken = {}
    service = start(config, env=env)
    for name in "abc":
        assert service.chat(name).status_code == 200
        eventually(lambda name=name: is_measured(service, name))  # type: ignore[misc]
        taken[name] = memory(service, name)
    assert all(service.model(name)["process"] for name in taken), "without a budget all of them fit"
    service.stop()

    own = {name: sum(part["bytes"] for part in each["parts"] if not part["file"]) for name, each in taken.items()}
    shared = max(each["devices"]["host"] - own[name] for name, each in taken.items())
    budget = int(shared + sum(own.values()) - min(own.values()) / 2)
    service = start(f'{config}\n[memory]\nbudget = {{ host = "{budget // 1024}KiB" }}', env=env)
    for name in "abab":
        assert service.chat(name).status_code == 200
    assert service.chat("b").status_code == 200
    kept = service.pid("b")
    assert service.chat("c").status_code == 200

    assert [name for name in "abc" if service.model(name)["process"]] == ["b", "c"]
    assert service.pid("b") == kept
    (eviction,) = [each for each in service.status()["decisions"] if each["kind"] == "evicted"]  # type: ignore[attr-defined]
    assert eviction["others"] == ["a"]
    assert re.match(
        r"c needs .* MiB of memory \(measured, .* MiB more are shared\), .* free; evicted a \(", eviction["reason"]
    )
