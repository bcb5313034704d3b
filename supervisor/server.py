"""The service as a process: listening, uvicorn embedded, signals, and the order in which it all ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import gc
import logging
import math
import os
import resource
import signal
import socket
import ssl
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import uvicorn

from supervisor.api.service import Service
from supervisor.app import App
from supervisor.config.secrets import Redactor
from supervisor.config.values import Console, LogFormat
from supervisor.errors import SupervisorError
from supervisor.fleet.names import Names
from supervisor.llama.command import Surroundings, child_environment
from supervisor.llama.preflight import Inspector
from supervisor.proxy.crowd import crowd_of
from supervisor.proxy.front import Front
from supervisor.proxy.peers import Peers
from supervisor.proxy.upgraded import Upgraded
from supervisor.record.activity import Activity
from supervisor.record.bus import Bus
from supervisor.record.echo import Echo
from supervisor.record.fleet_watch import FleetWatch
from supervisor.record.inflight import InFlight
from supervisor.record.json_log import child_line
from supervisor.record.log_files import LogFiles
from supervisor.record.metrics import Metrics
from supervisor.record.own_log import LineHandler, formatter
from supervisor.record.records import Records
from supervisor.record.samples import Samples
from supervisor.runtime.budgets import CONNECTIONS, longest_stop
from supervisor.runtime.ending import end_carriers
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.logs import Logs
from supervisor.runtime.marks import MARK
from supervisor.runtime.orphans import end_orphans
from supervisor.runtime.pool import Pool
from supervisor.runtime.ports import listener_of
from supervisor.runtime.pressure import PressureWatch
from supervisor.runtime.reaper import adopts_orphans, keep_reaping
from supervisor.runtime.roster import Roster
from supervisor.runtime.rundir import claimed
from supervisor.runtime.sampler import Sampler
from supervisor.systemd import MARGIN_SECONDS, NOTHING, notified, show_models, take_sockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from supervisor.config.values import Config
    from supervisor.fleet.values import RunId
    from supervisor.runtime.logs import Line
    from supervisor.runtime.readings import Readings
    from supervisor.runtime.rundir import Claim
    from supervisor.systemd import Notifier, Offer

logger = logging.getLogger("supervisor.server")

SWEEP_SECONDS = 1.0
"""Between two looks at idle connections."""
FIRST_LOOK_SECONDS = 0.5
WEBSOCKET_MESSAGE = 16 * 1024**2
"""Bytes of a message that a client may send over a websocket, in however many frames."""


class AddressTaken(Exception):
    """Raised when the listen address cannot be bound."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host or '*'}:{port}: {reason}")


class TlsUnusable(Exception):
    """Raised when HTTPS cannot be served with the certificate and the key that were given."""

    def __init__(self, option: str, path: Path, reason: str, hint: str) -> None:
        super().__init__(f"`{option}` cannot be used: {path}: {reason}")
        self.hint = hint


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which re-raises signals before we have cleaned up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(config: Config, *, on_listening: Callable[[Service, str], None], offer: Offer = NOTHING) -> None:
    """Serve until SIGTERM or SIGINT; every child is gone when this returns.

    Sockets that systemd offers are served in place of `listen`. Raises `AddressTaken`, `SocketUnusable` and
    `TlsUnusable`.
    """
    check_tls(config)
    _allow_many_files()
    _collect_seldom()
    if offer.watchdog_seconds is not None:
        faulthandler.enable()  # its signal then leaves in the journal where we hung
    with contextlib.ExitStack() as stack:
        listeners = take_sockets(offer) or [listen(config.server.host, config.server.port)]
        for listener in listeners:
            stack.enter_context(listener)
        anyio.run(_serve, config, listeners, on_listening, offer, backend_options={"use_uvloop": True})


