"""The owner's commands around a model's life: their order, what they are told, and what their failure means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually

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
