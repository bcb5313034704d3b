"""From a model to a running child: inspect, build the command, choose the address, run, and say why it failed."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from supervisor.config.values import Transport
from supervisor.llama.command import Command, llama_command, raw_command
from supervisor.llama.diagnosis import Diagnosis, End, diagnose, report
from supervisor.llama.endpoint import Endpoint, TcpEndpoint, UnixEndpoint
from supervisor.runtime.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.config.values import Config, Model
    from supervisor.errors import Failure
    from supervisor.llama.command import Surroundings
    from supervisor.llama.preflight import Inspection, Inspector
    from supervisor.runtime.live import LiveRun
    from supervisor.runtime.logs import Logs


class Launcher:
    """Starts children, and explains why one could not start or did not stay."""

    def __init__(self, config: Config, around: Surroundings, *, inspector: Inspector, logs: Logs) -> None:
        self.inspections: dict[str, Inspection] = {}
        """What the last look at each model found."""
        self.logs = logs
        self._config = config
        self._around = around
        self._inspector = inspector

    async def check(self, model: Model) -> Failure | None:
        """What is wrong with this model, as far as can be known without starting it."""
        inspection = self.inspections[model.id] = await self._inspector.inspect(model)
        if not inspection.problems:
            return None
        return report(model.id, _combined(inspection), binary=_binary(inspection))

    async def run(self, live: LiveRun, on_ready: Callable[[], None]) -> Failure | None:
        """Run a child of this model until it ends; the failure when that was not our doing."""
        model = live.model
        inspection = self.inspections[model.id] = await self._inspector.inspect(model)
        if inspection.problems:
            return report(model.id, _combined(inspection), binary=_binary(inspection))
        command = self.command(model, inspection, run=live.id)
        child = Child(
            command,
            check_endpoint=model.check_endpoint,
            load_timeout=model.load_timeout,
            stop_timeout=self._config.server.stop_timeout,
            log=self.logs.writer(model.id, live.id),
            on_ready=lambda payload: _ready(live, payload, on_ready),
        )
        live.child, live.endpoint = child, command.endpoint
        try:
            end = await child.run()
        except OSError as exc:
            end = End("spawning", (f"{command.argv[0]}: {exc.strerror}",))
        finally:
            _unlink(command.endpoint)
        return report(model.id, diagnose(end), end=end, command=command.shown, binary=_binary(inspection))

    def command(self, model: Model, inspection: Inspection, *, run: int) -> Command:
        """The command line of a run of this model."""
        if model.cmd:
            return raw_command(model, self._around, endpoint=TcpEndpoint(free_port()))
        assert inspection.binary is not None
        return llama_command(
            model,
            self._around,
            binary=inspection.binary,
            catalogue=inspection.catalogue,
            endpoint=self._endpoint(model, run),
        )

    def broken(self, live: LiveRun, exc: Exception) -> Failure:
        """The report of a run that ended by a fault of ours."""
        message = f"the supervisor itself failed ({type(exc).__name__}: {exc})"
        diagnosis = Diagnosis("internal_error", message, "please report this with the service's log", permanent=False)
        return report(live.model.id, diagnosis)

    def _endpoint(self, model: Model, run: int) -> Endpoint:
        if model.transport is Transport.TCP:
            return TcpEndpoint(free_port())
        return UnixEndpoint(self._around.private_dir / f"{run}.sock")


def free_port() -> int:
    """A TCP port on loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ready(live: LiveRun, payload: Mapping[str, object], on_ready: Callable[[], None]) -> None:
    live.became_ready(payload, time.monotonic())
    on_ready()


def _combined(inspection: Inspection) -> Diagnosis:
    """The first problem, with the others named in its hint."""
    first, *others = inspection.problems
    if not others:
        return first
    also = "; ".join(problem.message for problem in others)
    return Diagnosis(first.cause, first.message, f"{first.hint}; also: {also}", first.evidence, first.permanent)


def _binary(inspection: Inspection) -> dict[str, str | None] | None:
    if inspection.binary is None:
        return None
    version = inspection.catalogue.version if inspection.catalogue else None
    return {"path": str(inspection.binary), "version": version}


def _unlink(endpoint: Endpoint) -> None:
    # Every way of stopping leaves the socket file behind (spec: python-io.md).
    if isinstance(endpoint, UnixEndpoint):
        endpoint.path.unlink(missing_ok=True)
