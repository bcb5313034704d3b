"""How random worlds are played: the same ones in every run, and others at length (`-m slow`).

What hypothesis draws depends on the numbers that stand in the modules that happen to be imported, for it tries those
too: a run of one test file would play other worlds than a run of all of them. The same ones are therefore played in a
process of their own, which imports nothing else.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

if TYPE_CHECKING:
    from hypothesis.stateful import RuleBasedStateMachine

ROOT = Path(__file__).parents[2]
SAME = settings(
    max_examples=200,
    stateful_step_count=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
OTHERS = settings(SAME, max_examples=2000, derandomize=False)


def play_the_same(world: type[RuleBasedStateMachine], *, count: int = SAME.max_examples) -> None:
    """Play so many of its worlds, the same in every run on every machine."""
    command = [sys.executable, "-m", "tests.fleet.worlds", world.__module__, world.__qualname__, str(count)]
    played = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stdout + played.stderr


if __name__ == "__main__":
    _, module, name, count = sys.argv
    run_state_machine_as_test(getattr(import_module(module), name), settings=settings(SAME, max_examples=int(count)))
