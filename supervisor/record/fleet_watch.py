"""Counts what becomes of models: loads, evictions, failures; from what the planner's fleet is before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.fleet.values import Phase, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.errors import Failure
    from supervisor.fleet.values import Fleet, Run, RunId
    from supervisor.record.metrics import Metrics


class FleetWatch:
    """Told each time a run came, went or changed its phase."""

    def __init__(self, metrics: Metrics, ready_seconds: Callable[[RunId], float | None]) -> None:
        """`ready_seconds` is how long the start of a run took."""
        self._metrics = metrics
        self._ready_seconds = ready_seconds
        self._runs: Mapping[RunId, Run] = {}
        self._failures: Mapping[str, Failure] = {}

    def changed(self, fleet: Fleet) -> None:
        """Compare it with how it was."""
        runs = {run.id: run for run in fleet.runs}
        for run in fleet.runs:
            before = self._runs.get(run.id)
            if run.phase is Phase.READY and (before is None or before.phase is Phase.STARTING):
                self._metrics.loaded(run.model.id, self._ready_seconds(run.id) or 0.0)
            is_leaving = run.phase is Phase.STOPPING and run.retiring is Reason.EVICTED
            if is_leaving and (before is None or before.phase is not Phase.STOPPING):
                self._metrics.evicted(run.model.id)
        for run in self._runs.values():
            failure = fleet.failures.get(run.model.id)
            if run.id not in runs and failure is not None and failure is not self._failures.get(run.model.id):
                self._metrics.failed(run.model.id, failure.cause)
        self._runs, self._failures = runs, fleet.failures
