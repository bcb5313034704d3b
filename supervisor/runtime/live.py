"""The living side of a run: its leases, its process, and what is known of it right now."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import anyio

from supervisor.fleet.books import usual_gap
from supervisor.fleet.values import Count
from supervisor.llama.devices import Hearsay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.config.values import Model
    from supervisor.errors import Failure
    from supervisor.fleet.values import Run
    from supervisor.llama.endpoint import Endpoint
    from supervisor.llama.warnings import ModelWarning
    from supervisor.runtime.child import Child
    from supervisor.runtime.load_report import LoadReport

logger = logging.getLogger("supervisor.live")

MOST_WARNINGS = 20
"""A child may complain without end; the rest is in its log."""


class Lease:
    """A request's hold on a run, given back by hand or on leaving its `with` block. The count is the run's."""

    __slots__ = ("_give_back", "run")

    def __init__(self, run: LiveRun, give_back: Callable[[LiveRun], None]) -> None:
        self.run = run
        self._give_back = give_back

    def give_back(self) -> None:
        """End one hold."""
        self._give_back(self.run)

    def __enter__(self) -> LiveRun:
        return self.run

    def __exit__(self, *_: object) -> None:
        self._give_back(self.run)


class LiveRun:
    """What the planner calls a run, while it lives. The hot path counts leases here."""

    __slots__ = (
        "_on_end",
        "awaited",
        "child",
        "devices",
        "endpoint",
        "failure",
        "gap",
        "gone",
        "heard",
        "heard_at",
        "id",
        "is_cut",
        "is_cut_by_shutdown",
        "lease",
        "leases",
        "load",
        "model",
        "ready_payload",
        "ready_seconds",
        "scope",
        "slots",
        "started_at",
        "used_at",
        "warnings",
        "was_left_alone",
        "was_visited",
    )

    def __init__(self, run: Run) -> None:
        self.id = run.id
        self.model = run.model
        self.devices = run.devices
        """Where its child is to go; empty: it is not told."""
        self.slots = run.model.concurrency
        self.leases = run.leases
        self.lease: Lease | None = None
        """What each of those who use it holds; they do not differ."""
        self.started_at = run.started_at
        self.used_at = run.used_at
        self.gap = run.gap
        """Seconds between two visits, as a moving average; None before the second."""
        self.awaited = 0
        """Answers the child owes; a websocket may stay silent for as long as it likes."""
        self.heard_at = run.used_at
        """When the last byte of an answer came."""
        self.endpoint: Endpoint | None = None
        self.child: Child | None = None
        self.ready_payload: Mapping[str, object] = {}
        """What the child says of its model once it is ready."""
        self.ready_seconds: float | None = None
        """How long the start took."""
        self.load: LoadReport | None = None
        """What the phases of its start cost."""
        self.was_left_alone = False
        """Whether fitting, where the child tells, has changed nothing on its devices."""
        self.heard = Hearsay()
        """What the child has said of its memory while it loaded."""
        self.was_visited = False
        self.warnings: dict[str, ModelWarning] = {}
        """What runs otherwise than it was meant to, by message."""
        self.failure: Failure | None = None
        self.gone = asyncio.Event()
        self.is_cut = False
        """Whether it was told to leave; how it ends then is no failure."""
        self.is_cut_by_shutdown = False
        self.scope = anyio.CancelScope()
        self._on_end: list[Callable[[], None]] = []

    def adopt(self, model: Model) -> None:
        """Go on as this model, which the same process can serve."""
        self.model = model
        self.slots = model.concurrency

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child else None

    @property
    def api_key(self) -> str | None:
        """What its server wants to be sent with each request; only we know it."""
        return self.child.command.api_key if self.child else None

    def visit(self, now: float) -> None:
        """It is used after another one was; its first visit is what it was started for."""
        if self.was_visited:
            self.gap = usual_gap(self.gap, now - self.used_at)
        self.was_visited = True

    def count(self) -> Count:
        """What the planner has to know of its use."""
        return Count(self.leases, self.used_at, self.gap)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call this when the run is asked to leave, or has left by itself."""
        self._on_end.append(callback)

    def cut(self, *, by_shutdown: bool) -> None:
        """Cut the requests it still serves."""
        self.is_cut = True
        self.is_cut_by_shutdown = by_shutdown
        self._run_callbacks()

    def terminate(self, *, by_shutdown: bool = False) -> None:
        """Cut the requests it still serves and end its process."""
        self.cut(by_shutdown=by_shutdown)
        self.scope.cancel()

    def force(self) -> None:
        """Kill its process, whatever it is about to do."""
        if self.child is not None:
            self.child.force()

    def end(self, failure: Failure | None) -> None:
        """The process is gone."""
        self.failure = failure
        self.gone.set()
        self._run_callbacks()

    def warn(self, warning: ModelWarning) -> None:
        """Note that something runs otherwise than it was meant to."""
        if warning.message not in self.warnings and len(self.warnings) < MOST_WARNINGS:
            logger.warning("%s: %s; hint: %s", self.model.id, warning.message, warning.hint)
            self.warnings[warning.message] = warning

    def became_ready(self, payload: Mapping[str, object], load: LoadReport, now: float) -> None:
        """The child serves."""
        self.ready_payload = payload
        self.load = load
        self.ready_seconds = now - self.started_at
        self.used_at = now

    def _run_callbacks(self) -> None:
        while self._on_end:
            self._on_end.pop()()

    def __repr__(self) -> str:
        age = time.monotonic() - self.started_at
        return f"<LiveRun {self.id} {self.model.id} [pid {self.pid} | {self.leases} leases | {age:.1f} s]>"
