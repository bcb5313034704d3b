"""The scripts: each can be run by whoever reads of it, though the suite does not measure with them."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = b"#!/usr/bin/env python3"
WITH_A_MODEL = {"demo_model"}
"""It needs what only `scripts/run` installs."""
SCRIPTS = sorted(
    path
    for path in (ROOT / "scripts").iterdir()
    if path.is_file() and path.read_bytes().startswith(PYTHON) and path.name not in WITH_A_MODEL
)


def test_there_are_some() -> None:
    assert {"bench_proxy", "bench_swap", "chaos", "replay", "trace"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_says_how_it_is_used(script: Path) -> None:
    """What it imports is there, and it ends well when asked for help; a script that takes no words is only imported."""
    takes_words = "argparse" in script.read_text()
    load = f"import runpy; runpy.run_path({str(script)!r}, run_name='loaded')"
    command = [script, "--help"] if takes_words else ["-c", load]

    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, cwd=ROOT)

    assert run.returncode == 0, run.stderr
    assert not takes_words or "usage:" in run.stdout
