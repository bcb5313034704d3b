"""Why a child died of an instruction."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from supervisor.llama.diagnosis import found
from supervisor.llama.protocol import SWITCH
from supervisor.runtime.processor import with_lack

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def processor(root: Path, flags: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(f"flags : {flags}\n")
    return root


async def test_it_is_said_what_the_processor_lacks(tmp_path: Path, binary: Path) -> None:
    """The binary itself tells what it was built for; asking it starts no child that waits for us."""
    killed, env = found("illegal_instruction"), {**os.environ, SWITCH: "0"}
    told = await with_lack(killed, binary, env, processor(tmp_path, "pni ssse3 avx f16c fma"))

    assert "was built for AVX" in told.message
    assert told.message.endswith("which this processor lacks")
    assert (told.cause, told.hint) == (killed.cause, killed.hint)


async def test_nothing_more_is_known(tmp_path: Path, binary: Path) -> None:
    """Of other ends, of wrappers, of programs that say nothing and of machines that do not, it stays as it is."""
    killed, other = found("illegal_instruction"), found("bus_error")
    root = processor(tmp_path, "pni")

    assert await with_lack(other, binary, os.environ, root) is other
    assert await with_lack(killed, None, os.environ, root) is killed
    assert await with_lack(killed, tmp_path / "gone", os.environ, root) is killed
    assert await with_lack(killed, binary, os.environ, tmp_path / "nowhere") is killed
