"""The service as a process: uvicorn embedded, signals, and the order in which it all ends."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import resource
import signal
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import uvicorn

from supervisor.app import App
from supervisor.household import running_service
from supervisor.listening import check_tls, listen, tls_files
from supervisor.proxy.crowd import crowd_of
from supervisor.proxy.front import Front
from supervisor.proxy.peers import Peers
from supervisor.proxy.upgraded import Upgraded
from supervisor.reloads import Reloads, longest_drain, preload
from supervisor.runtime.budgets import longest_stop
from supervisor.runtime.pressure import PressureWatch
from supervisor.runtime.reaper import adopts_orphans, keep_reaping
from supervisor.runtime.tidying import Tidying
from supervisor.systemd import MARGIN_SECONDS, NOTHING, notified, show_models, take_sockets

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from anyio.abc import TaskGroup

    from supervisor.api.service import Service
    from supervisor.config.values import Config
    from supervisor.runtime.config_files import ConfigFiles
    from supervisor.systemd import Notifier, Offer

logger = logging.getLogger("supervisor.server")

SWEEP_SECONDS = 1.0
"""Between two looks at idle connections."""
FIRST_LOOK_SECONDS = 0.5
WEBSOCKET_MESSAGE = 16 * 1024**2
"""Bytes of a message that a client may send over a websocket, in however many frames."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling, which re-raises signals before we have cleaned up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(
    config: Config,
    files: ConfigFiles | None = None,
    *,
    on_listening: Callable[[Service, str], None],
    offer: Offer = NOTHING,
) -> None:
    """Serve until SIGTERM or SIGINT; every child is gone when this returns. Without files there is nothing to reload.

    Sockets that systemd offers are served in place of `listen`. Raises `AddressTaken`, `SocketUnusable` and
    `TlsUnusable`.
    """
    check_tls(config)
    _allow_many_files()
    gc.freeze()  # what is there now stays, and need not be looked at again
    if offer.watchdog_seconds is not None:
        faulthandler.enable()  # its signal then leaves in the journal where we hung
    with contextlib.ExitStack() as stack:
        listeners = take_sockets(offer) or [listen(config.server.host, config.server.port)]
        for listener in listeners:
            stack.enter_context(listener)
        serve = partial(_serve, config, files, listeners, on_listening, offer)
        anyio.run(serve, backend_options={"use_uvloop": True})


def _allow_many_files() -> None:
    """Every stream takes two; the usual soft limit of 1024 is for programs that use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    config: Config,
    files: ConfigFiles | None,
    listeners: Sequence[socket.socket],
    on_listening: Callable[[Service, str], None],
    offer: Offer,
) -> None:
    peers, read = Peers(config), files.read_again if files else None
    async with (
        notified(offer) as notifier,
        _lasting() as lasting,
        running_service(config, peers, read=read) as service,
    ):
        server = _Server(_uvicorn_config(App(service, peers), config))
        configuration = service.configuration
        show_models(notifier, service.pool)
        configuration.on_begin.append(notifier.reloading)
        configuration.on_end.append(lambda _: notifier.reloaded())
        lasting.start_soon(_obey_signals, server, service, peers, notifier)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_sweep, server)
            tasks.start_soon(_announce, service, listeners, on_listening, notifier)
            tasks.start_soon(preload, service, config.server.preload)
            tasks.start_soon(PressureWatch(lambda: [run.model.id for run in service.pool.fleet.runs]).run)
            tasks.start_soon(Tidying(lambda: not len(service.in_flight)).run)
            if adopts_orphans():
                tasks.start_soon(keep_reaping)
            Reloads(service, server.config, tasks)
            tasks.start_soon(configuration.run)
            if files is not None and files.are_watched:
                tasks.start_soon(files.watch, lambda: configuration.trigger("it has changed"))
            await server.serve(sockets=list(listeners))
            _end_streams(service)
            service.pool.close()
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _lasting() -> AsyncIterator[TaskGroup]:
    """Tasks for what has to go on until every child is gone: a second signal may come as late as that."""
    async with anyio.create_task_group() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()


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
        timeout_graceful_shutdown=longest_drain(config),
    )


def _end_streams(service: Service) -> None:
    """End the answers that have no end of their own."""
    service.logs.close()
    service.bus.close()


async def _obey_signals(server: _Server, service: Service, peers: Peers, notifier: Notifier) -> None:
    """SIGHUP is a reload. Of the others, the first lets requests in flight finish, the second kills.

    The third is for a child that not even SIGKILL ends, because the kernel does not let go of it.
    """
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for received in signals:
            if received is signal.SIGHUP:
                service.configuration.trigger("SIGHUP")
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
