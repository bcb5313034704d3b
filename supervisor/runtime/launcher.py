"""From a model to a running child: inspect, build the command, choose the address, run, and say why it failed."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from supervisor.config.secrets import Redactor
from supervisor.config.values import Transport
from supervisor.llama.command import Command, llama_command, raw_command
from supervisor.llama.diagnosis import Diagnosis, End, diagnose, first_known, found, report
from supervisor.llama.endpoint import Endpoint, TcpEndpoint, UnixEndpoint
from supervisor.llama.warnings import ModelWarning, warning_in
from supervisor.runtime.child import Child
from supervisor.runtime.ports import listener_of
from supervisor.runtime.stall import watch_for_stalls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from supervisor.config.values import Config, Model
    from supervisor.errors import Failure
    from supervisor.llama.command import Surroundings
    from supervisor.llama.preflight import Fingerprint, Inspection, Inspector
    from supervisor.runtime.live import LiveRun
    from supervisor.runtime.logs import Logs

MUTE_RETRIES = 3
"""How often a start that was refused without a word is tried again to hear the reason; 20 to 60 ms each."""

_LEVEL = re.compile(r"[\d.]+ ([DIWE]) ")
WEDGED = frozenset({"gpu_error", "wake_failed"})
"""Causes after which a child still calls itself healthy but serves nothing any more."""


class Launcher:
    """Starts children, and explains why one could not start or did not stay."""

    def __init__(self, config: Config, around: Surroundings, *, inspector: Inspector, logs: Logs) -> None:
        self.inspections: dict[str, Inspection] = {}
        """What the last look at each model found."""
        self.logs = logs
        self._config = config
        self._around = around
        self._inspector = inspector
        self._redact = Redactor.of(config)

    async def check(self, model: Model) -> Failure | None:
        """What is wrong with this model, as far as can be known without loading it."""
        return self._noted(model, await self._inspector.examine(model))

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
        model = live.model
        inspection = await self._inspector.inspect(model)
        if failure := self._noted(model, inspection):
            return failure
        for warning in inspection.warnings:
            live.warn(warning)
        command = self.command(model, inspection, run=live.id)
        end = await self._run_child(live, command, on_ready)
        for _ in range(MUTE_RETRIES):
            if not end.is_mute:
                break
            # Some builds lose every error line in 1 of 30 failing starts, on a busy machine more: ask again.
            command = self.command(model, inspection, run=live.id)
            end = await self._run_child(live, command, on_ready)
        diagnosis = await self._diagnosed(model, command, end)
        return report(model.id, diagnosis, end=end, command=command.shown, binary=_binary(inspection))

    def command(self, model: Model, inspection: Inspection, *, run: int) -> Command:
        """The command line of a run of this model."""
        if model.cmd:
            command = raw_command(model, self._around, endpoint=TcpEndpoint(free_port()))
        else:
            assert inspection.binary is not None
            command = llama_command(
                model,
                self._around,
                binary=inspection.binary,
                catalogue=inspection.catalogue,
                endpoint=self._endpoint(model, run),
            )
        return replace(command, redact=self._redact)

    def broken(self, live: LiveRun, exc: Exception) -> Failure:
        """The report of a run that ended by a fault of ours."""
        return report(live.model.id, found("internal_error", detail=f"{type(exc).__name__}: {exc}"))

    async def _run_child(self, live: LiveRun, command: Command, on_ready: Callable[[], None]) -> End:
        model = live.model
        live.child = Child(
            command,
            check_endpoint=model.check_endpoint,
            load_timeout=model.load_timeout,
            load_limit=model.load_limit,
            stop_timeout=self._config.server.stop_timeout,
            redact=self._redact,
            log=self.logs.writer(model.id, live.id),
            on_line=lambda text: _listen(live, text),
            on_ready=lambda payload: _ready(live, payload, on_ready),
        )
        live.endpoint = command.endpoint
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch_for_stalls, live)
                end = await _ended(live.child)
                tasks.cancel_scope.cancel()
            return end
        finally:
            _unlink(command.endpoint)

    async def _diagnosed(self, model: Model, command: Command, end: End) -> Diagnosis:
        """The reason of an end; what only this machine knows is added to what the child said."""
        diagnosis = diagnose(end)
        if diagnosis.cause == "unknown" and end.phase == "loading":
            # The files, or the binary's own verdict on its arguments, may tell what the child did not.
            again = await self._inspector.examine(model)
            return again.problems[0] if again.problems else diagnosis
        if diagnosis.cause == "listen_address_taken" and isinstance(command.endpoint, TcpEndpoint):
            holder = listener_of(command.endpoint.port)
            return replace(diagnosis, hint=f"{holder} listens there") if holder else diagnosis
        return diagnosis

    def _noted(self, model: Model, inspection: Inspection) -> Failure | None:
        self.inspections[model.id] = inspection
        if not inspection.problems:
            return None
        return report(model.id, _combined(inspection), binary=_binary(inspection))

    def _endpoint(self, model: Model, run: int) -> Endpoint:
        if model.transport is Transport.TCP:
            return TcpEndpoint(free_port())
        return UnixEndpoint(self._around.private_dir / f"{run}.sock")


async def _ended(child: Child) -> End:
    try:
        return await child.run()
    except OSError as exc:
        return End("spawning", (f"{child.command.argv[0]}: {exc.strerror}",))


def free_port() -> int:
    """A TCP port on loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listen(live: LiveRun, text: str) -> None:
    """Hear warnings, and device errors after which a child answers every request with an error.

    Once it serves, what clients wrote may stand in any line but its own warnings and errors.
    """
    is_serving = live.child is not None and live.child.is_ready
    level = _LEVEL.match(text)
    if is_serving and (level is None or level[1] in "DI"):
        return
    if warning := warning_in(text):
        live.warn(warning)
    if is_serving and level and level[1] == "E" and live.child:
        known = first_known((text,), serving=True)
        if known and known.cause in WEDGED:
            live.child.put_down()


