"""The service as a process: listening, uvicorn embedded, signals, and the order in which it all ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import math
import os
import resource
import shutil
import signal
import socket
import ssl
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import uvicorn

from supervisor.api.service import Service
from supervisor.app import App
from supervisor.config.secrets import Redactor
from supervisor.config.values import Console
from supervisor.errors import SupervisorError
from supervisor.fleet.names import Names
from supervisor.llama.command import Surroundings
from supervisor.llama.preflight import Inspector
from supervisor.proxy.front import Front
from supervisor.proxy.peers import Peers
from supervisor.record.bus import Bus
from supervisor.record.echo import Echo
from supervisor.record.inflight import InFlight
from supervisor.record.own_log import LineHandler, Redacting, formatter
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.logs import Logs
from supervisor.runtime.pool import Pool
from supervisor.runtime.ports import listener_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from supervisor.config.values import Config

logger = logging.getLogger("supervisor.server")

SWEEP_SECONDS = 1.0
"""Between two looks at idle connections."""
FIRST_LOOK_SECONDS = 0.5
LONGEST_SOCKET_PATH = 100
"""Bytes; sockaddr_un has room for 107, and the file's name comes on top of the directory's."""


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


def run(config: Config, *, on_listening: Callable[[Service, str], None]) -> None:
    """Serve until SIGTERM or SIGINT; every child is gone when this returns.

    Raises `AddressTaken` and `TlsUnusable`.
    """
    check_tls(config)
    _allow_many_files()
    _collect_seldom()
    listener = listen(config.server.host, config.server.port)
    with listener:
        anyio.run(_serve, config, listener, on_listening, backend_options={"use_uvloop": True})


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


async def _serve(config: Config, listener: socket.socket, on_listening: Callable[[Service, str], None]) -> None:
    peers = Peers(config)
    async with running_service(config, peers) as service:
        server = _Server(_uvicorn_config(App(service, peers), config))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_obey_signals, server, service)
            tasks.start_soon(_sweep, server)
            tasks.start_soon(_announce, service, listener, on_listening)
            tasks.start_soon(_preload, service)
            await server.serve(sockets=[listener])
            _end_streams(service)
            service.pool.close()
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def running_service(config: Config, peers: Peers | None = None) -> AsyncIterator[Service]:
    """Everything but the HTTP server; on leaving, all children are gone."""
    peers = peers or Peers(config)
    with _private_dir() as private_dir, _logs(config) as logs:
        around = Surroundings(config.base, Path.home(), dict(os.environ), private_dir)
        inspector = Inspector(around, cache_dir=cache_dir())
        launcher = Launcher(config, around, inspector=inspector, logs=logs, cache_dir=cache_dir())
        bus = Bus()
        async with Pool(config, launcher) as pool:
            yield Service(
                config, Names(config), pool, launcher, logs, bus, InFlight(bus), peers.reachable, int(time.time())
            )
        peers.close()


def cache_dir() -> Path:
    """Where what we learn about binaries is kept."""
    base = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llama-supervise"


def _uvicorn_config(app: App, config: Config) -> uvicorn.Config:
    certificate, key = tls_files(config) or (None, None)
    return uvicorn.Config(
        app,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        http=cast("Any", partial(Front, app)),
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # it would let a header decide what "this machine" is
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=math.ceil(config.server.drain_timeout) + 2,  # the pool cuts first, and says so
    )


def _end_streams(service: Service) -> None:
    """End the answers that have no end of their own."""
    service.logs.close()
    service.bus.close()


async def _obey_signals(server: _Server, service: Service) -> None:
    """The first signal lets requests in flight finish, the second does not; SIGHUP must not end what serves."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for received in signals:
            if received is signal.SIGHUP:
                logger.warning("SIGHUP: a changed config is not read again yet; restart the service for that")
                continue
            logger.info("%s: shutting down", signal.Signals(received).name)
            _end_streams(service)
            service.pool.close(force=server.should_exit)
            server.force_exit = server.should_exit
            server.should_exit = True


async def _sweep(server: _Server) -> None:
    """End connections on which nothing happens, as long as the service runs."""
    loop = asyncio.get_running_loop()
    while True:
        await anyio.sleep(SWEEP_SECONDS)
        for connection in tuple(server.server_state.connections):
            if isinstance(connection, Front):
                connection.sweep(loop.time())


async def _announce(service: Service, listener: socket.socket, on_listening: Callable[[Service, str], None]) -> None:
    """Say where we listen, with what the first look at the models found if that does not take long."""
    host, port = listener.getsockname()[:2]
    with anyio.move_on_after(FIRST_LOOK_SECONDS):
        await service.pool.checked.wait()
    scheme = "https" if tls_files(service.config) else "http"
    on_listening(service, f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")


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
def _private_dir() -> Iterator[Path]:
    """A directory that nobody else can enter, short enough for socket paths."""
    candidates = [os.environ.get("RUNTIME_DIRECTORY"), os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()]
    usable = (base for base in candidates if base and len(base) < LONGEST_SOCKET_PATH - 30 and os.access(base, os.W_OK))
    path = Path(tempfile.mkdtemp(prefix="llama-supervise-", dir=next(usable, "/tmp")))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _logs(config: Config) -> Iterator[Logs]:
    """The rings, with our own log going into theirs, and for who knows llama-swap what it shows on stdout."""
    server = config.server
    logs = Logs(server.log_buffer, server.log_to_stdout)
    into_ring = partial(logs.proxy.append, stream="log")
    own = LineHandler(into_ring, asyncio.get_running_loop(), formatter(server.log_time_format))
    own.addFilter(Redacting(Redactor.of(config)))
    root = logging.getLogger("supervisor")
    root.addHandler(own)
    with contextlib.ExitStack() as stack:
        stack.callback(root.removeHandler, own)
        if server.log_time_format is not None and server.log_to_stdout is not Console.NONE:
            echo = stack.enter_context(Echo(sys.stdout.buffer))
            logs.shown.sinks.append(lambda line: echo.write(line.text))
        yield logs
