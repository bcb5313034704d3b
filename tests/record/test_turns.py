"""Threads that compute, and the loop, in turns."""

from __future__ import annotations

import time

import pytest

from supervisor.record.turns import PAUSE_SECONDS, in_turns


@pytest.mark.parametrize(("count", "pauses"), [(0, 0), (30, 0), (31, 1), (100, 3)])
def test_in_turns(count: int, pauses: int) -> None:
    """All of it comes, in order, with a pause between so many and the next."""
    began = time.perf_counter()
    taken = list(in_turns(range(count), 30))

    assert taken == list(range(count))
    assert time.perf_counter() - began >= pauses * PAUSE_SECONDS
