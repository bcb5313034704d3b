"""What is told of models before a config holds: only what is certain, in time, and no secret."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from supervisor.config.values import Config, Model, Server
from supervisor.fleet.values import Fleet, Phase, Reason, Run, RunId
from supervisor.llama.diagnosis import Diagnosis
from supervisor.llama.preflight import Inspection
from supervisor.runtime import foresight as module
from supervisor.runtime.foresight import Foresight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.anyio

MISSING = Diagnosis("model_file_missing", "it is not there: hf_canary", "get it")
PASSES = replace(MISSING, permanent=False)


async def looked(
    examine: Callable[[Model], Awaitable[Inspection]], models: str = "ab", *, runs: tuple[Run, ...] = ()
) -> dict[str, str]:
    inspector: Any = type("Scripted", (), {"examine": staticmethod(examine)})()
    config = Config(Path("/"), Server(), {name: Model(name, env={"HF_TOKEN": "hf_canary"}) for name in models})
    fleet = replace(Fleet(config), runs=runs)
    return await Foresight(inspector, lambda: fleet).broken(config, models)


async def test_what_could_not_start() -> None:
    """With the reason and what to do, every problem of it, and no secret."""

    async def examine(model: Model) -> Inspection:
        return Inspection(problems=(MISSING, MISSING) if model.id == "a" else ())

    assert await looked(examine) == {
        "a": "it is not there: [redacted]; hint: get it; also: it is not there: [redacted]"
    }


async def test_what_may_pass(caplog: pytest.LogCaptureFixture) -> None:
    """Trouble of the machine or of ours says nothing of a model, and keeps no other from being looked at."""

    async def examine(model: Model) -> Inspection:
        if model.id == "a":
            raise OSError(errno.EMFILE, "too many open files")
        if model.id == "b":
            raise ZeroDivisionError
        return Inspection(problems=(PASSES if model.id == "c" else MISSING,))

    assert (await looked(examine, "abcd")).keys() == {"d"}
    assert "bug: the look at b broke" in caplog.text


async def test_a_drive_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds no reload up; models that run are looked at first."""
    monkeypatch.setattr(module, "LONGEST", 0.05)

    async def examine(model: Model) -> Inspection:
        if model.id != "z":
            await anyio.sleep_forever()
        return Inspection(problems=(MISSING,))

    running = Run(RunId(1), Model("z"), Phase.READY, 0.0, 0.0)
    assert (await looked(examine, "az", runs=(running,))).keys() == {"z"}


async def test_who_runs() -> None:
    """Not what is on its way out: there is nothing left to be kept."""
    runs = (
        Run(RunId(1), Model("ready"), Phase.READY, 0.0, 0.0),
        Run(RunId(2), Model("starting"), Phase.STARTING, 0.0, 0.0),
        Run(RunId(3), Model("idle"), Phase.READY, 0.0, 0.0, retiring=Reason.IDLE),
        Run(RunId(4), Model("stopping"), Phase.STOPPING, 0.0, 0.0),
    )
    fleet = replace(Fleet(Config(Path("/"))), runs=runs)
    inspector: Any = None

    assert Foresight(inspector, lambda: fleet).running() == {"ready", "starting"}
