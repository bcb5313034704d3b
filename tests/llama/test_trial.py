"""Short runs of a binary that load nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.llama.trial import Trials

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def gpu_binary(tmp_path: Path) -> Path:
    """Sees one GPU, and notes each time it is asked."""
    answer = "printf 'Available devices:\\n  CUDA0: a card (24000 MiB, 23000 MiB free)\\n'"
    return script(tmp_path / "llama-server", f"echo asked >> {tmp_path}/asked\n{answer}")


async def test_who_asks_at_the_same_time_gets_the_same_answer(gpu_binary: Path, tmp_path: Path) -> None:
    """A second model that asks while the first question is open is not told that there is no device."""
    trials = Trials()
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await trials.devices(gpu_binary, {"PATH": "/usr/bin:/bin"}))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(ask)

    assert answers == [["CUDA0: a card (24000 MiB, 23000 MiB free)"]] * 4
    assert await anyio.Path(tmp_path / "asked").read_text() == "asked\n"


async def test_no_answer_is_not_taken_for_no_device(tmp_path: Path) -> None:
    """A binary that cannot be asked is not accused of seeing no GPU; one that says so is believed."""
    env = {"PATH": "/usr/bin:/bin"}

    assert await Trials().devices(tmp_path / "not-there", env) is None
    assert await Trials().devices(script(tmp_path / "breaks", "exit 1"), env) is None
    assert await Trials().devices(script(tmp_path / "none", "echo '  (none)'"), env) == []
