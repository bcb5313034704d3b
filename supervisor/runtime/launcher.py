"""From a model to a running child: inspect, run, and say why it failed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from supervisor.config.changes import needs_another_run
from supervisor.config.secrets import Secrets
from supervisor.llama.devices import Hearsay
from supervisor.llama.diagnosis import Diagnosis, End, diagnose, found, report
from supervisor.llama.endpoint import UnixEndpoint
from supervisor.runtime.address import taken_before, taken_meanwhile
from supervisor.runtime.child import Child
from supervisor.runtime.command_lines import CommandLines
from supervisor.runtime.hearing import became_ready, listen, load_report
from supervisor.runtime.hooks import HookRunner
from supervisor.runtime.ledger import Ledger
from supervisor.runtime.processor import with_lack
from supervisor.runtime.readings import Machine
from supervisor.runtime.roster import Roster
from supervisor.runtime.shortage import shortage
from supervisor.runtime.stall import watch_for_stalls
from supervisor.runtime.tuning import Tuner, Tuning
from supervisor.runtime.warming import Warmer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from supervisor.config.values import Config, Model
    from supervisor.errors import Failure
    from supervisor.llama.command import Command, Surroundings
    from supervisor.llama.endpoint import Endpoint
    from supervisor.llama.preflight import Fingerprint, Inspection, Inspector
    from supervisor.runtime.live import LiveRun
    from supervisor.runtime.logs import Logs
    from supervisor.runtime.readings import Readings

logger = logging.getLogger("supervisor.launcher")

MUTE_RETRIES = 3
"""How often a start that was refused without a word is tried again to hear the reason; 20 to 60 ms each."""


class Launcher:
    """Starts children, and explains why one could not start or did not stay."""

    def __init__(
        self,
        config: Config,
        around: Surroundings,
        *,
        inspector: Inspector,
        logs: Logs,
        cache_dir: Path | None = None,
        readings: Readings | None = None,
        roster: Roster | None = None,
    ) -> None:
        """What starts teach is kept in `cache_dir`, if there is one; `roster` is told of every child.

        `readings` are of this machine by default.
        """
        self.inspections: dict[str, Inspection] = {}
        """What the last look at each model found."""
        self.logs = logs
        self._config = config
        self._inspector = inspector
        self._hide = Secrets(config)
        self._roster = roster or Roster()
        self.commands = CommandLines(around, self._roster, self._hide)
        """How they are started."""
        self.ledger = Ledger(inspector, readings=readings or Machine(), cache_dir=cache_dir)
        """What each model takes of every device."""
        self.hooks = HookRunner(around, log_of=lambda model: logs.writer(model, 0), redact=self._hide)
        """The owner's commands around the life of each model."""
        self._tuner = Tuner(inspector, cache_dir)
        self._warmer = Warmer(inspector)
        self._running: dict[int, LiveRun] = {}
        """The runs whose children live."""

    def adopt(self, config: Config) -> None:
        """Start children by this config; what was found of models that are others now is forgotten.

        Secrets of the former config stay secret, for its children may still tell them.
        """
        before, self._config = self._config, config
        self._hide.adopt(config)
        for name in tuple(self.inspections):
            old, new = before.models.get(name), config.models.get(name)
            if old is None or new is None or needs_another_run(old, new):
                del self.inspections[name]

    async def check(self, model: Model) -> Failure | None:
        """What is wrong with this model, as far as can be known without loading it."""
        try:
            inspection = await self._inspector.examine(model)
            await self.ledger.look(model, inspection)
            return self._noted(model, inspection)
        except OSError as exc:
            return self._short_of(model, exc)

    def fingerprint(self, model: Model) -> Fingerprint:
        """Changes when the binary or a file of this model changes."""
        return self._inspector.fingerprint(model)

    async def fingerprints(self, models: Sequence[Model]) -> dict[str, Fingerprint]:
        """Those of many models; in a thread, for a network drive may not answer."""
        return await anyio.to_thread.run_sync(
            lambda: {model.id: self.fingerprint(model) for model in models}, abandon_on_cancel=True
        )

    async def run(self, live: LiveRun, on_ready: Callable[[], None]) -> Failure | None:
        """Run a child of this model until it ends; the failure when that was not our doing."""
        try:
            return await self._run(live, on_ready)
        except OSError as exc:
            return self._short_of(live.model, exc)

    def _short_of(self, model: Model, exc: OSError) -> Failure:
        """The report of what has failed because the system gives us no more of something; raises what did not."""
        diagnosis = shortage(exc)
        if diagnosis is None:
            raise exc
        return report(model.id, diagnosis)

    async def _run(self, live: LiveRun, on_ready: Callable[[], None]) -> Failure | None:
        model = live.model
        inspection = await self._inspector.inspect(model)
        if failure := self._noted(model, inspection):
            return failure
        for warning in inspection.warnings:
            live.warn(warning)
        problem = await self.hooks.run("before_load", model)
        if problem is not None and model.hooks.required:
            return report(model.id, found("hook_failed", hook="before_load", detail=problem))
        try:
            command, end = await self._attempts(live, inspection, on_ready)
        finally:
            with anyio.CancelScope(shield=True):
                await self.hooks.run("after_unload", model)
        diagnosis = await self._diagnosed(model, command, end)
        diagnosis = await with_lack(diagnosis, inspection.binary, command.env)
        return report(model.id, diagnosis, end=end, command=command.shown, binary=_binary(inspection))

    def expect(self, model: Model | None, staying: Iterable[int] = ()) -> None:
        """This model will be run as soon as there is room; None: no model will. `staying`: pids that stay."""
        self._warmer.expect(model, staying)

    async def _attempts(
        self, live: LiveRun, inspection: Inspection, on_ready: Callable[[], None]
    ) -> tuple[Command, End]:
        """A start; another without our shortcut if that failed, and others if it failed without a word."""
        tuning = await self._tuning(live, inspection)
        command, end = await self._attempt(live, inspection, tuning, on_ready)
        if tuning.skips_fit and end.phase == "loading" and end.gave_up is None:
            logger.info("%s did not start with `--fit off` as it did before; trying without", live.model.id)
            self._tuner.forget(tuning)
            tuning = await self._tuning(live, inspection)
            command, end = await self._attempt(live, inspection, tuning, on_ready)
        for _ in range(MUTE_RETRIES):
            if not end.is_mute or (live.model.cmd and not command.speaks_protocol):
                break
            # Some llama-servers lose every error line in 1 of 30 failing starts, on a busy machine more: ask again.
            command, end = await self._attempt(live, inspection, tuning, on_ready)
        return command, end

    async def _tuning(self, live: LiveRun, inspection: Inspection) -> Tuning:
        """What we add to a start; nothing to a command that somebody has written himself."""
        model = live.model
        if model.cmd:
            return Tuning()
        beside = [other.model for other in self._running.values()]
        is_new = not self.ledger.is_measured(model.id)
        tuning = await self._tuner.tuning(model, inspection, beside=beside, is_new=is_new)
        if not live.devices:
            return tuning
        device = ",".join(await self.ledger.own_names(model, inspection, live.devices))
        key = tuning.key and f"{tuning.key}@{device}"
        return replace(tuning, options={**tuning.options, "device": device}, key=key)

    async def _attempt(
        self, live: LiveRun, inspection: Inspection, tuning: Tuning, on_ready: Callable[[], None]
    ) -> tuple[Command, End]:
        """One child, from its spawn to its end; its files are read ahead, and what it teaches is kept."""
        command = self.commands.of(live.model, inspection, run=live.id, added=tuning.options)
        staying = [other.pid for other in self._running.values() if other.pid is not None]
        prefetch = self._warmer.claim(live.model, staying)
        if prefetch is not None and tuning.options.get("load-mode") == "dio":
            prefetch.stop()  # it would read what the child reads past the cache
        is_ready = anyio.Event()

        def ready(payload: Mapping[str, object]) -> None:
            became_ready(live, payload, load_report(live, payload, tuning, prefetch))
            on_ready()
            is_ready.set()

        self._running[live.id] = live
        live.was_left_alone, live.heard = False, Hearsay()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch_for_stalls, live)
                tasks.start_soon(self._learn, live, tuning, inspection.binary, is_ready)
                tasks.start_soon(self.ledger.follow, live, inspection, is_ready)
                tasks.start_soon(self._greet, live, is_ready)
                end = await self._run_child(live, command, ready)
                tasks.cancel_scope.cancel()
            return command, end
        finally:
            del self._running[live.id]
            if prefetch is not None:
                prefetch.stop()

    async def _learn(self, live: LiveRun, tuning: Tuning, binary: Path | None, is_ready: anyio.Event) -> None:
        await is_ready.wait()
        if binary is not None:
            await self._tuner.learn(live, tuning, binary)

    async def _greet(self, live: LiveRun, is_ready: anyio.Event) -> None:
        await is_ready.wait()
        await self.hooks.run("after_load", live.model, live.pid)

    def broken(self, live: LiveRun, exc: Exception) -> Failure:
        """The report of a run that ended by a fault of ours."""
        return report(live.model.id, found("internal_error", detail=f"{type(exc).__name__}: {exc}"))

    async def _run_child(
        self, live: LiveRun, command: Command, on_ready: Callable[[Mapping[str, object]], None]
    ) -> End:
        model = live.model
        if taken := await taken_before(command):
            return taken
        stop_timeout = self._stop_timeout(model)
        with self._roster.entered(command, run=live.id, model=model.id, stop_timeout=stop_timeout) as spawned:
            live.child = Child(
                command,
                check_endpoint=model.check_endpoint,
                load_timeout=model.load_timeout,
                load_limit=model.load_limit,
                stop_timeout=lambda: self._stop_timeout(live.model),
                redact=command.redact,
                log=self.logs.writer(model.id, live.id),
                on_line=lambda text: listen(live, text),
                on_ready=on_ready,
                on_spawn=spawned,
            )
            live.endpoint = command.endpoint
            try:
                return await _ended(live.child)
            finally:
                _unlink(command.endpoint)

    def _stop_timeout(self, model: Model) -> float:
        return self._config.server.stop_timeout if model.unload_timeout is None else model.unload_timeout

    async def _diagnosed(self, model: Model, command: Command, end: End) -> Diagnosis:
        """The reason of an end; what only this machine knows is added to what the child said."""
        diagnosis = diagnose(end)
        if taken := await taken_meanwhile(command, end, diagnosis):
            return taken
        if diagnosis.cause == "unknown" and end.phase == "loading":
            # The files, or the binary's own verdict on its arguments, may tell what the child did not.
            again = await self._inspector.examine(model)
            return again.problems[0] if again.problems else diagnosis
        return diagnosis

    def _noted(self, model: Model, inspection: Inspection) -> Failure | None:
        self.inspections[model.id] = inspection
        problem = inspection.problem
        return report(model.id, problem, binary=_binary(inspection)) if problem is not None else None


async def _ended(child: Child) -> End:
    try:
        return await child.run()
    except OSError as exc:
        return End("spawning", (f"{child.command.argv[0]}: {exc.strerror}",))


def _binary(inspection: Inspection) -> dict[str, str | None] | None:
    if inspection.binary is None:
        return None
    version = inspection.catalogue.version if inspection.catalogue else None
    return {"path": str(inspection.binary), "version": version}


def _unlink(endpoint: Endpoint) -> None:
    # Every way of stopping leaves the socket file behind (spec: python-io.md).
    if isinstance(endpoint, UnixEndpoint):
        endpoint.path.unlink(missing_ok=True)