def _allow_many_files() -> None:
    """Every stream takes two; the usual soft limit of 1024 is for programs that use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_seldom() -> None:
    """Requests leave hardly any cycles behind; looking for them every 700 objects costs more than they hold."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def check_tls(config: Config) -> None:
    """Raise `TlsUnusable` if there is a certificate, and it or its key is no good."""
    files = tls_files(config)
    if files is None:
        return
    for option, path in zip(("tls_cert_file", "tls_key_file"), files, strict=True):
        try:
            path.read_bytes()
        except OSError as exc:
            raise TlsUnusable(option, path, exc.strerror or str(exc), "check the path and who may read it") from exc
    certificate, key = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError as exc:
        raise TlsUnusable("tls_cert_file", certificate, _reason(exc), "it has to be a certificate in PEM") from exc
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, PermissionError) as exc:
        hint = "it has to be the key of that certificate, in PEM and without a password"
        raise TlsUnusable("tls_key_file", key, _reason(exc), hint) from exc


def tls_files(config: Config) -> tuple[Path, Path] | None:
    """The certificate and its key; None without TLS."""
    server = config.server
    if server.tls_cert_file is None or server.tls_key_file is None:
        return None
    return config.base / server.tls_cert_file, config.base / server.tls_key_file


def _no_password() -> str:
    raise PermissionError("it is encrypted")  # OpenSSL would ask on the terminal


