"""Everything behind the HTTP server, put together: logs, records, names, the launcher and the pool."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.api.service import Service
from supervisor.config.secrets import Secrets
from supervisor.config.values import Console, LogFormat
from supervisor.fleet.names import Names
from supervisor.llama.command import Surroundings, child_environment
from supervisor.llama.preflight import Inspector
from supervisor.proxy.peers import Peers
from supervisor.record.activity import Activity
from supervisor.record.bus import Bus
from supervisor.record.decision_log import DecisionLog, log_path
from supervisor.record.echo import Echo
from supervisor.record.fleet_watch import FleetWatch
from supervisor.record.inflight import InFlight
from supervisor.record.json_log import child_line
from supervisor.record.log_files import LogFiles
from supervisor.record.metrics import Metrics
from supervisor.record.own_log import LineHandler, Redacting, formatter
from supervisor.record.records import Records
from supervisor.record.samples import Samples
from supervisor.runtime.configuration import Configuration
from supervisor.runtime.ending import end_carriers
from supervisor.runtime.foresight import Foresight
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.logs import Logs
from supervisor.runtime.marks import MARK
from supervisor.runtime.orphans import end_orphans
from supervisor.runtime.pool import Pool
from supervisor.runtime.roster import Roster
from supervisor.runtime.rundir import claimed
from supervisor.runtime.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from supervisor.config.values import Config
    from supervisor.fleet.values import RunId
    from supervisor.runtime.logs import Line
    from supervisor.runtime.readings import Readings
    from supervisor.runtime.rundir import Claim


@contextlib.asynccontextmanager
async def running_service(
    config: Config,
    peers: Peers | None = None,
    *,
    read: Callable[[], Config] | None = None,
    readings: Readings | None = None,
) -> AsyncIterator[Service]:
    """Everything but the HTTP server; on leaving, all children are gone.

    `read` gives the config of the next reload; `readings` are of this machine by default.
    """
    peers = peers or Peers(config)
    hide = Secrets(config)
    with _logs(config, hide) as logs, claimed(os.environ) as claim:
        roster = Roster(claim.path, claim.owner.token)
        environ = {**os.environ, MARK: roster.mark(0)}
        around = Surroundings(config.base, Path.home(), environ, claim.path)
        await _end_orphans(claim, config, around, redact=hide)
        inspector = Inspector(around, cache_dir=cache_dir())
        launcher = Launcher(
            config, around, inspector=inspector, logs=logs, cache_dir=cache_dir(), readings=readings, roster=roster
        )
        bus = Bus()
        configuration, names = Configuration(config, read), Names(config)
        with _records(config, bus, hide) as records, _decision_log(config, hide) as log:
            async with Pool(config, launcher) as pool:
                pool.on_step += [log.note] if log is not None else []
                configuration.followers += [hide.adopt, names.adopt, launcher.adopt, peers.adopt, pool.adopt]
                configuration.followers += [records.activity.adopt, lambda config: logs.keep(config.models)]
                configuration.foresight = Foresight(inspector, lambda: pool.fleet)
                pool.on_decision.append(lambda decided: bus.publish("decision", decided.as_json()))
                _watch(pool, records.metrics)
                with Sampler(records.samples, lambda: bool(pool.fleet.runs)):
                    yield Service(
                        configuration,
                        names,
                        pool,
                        launcher,
                        logs,
                        bus,
                        InFlight(bus),
                        peers.reachable,
                        int(time.time()),
                        records,
                    )
        peers.close()
        await end_carriers(roster.mark_of_all)


async def _end_orphans(claim: Claim, config: Config, around: Surroundings, *, redact: Callable[[str], str]) -> None:
    """End what dead services have left behind. A stop command gets the environment its model has now."""

    def environment(model: str) -> dict[str, str]:
        known = config.models.get(model)
        return {**child_environment(around), **(known.env if known else {})}

    await end_orphans(claim.abandoned, environment=environment, redact=redact)


@contextlib.contextmanager
def _records(config: Config, bus: Bus, hide: Secrets) -> Iterator[Records]:
    """What is kept of what happens; the last requests are in it when this ends."""
    server = config.server
    metrics = Metrics()
    samples = Samples(every=server.performance.every, is_enabled=not server.performance.disabled)
    with Activity(server, config.base, bus=bus, metrics=metrics, redact=hide, priorities=config.priorities) as activity:
        yield Records(activity, metrics, samples)


@contextlib.contextmanager
def _decision_log(config: Config, hide: Secrets) -> Iterator[DecisionLog | None]:
    """What the planner hears and says, if that is wanted; the last step is in it when this ends."""
    server, path = config.server, log_path(config)
    if path is None:
        yield None
        return
    with DecisionLog(path, size=server.log_file_size, count=server.log_file_count, hide=hide) as log:
        yield log


def _watch(pool: Pool, metrics: Metrics) -> None:
    """Count what becomes of the models of a pool."""

    def ready_seconds(run: RunId) -> float | None:
        live = pool.live_run(run)
        return live.ready_seconds if live is not None else None

    watch = FleetWatch(metrics, ready_seconds)
    pool.on_change.append(lambda: watch.changed(pool.fleet))


def cache_dir() -> Path:
    """Where what we learn about binaries is kept."""
    if ours := os.environ.get("CACHE_DIRECTORY"):
        return Path(ours.split(":", maxsplit=1)[0])  # systemd has made it for us alone
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llama-supervise"


@contextlib.contextmanager
def _logs(config: Config, hide: Secrets) -> Iterator[Logs]:
    """The rings, with our own log going into theirs, and for who knows llama-swap what it shows on stdout."""
    server = config.server
    logs = Logs(server.log_buffer, server.log_to_stdout)
    into_ring = partial(logs.proxy.append, stream="log")
    own = LineHandler(into_ring, asyncio.get_running_loop(), formatter(server.log_time_format))
    own.addFilter(Redacting(hide))  # the handler on stderr comes after this one, and gets what is left
    root = logging.getLogger("supervisor")
    root.addHandler(own)
    as_json = server.log_format is LogFormat.JSON
    with contextlib.ExitStack() as stack:
        stack.callback(root.removeHandler, own)
        if server.log_time_format is not None and server.log_to_stdout is not Console.NONE:
            echo = stack.enter_context(Echo(sys.stdout.buffer))
            logs.shown.sinks.append(partial(_echo_as_json, echo) if as_json else lambda line: echo.write(line.text))
        if server.log_dir is not None:
            folder = config.base / Path(server.log_dir).expanduser()
            files = stack.enter_context(LogFiles(folder, size=server.log_file_size, count=server.log_file_count))
            logs.proxy.sinks.append(lambda line: files.own(line.text))
            logs.file_of = files.of
        yield logs


def _echo_as_json(echo: Echo, line: Line) -> None:
    """Show what a child has printed; our own log is on stderr in that form already."""
    if line.stream != "log":
        echo.write(child_line(line.text, run=line.run, stream=line.stream, at=line.at))
