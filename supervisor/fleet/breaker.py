"""When a model that failed may be tried again.

A permanent cause waits for a change, a transient one for a time that doubles with each failure, a third crash within
a minute likewise. What only lacked memory may be tried as soon as some was given back.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.errors import ModelFailed
from supervisor.fleet.values import Breaker, Fleet, Phase, Run

if TYPE_CHECKING:
    from supervisor.errors import Failure

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
CRASHES = 3
CRASH_WINDOW = 60.0

OUTSIDE = frozenset(
    {
        "backend_incompatible",
        "binary_does_not_run",
        "device_missing",
        "gpu_driver",
        "shared_library_missing",
        "user_config_invalid",
    }
)
"""Permanent causes that may be mended without touching a file we know: those are tried again after a pause."""

MEMORY = frozenset({"out_of_device_memory", "out_of_memory", "oom_killed"})
"""Causes that pass when another process gives memory back."""


def after_failure(fleet: Fleet, run: Run, failure: Failure, now: float, *, jitter: float) -> Fleet:
    """The fleet with this failure counted and kept, and how long to wait in its report."""
    before = fleet.breakers.get(run.model.id, Breaker())
    if run.phase is not Phase.STARTING:
        after = _crashed(before, now, jitter)
    elif failure.phase == "preparing":
        after = replace(before, retry_at=now)  # looking again costs next to nothing, and finds what has been mended
    elif failure.permanent and not _may_be_mended_unseen(run, failure):
        after = replace(before, retry_at=math.inf)
    else:
        failed = before.failed + 1
        after = replace(before, failed=failed, retry_at=now + _pause(failed, jitter))
    if not failure.permanent and failure.phase != "preparing":
        failure = replace(failure, retry_after_seconds=round(after.retry_at - now, 1) or FIRST_PAUSE)
    return with_breaker(with_failure(fleet, run.model.id, failure), run.model.id, after)


def _may_be_mended_unseen(run: Run, failure: Failure) -> bool:
    """Whether what was lacking may come back without our notice: which files a script reads nobody tells us."""
    return failure.cause in OUTSIDE or (bool(run.model.cmd) and failure.binary is None)


def after_success(fleet: Fleet, model: str) -> Fleet:
    """A start that went well clears what went before; crashes of late are remembered, for it may crash again."""
    before = fleet.breakers.get(model)
    return with_breaker(fleet, model, Breaker(crashes=before.crashes)) if before else fleet


def after_exit(fleet: Fleet, run: Run, now: float) -> Fleet:
    """Memory was given back: whoever failed for want of it may try again."""
    for model, breaker in fleet.breakers.items():
        failure = fleet.failures.get(model)
        if model != run.model.id and failure is not None and failure.cause in MEMORY:
            fleet = with_breaker(fleet, model, replace(breaker, retry_at=now))
    return fleet


def refusal(fleet: Fleet, model: str, now: float) -> ModelFailed | None:
    """The stored report, if this model is not to be started now."""
    breaker, failure = fleet.breakers.get(model), fleet.failures.get(model)
    if breaker is None or failure is None or now >= breaker.retry_at:
        return None
    if failure.permanent:
        return ModelFailed(failure)
    return ModelFailed(failure, retry_after=round(breaker.retry_at - now, 1))


def with_failure(fleet: Fleet, model: str, failure: Failure | None) -> Fleet:
    """The fleet with this model's last failure set, or forgotten."""
    if failure is None and model not in fleet.failures:
        return fleet
    rest = {name: old for name, old in fleet.failures.items() if name != model}
    return replace(fleet, failures=rest if failure is None else {**rest, model: failure})


def with_breaker(fleet: Fleet, model: str, breaker: Breaker | None) -> Fleet:
    """The fleet with this model's breaker set, or forgotten."""
    rest = {name: old for name, old in fleet.breakers.items() if name != model}
    return replace(fleet, breakers=rest if breaker in {None, Breaker()} else {**rest, model: breaker})


def _crashed(before: Breaker, now: float, jitter: float) -> Breaker:
    crashes = (*(at for at in before.crashes if now - at < CRASH_WINDOW), now)
    pause = _pause(len(crashes) - CRASHES + 1, jitter) if len(crashes) >= CRASHES else 0.0
    return replace(before, crashes=crashes, retry_at=now + pause)


def _pause(failed: int, jitter: float) -> float:
    """Doubling from 1 s to 5 min, the upper half of it left to chance."""
    longest = min(FIRST_PAUSE * 2.0 ** min(failed - 1, 30), LONGEST_PAUSE)
    return longest if failed <= 1 else longest * (0.5 + 0.5 * jitter)
