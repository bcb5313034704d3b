"""The service as a process: listening, uvicorn embedded, signals, and the order in which it all ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import resource
import shutil
import signal
import socket
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import uvicorn

from supervisor.api.service import Service
from supervisor.app import App
from supervisor.fleet.names import Names
from supervisor.llama.command import Surroundings
from supervisor.llama.preflight import Inspector
from supervisor.proxy.front import Front
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
FIRST_LOOK_SECONDS = 1.0
LONGEST_SOCKET_PATH = 100
"""Bytes; sockaddr_un has room for 107, and the file's name comes on top of the directory's."""


class AddressTaken(Exception):
    """Raised when the listen address cannot be bound."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host or '*'}:{port}: {reason}")


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which re-raises signals before we have cleaned up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(config: Config, *, on_listening: Callable[[Service, str], None]) -> None:
    """Serve until SIGTERM or SIGINT; every child is gone when this returns. Raises `AddressTaken`."""
    _allow_many_files()
    listener = listen(config.server.host, config.server.port)
    with listener:
        anyio.run(_serve, config, listener, on_listening, backend_options={"use_uvloop": True})


def _allow_many_files() -> None:
    """Every stream takes two; the usual soft limit of 1024 is for programs that use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


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
    async with running_service(config) as service:
        server = _Server(_uvicorn_config(App(service), config))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_obey_signals, server, service)
            tasks.start_soon(_sweep, server)
            tasks.start_soon(_announce, service, listener, on_listening)
            await server.serve(sockets=[listener])
            service.logs.close()
            service.pool.close()
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def running_service(config: Config) -> AsyncIterator[Service]:
    """Everything but the HTTP server; on leaving, all children are gone."""
    with _private_dir() as private_dir, _logs(config) as logs:
        around = Surroundings(config.base, Path.home(), dict(os.environ), private_dir)
        inspector = Inspector(around, cache_dir=cache_dir())
        launcher = Launcher(config, around, inspector=inspector, logs=logs, cache_dir=cache_dir())
        async with Pool(config, launcher) as pool:
            yield Service(config, Names(config), pool, launcher, logs, int(time.time()))


def cache_dir() -> Path:
    """Where what we learn about binaries is kept."""
    base = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llama-supervise"


def _uvicorn_config(app: App, config: Config) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=cast("Any", partial(Front, app)),
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # it would let a header decide what "this machine" is
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=math.ceil(config.server.drain_timeout) + 2,  # the pool cuts first, and says so
    )


async def _obey_signals(server: _Server, service: Service) -> None:
    """The first signal lets requests in flight finish, the second does not."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            logger.info("%s: shutting down", signal.Signals(received).name)
            service.logs.close()
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
    on_listening(service, f"http://{f'[{host}]' if ':' in host else host}:{port}")


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
    """The rings, with our own log going into theirs."""
    logs = Logs(config.server.log_buffer)
    own = _RingHandler(logs)
    root = logging.getLogger("supervisor")
    root.addHandler(own)
    try:
        yield logs
    finally:
        root.removeHandler(own)


class _RingHandler(logging.Handler):
    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            self._logs.proxy.append(line, stream="log")