def _reason(exc: OSError) -> str:
    return getattr(exc, "reason", None) or exc.strerror or str(exc)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; an empty host means every interface, IPv4 and IPv6."""
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=2048, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        holder = listener_of(port) if exc.errno == errno.EADDRINUSE else None
        reason = exc.strerror or str(exc)
        raise AddressTaken(host, port, f"{reason}; {holder} listens there" if holder else reason) from exc


async def _serve(
    config: Config, listeners: Sequence[socket.socket], on_listening: Callable[[Service, str], None], offer: Offer
) -> None:
    peers = Peers(config)
    async with notified(offer) as notifier, running_service(config, peers) as service:
        server = _Server(_uvicorn_config(App(service, peers), config))
        show_models(notifier, service.pool)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_obey_signals, server, service, peers, notifier)
            tasks.start_soon(_sweep, server)
            tasks.start_soon(_announce, service, listeners, on_listening, notifier)
            tasks.start_soon(_preload, service)
            if adopts_orphans():
                tasks.start_soon(keep_reaping)
            await server.serve(sockets=list(listeners))
            if adopts_orphans():
                tasks.start_soon(keep_reaping)
            tasks.start_soon(PressureWatch(lambda: [run.model.id for run in service.pool.fleet.runs]).run)
            await server.serve(sockets=list(listeners))
            _end_streams(service)
            service.pool.close()
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def running_service(
    config: Config, peers: Peers | None = None, *, readings: Readings | None = None
) -> AsyncIterator[Service]:
    """Everything but the HTTP server; on leaving, all children are gone. `readings` are of this machine by default."""
    peers = peers or Peers(config)
    with _logs(config) as logs, claimed(os.environ) as claim:
        roster = Roster(claim.path, claim.owner.token)
        environ = {**os.environ, MARK: roster.mark(0)}
        around = Surroundings(config.base, Path.home(), environ, claim.path)
        await _end_orphans(claim, config, around)
        inspector = Inspector(around, cache_dir=cache_dir())
        launcher = Launcher(
            config, around, inspector=inspector, logs=logs, cache_dir=cache_dir(), readings=readings, roster=roster
        )
        bus = Bus()
        with _records(config, bus) as records:
            async with Pool(config, launcher) as pool:
                _watch(pool, records.metrics)
                with Sampler(records.samples, lambda: bool(pool.fleet.runs)):
                    yield Service(
                        config,
                        Names(config),
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


async def _end_orphans(claim: Claim, config: Config, around: Surroundings) -> None:
    """End what dead services have left behind. A stop command gets the environment its model has now."""

    def environment(model: str) -> dict[str, str]:
        known = config.models.get(model)
        return {**child_environment(around), **(known.env if known else {})}

    await end_orphans(claim.abandoned, environment=environment, redact=Redactor.of(config))


@contextlib.contextmanager
def _records(config: Config, bus: Bus) -> Iterator[Records]:
    """What is kept of what happens; the last requests are in it when this ends."""
    server = config.server
    metrics = Metrics()
    samples = Samples(every=server.performance.every, is_enabled=not server.performance.disabled)
    redact = Redactor.of(config)
    with Activity(
        server, config.base, bus=bus, metrics=metrics, redact=redact, priorities=config.priorities
    ) as activity:
        yield Records(activity, metrics, samples)


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


def _uvicorn_config(app: App, config: Config) -> uvicorn.Config:
    certificate, key = tls_files(config) or (None, None)
    return uvicorn.Config(
        app,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        http=cast("Any", partial(Front, app, crowd=crowd_of(config.server.max_connections))),
        ws=Upgraded,
        ws_max_size=WEBSOCKET_MESSAGE,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # it would let a header decide what "this machine" is
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=math.ceil(config.server.drain_timeout + CONNECTIONS),  # we cut first, and say so
    )


def _end_streams(service: Service) -> None:
    """End the answers that have no end of their own."""
    service.logs.close()
    service.bus.close()


async def _obey_signals(server: _Server, service: Service, peers: Peers, notifier: Notifier) -> None:
    """The first signal lets requests in flight finish, the second kills; SIGHUP must not end what serves.

    The third is for a child that not even SIGKILL ends, because the kernel does not let go of it.
    """
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for received in signals:
            if received is signal.SIGHUP:
                logger.warning("SIGHUP: a changed config is not read again yet; restart the service for that")
                continue
            if server.force_exit:
                logger.error("%s: leaving at once, with children that do not die", signal.Signals(received).name)
                os._exit(1)
            again = server.should_exit
            logger.info("%s: shutting down%s", signal.Signals(received).name, " without waiting" if again else "")
            notifier.stopping(longest_stop(service.config) + MARGIN_SECONDS)
            _end_streams(service)
            service.pool.close(force=again)
            # The pool cuts answers of children when their time is over; those of peers end with their connections.
            asyncio.get_running_loop().call_later(0 if again else service.config.server.drain_timeout, peers.close)
            server.force_exit = again
            server.should_exit = True


async def _sweep(server: _Server) -> None:
    """End connections on which nothing happens, as long as the service runs."""
    loop = asyncio.get_running_loop()
    while True:
        await anyio.sleep(SWEEP_SECONDS)
        for connection in tuple(server.server_state.connections):
            if isinstance(connection, Front):
                connection.sweep(loop.time())


async def _announce(
    service: Service,
    listeners: Sequence[socket.socket],
    on_listening: Callable[[Service, str], None],
    notifier: Notifier,
) -> None:
    """Say where we listen, with what the first look at the models found if that does not take long."""
    addresses = [listener.getsockname()[:2] for listener in listeners]
    with anyio.move_on_after(FIRST_LOOK_SECONDS):
        await service.pool.checked.wait()
    scheme = "https" if tls_files(service.config) else "http"
    urls = [f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}" for host, port in addresses]
    on_listening(service, " and ".join(urls))
    notifier.ready()


async def _preload(service: Service) -> None:
    """Load the models that are to be loaded from the start, one after the other."""
    for model in service.config.server.preload:
        try:
            await service.pool.load(model)
        except SupervisorError as exc:
            if service.pool.fleet.closing:
                return
            logger.warning("%s could not be preloaded: %s", model, exc)


@contextlib.contextmanager
def _logs(config: Config) -> Iterator[Logs]:
    """The rings, with our own log going into theirs, and for who knows llama-swap what it shows on stdout."""
    server = config.server
    logs = Logs(server.log_buffer, server.log_to_stdout)
    into_ring = partial(logs.proxy.append, stream="log")
    own = LineHandler(into_ring, asyncio.get_running_loop(), formatter(server.log_time_format))
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
