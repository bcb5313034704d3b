"""Everything is broken while clients ask, and every request is accounted for: `scripts/chaos`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("seconds", "limit"), [(20, 200), pytest.param(300, 600, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_nothing_is_lost_wrong_or_left(wheel_binary: Path, seconds: int, limit: int) -> None:
    """No request lost or answered wrongly, no orphan, no leak."""
    argv = [sys.executable, ROOT / "scripts" / "chaos", "--seconds", str(seconds), "--binary", wheel_binary]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as storm:
        try:
            told, _ = storm.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            storm.terminate()
            raise

    assert storm.returncode == 0, told[-4000:]
    assert "lost without an answer" in told