def _ready(live: LiveRun, payload: Mapping[str, object], on_ready: Callable[[], None]) -> None:
    live.became_ready(payload, time.monotonic())
    if shrunk := _shrunk_context(live.model, payload):
        live.warn(shrunk)
    on_ready()


def _shrunk_context(model: Model, payload: Mapping[str, object]) -> ModelWarning | None:
    """Whether the whole context asked for came down to less in one slot than one slot alone should have."""
    asked, slots, meta = model.options.get("ctx-size"), model.options.get("parallel"), payload.get("meta")
    given = meta.get("n_ctx") if isinstance(meta, dict) else None
    if not isinstance(asked, int) or not isinstance(given, int) or asked <= 0:
        return None
    share = asked // slots if isinstance(slots, int) and slots > 0 and not model.options.get("kv-unified") else asked
    if given >= share:
        return None
    message = f"a request gets a context of {given} tokens, not the {share} that `ctx-size` asks for"
    return ModelWarning(
        "context_reduced", message, "the model was trained for less, or memory is short: lower `ctx-size`"
    )


def _combined(inspection: Inspection) -> Diagnosis:
    """The first problem, with the others named in its hint."""
    first, *others = inspection.problems
    if not others:
        return first
    also = "; ".join(problem.message for problem in others)
    return replace(first, hint=f"{first.hint}; also: {also}")


def _binary(inspection: Inspection) -> dict[str, str | None] | None:
    if inspection.binary is None:
        return None
    version = inspection.catalogue.version if inspection.catalogue else None
    return {"path": str(inspection.binary), "version": version}


def _unlink(endpoint: Endpoint) -> None:
    # Every way of stopping leaves the socket file behind (spec: python-io.md).
    if isinstance(endpoint, UnixEndpoint):
        endpoint.path.unlink(missing_ok=True)
