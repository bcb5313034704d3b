"""The owner's commands around a model's life: their order, what they are told, and what their failure means."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.conftest import alive, eventually
from tests.test_swapping import endless_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import RunningService as Service


def config(tiny: Path, hooks: str) -> str:
    return f"""
        [server]
        max_loaded = 1
        [defaults]
        model = "{tiny}/tiny-a.gguf"
        ctx-size = 256
        context-shift = true
        fit = "off"
        threads = 1
        [models.a]
        [models.a.hooks]
        {hooks}
        [models.b]
    """


def noting(name: str, note: Path, *, then: str = "") -> str:
    """A hook that writes down that it ran, what it was told, and whether the model's process lives."""
    script = (
        f"import os; pid = os.environ.get('LLAMA_SUPERVISE_PID', ''); "
        f"print(os.environ['LLAMA_SUPERVISE_HOOK'], os.environ['LLAMA_SUPERVISE_MODEL'], "
        f"bool(pid) and os.path.exists('/proc/' + pid), file=open('{note}', 'a')); {then}"
    )
    return f'{name} = ["python3", "-c", "{script}"]'


def test_hooks_run_around_the_life_of_a_model(start: Callable[..., Service], tiny: Path, tmp_path: Path) -> None:
    """Each once, in their order; the process lives in the two that say so."""
    note = tmp_path / "note"
    names = ("before_load", "after_load", "before_unload", "after_unload")
    service = start(config(tiny, "\n".join(noting(name, note) for name in names)))

    assert service.chat("a").status_code == 200
    eventually(lambda: "after_load" in note.read_text())
    assert service.chat("b").status_code == 200

    assert note.read_text().splitlines() == [
        "before_load a False",
        "after_load a True",
        "before_unload a True",
        "after_unload a False",
    ]


@pytest.mark.parametrize("required", [True, False])
def test_failed_hook_is_a_warning_or_a_refusal(
    start: Callable[..., Service], tiny: Path, tmp_path: Path, required: bool
) -> None:
    """A refusal only if asked for; either way it is told what failed."""
    hook = noting("before_load", tmp_path / "note", then="raise SystemExit(3)")
    service = start(config(tiny, f"{hook}\nrequired = {str(required).lower()}"))

    answer = service.chat("a")
    assert answer.status_code == (503 if required else 200)
    if required:
        assert answer.json()["error"]["code"] == "hook_failed"
        assert "ended with code 3" in answer.json()["error"]["message"]


def test_hook_that_hangs_is_killed(start: Callable[..., Service], tiny: Path) -> None:
    """It has a limited time, and what it started goes with it."""
    service = start(config(tiny, 'before_load = ["sleep", "1000"]\ntimeout = "50ms"'))

    assert service.chat("a").status_code == 200
    assert len(service.children()) == 1


# At the end of the service.

HANGING = "import time; time.sleep(1000)"


@pytest.mark.parametrize("name", ["before_unload", "after_unload"])
def test_hook_that_hangs_at_the_end_of_the_service(
    start: Callable[..., Service], tiny: Path, tmp_path: Path, name: str
) -> None:
    """It has its time as ever, and the service ends with every child gone."""
    note = tmp_path / "note"
    service = start(config(tiny, f'{noting(name, note, then=HANGING)}\ntimeout = "1s"'))
    service.chat("a")
    pid = service.pid("a")

    assert service.stop() == 0
    assert note.read_text().startswith(name)
    assert not alive(pid)
    assert "was killed after 1 s" in (service.directory / "service.log").read_text()


def test_requests_are_cut_in_time_whatever_a_hook_does(
    start: Callable[..., Service], tiny: Path, tmp_path: Path
) -> None:
    """They have `drain_timeout`; then their process lives on for the hook alone."""
    note = tmp_path / "note"
    text = config(tiny, noting("before_unload", note, then=HANGING)).replace("[server]", "[server]\ndrain_timeout = 0")
    service = start(text)
    with endless_answer(service, "a") as pieces:
        pid = service.pid("a")
        service.process.send_signal(signal.SIGTERM)
        end = "".join(pieces)
        assert alive(pid)
        eventually(note.exists)

    assert json.loads(end.rpartition("data: ")[2])["error"]["code"] == "shutting_down"
    assert service.stop() == 0


@pytest.mark.parametrize("name", ["before_unload", "after_unload"])
def test_second_signal_waits_for_no_hook(start: Callable[..., Service], tiny: Path, tmp_path: Path, name: str) -> None:
    """Neither for one that runs nor for one that would be next; and what ends in this way has not crashed."""
    note = tmp_path / "note"
    hooks = f'{noting(name, note, then=HANGING)}\ntimeout = "1h"'
    service = start(config(tiny, hooks))
    service.chat("a")
    service.process.send_signal(signal.SIGTERM)
    eventually(lambda: note.exists() and name in note.read_text())
    began = time.monotonic()

    assert service.stop() == 0
    assert time.monotonic() - began < 20
    assert "crashed" not in (service.directory / "service.log").read_text()
