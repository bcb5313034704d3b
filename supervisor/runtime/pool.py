"""The pool: tells the planner what happened and does what it decides. One arrow in (events), one out (actions).

`_step` is a plain function: it replaces the fleet and performs the actions, none of which blocks. While a run is open
and nobody waits for it, leases are only counted here; the planner sees the exact counts whenever it decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self, assert_never

import anyio

from supervisor.errors import ModelNotLoaded, SupervisorError
from supervisor.fleet.actions import Grant, Load, Look, Refuse, Spawn, Tell, Terminate
from supervisor.fleet.decisions import Kind
from supervisor.fleet.events import (
    Abandoned,
    BecameReady,
    Checked,
    Closing,
    Exited,
    Reconfigured,
    Released,
    Requested,
    Tick,
    UnloadAsked,
)
from supervisor.fleet.memory import Measured
from supervisor.fleet.planner import decide, next_deadline
from supervisor.fleet.queue import Ticket, TicketId
from supervisor.fleet.step import Step
from supervisor.fleet.values import Fleet, Phase, Reason, RunId
from supervisor.fleet.waiting import expected_wait
from supervisor.record.decisions import Decisions
from supervisor.runtime.checks import Checks
from supervisor.runtime.live import Lease, LiveRun
from supervisor.runtime.observer import observe
from supervisor.runtime.reports import Reports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from supervisor.config.values import Config, Model
    from supervisor.errors import Failure
    from supervisor.fleet.actions import Action
    from supervisor.fleet.decisions import Decision
    from supervisor.fleet.events import Event
    from supervisor.fleet.memory import Footprint
    from supervisor.record.decisions import Decided
    from supervisor.runtime.launcher import Launcher

logger = logging.getLogger("supervisor.pool")

QUIET = frozenset({Kind.WAITED, Kind.REFUSED})
"""Decisions that a client hears of himself."""


class Pool:
    """All children of the config in force, and everybody who waits for them."""

    def __init__(self, config: Config, launcher: Launcher, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.fleet = Fleet(config)
        self.on_change: list[Callable[[], None]] = []
        """Called after a step in which a run came, went or changed its phase; must not raise."""
        self.decisions = Decisions()
        self.on_decision: list[Callable[[Decided], None]] = []
        """Called with each decision; must not raise."""
        self.on_step: list[Callable[[Step], None]] = []
        """Called with all that the planner hears and says; must not raise."""
        self._launcher = launcher
        self._clock = clock
        self._runs: dict[RunId, LiveRun] = {}
        self._used: LiveRun | None = None
        """The run that was used last: requests for one model in a row are one visit."""
        self._open: dict[str, LiveRun] = {}
        """Runs that may be leased without asking the planner, by model."""
        self._expected: str | None = None
        """The model whose files are read ahead for a swap."""
        self._gates: dict[TicketId, asyncio.Future[LiveRun]] = {}
        self._reports = Reports(config, launcher.fingerprint)
        self._tickets = 0
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._checks = Checks(launcher, tell=self._checked)
        self.checked = self._checks.done
        """Set once every model has been looked at."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._launcher.ledger.on_change.append(self._measured)
        self._checks.look_at(self.config.models.values())
        self._tasks.start_soon(self._checks.run)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Refuse who waits, let requests in flight finish up to `drain_timeout`, end every child."""
        with anyio.CancelScope(shield=True):
            self.close()
            while self._runs:
                await self._changed.wait()
        self._cancel_timer()
        self._tasks.cancel_scope.cancel()
        await self._stack.__aexit__(exc_type, exc, traceback)

    # What others ask for.

    async def lease(self, model: str) -> Lease:
        """Hold on to a ready run of this model, starting it if need be.

        Raises a `SupervisorError`: the model failed, does not fit, the queue is full, we are closing.
        """
        lease = self.lease_at_once(model)
        return Lease(await self._wait(model), self._release) if lease is None else lease

    def lease_at_once(self, model: str) -> Lease | None:
        """Hold on to a run that is ready and takes another request; None if one would have to wait."""
        run = self._open.get(model)
        if run is None or (run.slots is not None and run.leases >= run.slots):
            return None
        self._use(run)
        lease = run.lease
        if lease is None:
            lease = run.lease = Lease(run, self._release)
        return lease

    def look(self, model: str) -> Lease:
        """Hold on to a model that is loaded without using it: neither waits nor keeps the model from being idle.

        Raises `ModelNotLoaded`.
        """
        run = self.live(model)
        if run is None or not any(known.id == run.id and known.is_open for known in self.fleet.runs):
            raise ModelNotLoaded(f"`{model}` is not loaded", hint="looking at a model does not load it")
        run.leases += 1
        return Lease(run, self._look_away)

    def is_open(self, model: str) -> bool:
        """Whether a lease on this model can be had without waiting for its start."""
        return model in self._open

    def expected_wait(self, model: str) -> float:
        """Seconds of loading until a request for this model would be let through, as far as can be told."""
        return expected_wait(self.fleet, model, self._clock())

    def start_loading(self, model: str) -> None:
        """Load this model in the background, as if a request had come for it."""
        self._tasks.start_soon(self._load, model)

    async def load(self, model: str) -> None:
        """Load this model, even if it has just failed, and return when it is ready; raises like `lease`."""
        if model in self.fleet.breakers:
            self._step(Checked(model))
        with await self.lease(model):
            pass

    async def unload(self, model: str | None = None, *, force: bool = False) -> None:
        """Unload a model (None: all) and return when its process is gone."""
        leaving = {run.id for run in self._runs.values() if model in {None, run.model.id}}
        self._step(UnloadAsked(model, force))
        while leaving & self._runs.keys():
            await self._changed.wait()

    def start_unloading(self, model: str, *, force: bool = False) -> None:
        """Unload a model; do not wait."""
        self._step(UnloadAsked(model, force))

    def adopt(self, config: Config) -> None:
        """Let this config hold: what it says of processes that may stay holds for them from now on."""
        self.config = config
        self._reports.adopt(config)
        self._step(Reconfigured(config))
        for run in self.fleet.runs:
            self._runs[run.id].adopt(run.model)
        self._checks.look_at(config.models.values())

    def close(self, *, force: bool = False) -> None:
        """Take no more requests and start to end everything; `force` waits for no request, child or hook."""
        if not self.fleet.closing:
            self._step(Closing())
        if force:
            self._launcher.hooks.end()
            self._step(UnloadAsked(force=True))
            for live in self._runs.values():
                live.terminate(by_shutdown=True)
                live.force()

    @property
    def reports(self) -> Mapping[str, Failure]:
        """The last report of every model that ever failed, whatever happened to it since."""
        return self._reports.last

    def live(self, model: str) -> LiveRun | None:
        """The process behind a model, whatever its phase."""
        run = self.fleet.run_of(model)
        return self._runs.get(run.id) if run else None

    def live_run(self, run: RunId) -> LiveRun | None:
        """The living side of a run."""
        return self._runs.get(run)

    # One arrow in, one arrow out.

    def _step(self, event: Event) -> None:
        now = self._clock()
        before = [(run.id, run.phase) for run in self.fleet.runs]
        fleet = self.fleet.recounted({run.id: run.count() for run in self._runs.values()})
        self.fleet, actions = decide(fleet, event, now)
        logger.debug("%s -> %s -> %r", event, actions, self.fleet)
        for note in self.on_step:
            note(Step(now, fleet, event, actions))
        for action in actions:
            self._perform(action)
        self._reopen(now)
        self._expect()
        self._arm(now)
        self._changed.set()
        self._changed = asyncio.Event()
        if before != [(run.id, run.phase) for run in self.fleet.runs]:
            for callback in self.on_change:
                callback()

    def _perform(self, action: Action) -> None:
        match action:
            case Spawn(run):
                live = LiveRun(run)
                self._runs[run.id] = live
                self._tasks.start_soon(self._live, live)
            case Terminate(run_id):
                live = self._runs[run_id]
                logger.info("stopping %s (run %s, pid %s)", live.model.id, run_id, live.pid, extra=_facts(live))
                if live.load is not None and live.model.hooks.before_unload:
                    live.cut(by_shutdown=self.fleet.closing)
                    self._tasks.start_soon(self._part_from, live)
                else:
                    live.terminate(by_shutdown=self.fleet.closing)
            case Grant(ticket, run_id):
                live = self._runs[run_id]
                self._use(live)
                self._gates.pop(ticket).set_result(live)
            case Refuse(ticket, error):
                self._gates.pop(ticket).set_exception(error)
            case Look():
                pids = {run.id: run.pid for run in self._runs.values() if run.pid is not None}
                self._tasks.start_soon(observe, self._launcher.ledger.readings, pids, self._step)
            case Load(model):
                self._tasks.start_soon(self._load_as_asked, model)
            case Tell(decision):
                self._note_decision(decision)
            case _:
                assert_never(action)

    def _use(self, run: LiveRun) -> None:
        now = self._clock()
        if self._used is not run:
            run.visit(now)
            self._used = run
        run.leases += 1
        run.used_at = now

    def _note_decision(self, decision: Decision) -> None:
        logger.log(logging.DEBUG if decision.kind in QUIET else logging.INFO, "%s", decision.reason)
        decided = self.decisions.add(decision)
        for callback in self.on_decision:
            callback(decided)

    def _reopen(self, now: float) -> None:
        """Once somebody has waited for `max_wait`, only the planner lets others through; pinned runs give no room."""
        queue = self.fleet.queue
        waiting = queue.wanted
        overdue = bool(queue) and now >= queue[0].since + self.config.server.max_wait
        self._open = {
            run.model.id: self._runs[run.id]
            for run in self.fleet.runs
            if run.is_open and run.model.id not in waiting and (run.model.pinned or not overdue)
        }

    def _expect(self) -> None:
        """While somebody is told to leave, what it makes room for may be prepared, until its child takes that over."""
        fleet = self.fleet
        if any(live.model.id == self._expected and live.child is None for live in self._runs.values()):
            return
        is_swapping = fleet.books.is_looking or any(run.retiring is Reason.EVICTED for run in fleet.runs)
        cold = (name for name in fleet.queue.wanted if (run := fleet.run_of(name)) is None or run.is_leaving)
        coming = next(cold, None) if is_swapping else None
        self._expected = coming
        staying = [run.id for run in fleet.runs if not run.is_leaving] if coming else []
        pids = [pid for run in staying if (pid := self._runs[run].pid) is not None]
        self._launcher.expect(self.config.models[coming] if coming else None, pids)

    def _arm(self, now: float) -> None:
        self._cancel_timer()
        deadline = next_deadline(self.fleet, now)
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(deadline - now, 0.0), self._step, Tick())

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Who waits.

    async def _wait(self, model: str) -> LiveRun:
        self._tickets += 1
        ticket = Ticket(TicketId(self._tickets), model, self._clock())
        if self._reports.is_outdated(model):
            self._step(Checked(model))
        gate: asyncio.Future[LiveRun] = asyncio.get_running_loop().create_future()
        self._gates[ticket.id] = gate
        self._step(Requested(ticket))
        try:
            # Shielded, for the planner may answer in the same turn of the loop in which the client is cancelled.
            run = await asyncio.shield(gate)
        except asyncio.CancelledError:
            if not gate.done():
                del self._gates[ticket.id]
                self._step(Abandoned(ticket.id))
            elif gate.exception() is None:
                self._release(gate.result())
            raise
        return run

    def _release(self, run: LiveRun) -> None:
        run.leases -= 1
        run.used_at = self._clock()
        if (self.fleet.queue or self._open.get(run.model.id) is not run) and run.id in self._runs:
            self._step(Released(run.id))

    def _look_away(self, run: LiveRun) -> None:
        run.leases -= 1
        if run.id in self._runs:
            self._step(Released(run.id))

    async def _load(self, model: str) -> None:
        try:
            await self.load(model)
        except SupervisorError as exc:
            logger.warning("%s", exc)

    async def _load_as_asked(self, model: str) -> None:
        """As for a client: what has just failed is not tried again before its time."""
        with contextlib.suppress(SupervisorError):  # it is logged where it happens
            (await self.lease(model)).give_back()

    # Whom they wait for.

    async def _live(self, live: LiveRun) -> None:
        """The life of one run; whatever happens in it, the planner hears of its end."""
        failure = None
        try:
            with live.scope:
                failure = await self._launcher.run(live, lambda: self._became_ready(live))
        except Exception as exc:  # a bug in one run must not fell the house
            logger.exception("run %s of %s broke", live.id, live.model.id, extra=_facts(live))
            failure = self._launcher.broken(live, exc)
        finally:
            del self._runs[live.id]
            failure = None if live.is_cut else failure
            logger.info("%s has ended (run %s, pid %s)", live.model.id, live.id, live.pid, extra=_facts(live))
            self._step(Exited(live.id, failure, random.random()))
            if failure is not None:
                # With the pause that the planner has put into it, unless the model is another one by now.
                failure = self.fleet.failures.get(live.model.id, failure)
                if live.model.id not in self.fleet.corrected:  # or it is tried once more
                    self._reports.note(failure, live.model)
            live.end(failure)

    async def _part_from(self, live: LiveRun) -> None:
        """End a run that has a last wish."""
        await self._launcher.hooks.run("before_unload", live.model, live.pid)
        live.terminate(by_shutdown=self.fleet.closing)

    def _became_ready(self, live: LiveRun) -> None:
        logger.info(
            "%s is ready after %s (run %s, pid %s)", live.model.id, live.load, live.id, live.pid, extra=_facts(live)
        )
        self._step(BecameReady(live.id))

    def _checked(self, model: Model, failure: Failure | None) -> None:
        """A look at a model found this; a start that is under way, or runs, knows better."""
        if self.fleet.run_of(model.id) is not None or not self._reports.is_current(model):
            return
        if failure is not None:
            self._reports.note(failure, model)
        elif self._reports.stands(model):
            return  # a start has failed for good meanwhile, and nothing has changed since
        self._step(Checked(model.id, failure))

    def _measured(self, model: str, footprint: Footprint) -> None:
        self._step(Measured(model, footprint))

    def __repr__(self) -> str:
        phases = [run.phase for run in self.fleet.runs]
        counts = ", ".join(f"{phases.count(phase)} {phase.value}" for phase in Phase if phase in phases)
        return f"<Pool [{counts or 'cold'} | {len(self.fleet.queue)} queued]>"


def _facts(live: LiveRun) -> dict[str, object]:
    """What a log for programs knows a run by."""
    return {"model": live.model.id, "run": live.id, "pid": live.pid}
