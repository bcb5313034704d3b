"""What systemd and a service tell each other: sockets that are handed over, and how the service fares.

All of it is a few environment variables, open files and datagrams (sd_listen_fds(3), sd_notify(3)). Where the variables
are not set nothing is sent, and nothing here costs anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from supervisor.fleet.values import Phase

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
    from types import TracebackType

    from supervisor.fleet.values import Fleet
    from supervisor.runtime.pool import Pool

logger = logging.getLogger("supervisor.systemd")

VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
    *("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"),
)
"""Meant for one process: a child that had them could speak in its name (podman does)."""
FIRST_SOCKET = 3
"""The open file that is the first of those handed over."""
STATUS_SECONDS = 0.5
"""Between two lines of status."""
STATUS_LENGTH = 400
"""Characters of a line of status; systemd reads 4096 bytes of a datagram."""
PATIENCE_SECONDS = 1.0
"""How long what must not be lost may wait for systemd to read what came before."""
MARGIN_SECONDS = 15.0
"""For what an orderly end takes beyond what it waits for."""


class SocketUnusable(Exception):
    """Raised when a file that was handed over is no listening TCP socket."""

    def __init__(self, name: str, found: str, hint: str) -> None:
        super().__init__(f"the socket `{name}` that systemd has handed over cannot be used: it is {found}")
        self.hint = hint


# What systemd offers.


@dataclass(frozen=True, slots=True)
class Offer:
    """What systemd lets one process have."""

    notify: str | None = None
    """The address that hears how the service fares: a path, or `@` and an abstract name."""
    watchdog_seconds: float | None = None
    """Without a sign of life for so long the service is taken for dead."""
    sockets: tuple[str, ...] = ()
    """Names of the sockets it is to serve, the open files from `FIRST_SOCKET` on."""


NOTHING = Offer()


def offer_in(environ: Mapping[str, str], pid: int) -> Offer:
    """What this process is offered; what is meant for another pid is not."""
    watchdog = _count(environ.get("WATCHDOG_USEC"))
    is_watched = watchdog > 0 and environ.get("WATCHDOG_PID", str(pid)) == str(pid)
    count = _count(environ.get("LISTEN_FDS")) if environ.get("LISTEN_PID") == str(pid) else 0
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    return Offer(
        notify=environ.get("NOTIFY_SOCKET") or None,
        watchdog_seconds=watchdog / 1e6 if is_watched else None,
        sockets=tuple((names[place] if len(names) == count else "") or "unknown" for place in range(count)),
    )


def take_offer(environ: MutableMapping[str, str], pid: int) -> Offer:
    """What this process is offered; its children will not be."""
    offer = offer_in(environ, pid)
    for name in VARIABLES:
        environ.pop(name, None)
    return offer


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def take_sockets(offer: Offer) -> list[socket.socket]:
    """The sockets that were handed over, ours from now on; raises `SocketUnusable`."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_socket(name, FIRST_SOCKET + n)) for n, name in enumerate(offer.sockets)]
        stack.pop_all()
    return sockets


def _socket(name: str, number: int) -> socket.socket:
    try:
        handed = socket.socket(fileno=number)
    except OSError as exc:
        raise SocketUnusable(name, f"file {number}: {exc.strerror}", "a .socket unit of systemd opens it") from exc
    found, hint = _objection(handed)
    if found:
        handed.close()
        raise SocketUnusable(name, found, hint)
    handed.set_inheritable(False)
    return handed


def _objection(handed: socket.socket) -> tuple[str, str]:
    listen = "use `ListenStream=` with a port, or with an address and a port"
    if handed.family not in {socket.AF_INET, socket.AF_INET6}:
        return f"of the family {getattr(handed.family, 'name', handed.family)}", listen
    if handed.type != socket.SOCK_STREAM:
        return f"of the type {getattr(handed.type, 'name', handed.type)}", listen
    if not handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "a connection that is open already", "leave out `Accept=yes`"
    return "", ""


def is_journal(environ: Mapping[str, str], file: os.stat_result) -> bool:
    """Whether what is written to this file goes to the journal, which knows the time itself (systemd.exec(5))."""
    return environ.get("JOURNAL_STREAM") == f"{file.st_dev}:{file.st_ino}"


# What it is told.


class Notifier:
    """Tells systemd how the service fares; without an address nobody is told anything."""

    def __init__(self, address: str | None, *, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._clock_ns = clock_ns
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        self._has_failed = False
        """Whether the last message did not get there; that is logged once."""

    @property
    def is_heard(self) -> bool:
        return self._socket is not None

    def ready(self) -> None:
        """The service listens."""
        self._send("READY=1", wait=PATIENCE_SECONDS)

    def reloading(self) -> None:
        """The config is being read again; `reloaded` has to follow, whatever comes of it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._clock_ns() // 1000}", wait=PATIENCE_SECONDS)

    def reloaded(self) -> None:
        """The service is as ready as it was before."""
        self.ready()

    def stopping(self, within: float) -> None:
        """The service ends within these seconds, whatever `TimeoutStopSec` says."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within * 1e6)}", wait=PATIENCE_SECONDS)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={one_line(text)}")

    def alive(self) -> None:
        """A sign of life."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str, wait: float = 0.0) -> None:
        if self._socket is None or self._address is None:
            return
        self._socket.settimeout(wait)
        try:
            self._socket.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError as exc:
            if not self._has_failed:
                logger.warning("systemd could not be told `%s`: %s", lines[0], exc.strerror or exc)
            self._has_failed = True
        else:
            self._has_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        closing, self._socket = self._socket, None
        if closing is not None:
            closing.close()


def one_line(text: str) -> str:
    """Text as one line that is not too long; a newline would be a message of its own."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= STATUS_LENGTH else f"{shown[: STATUS_LENGTH - 1]}…"


def status_of(fleet: Fleet) -> str:
    """`loaded: qwen, gemma; loading: phi`"""
    words = {Phase.READY: "loaded", Phase.STARTING: "loading", Phase.STOPPING: "unloading"}
    models = {phase: [run.model.id for run in fleet.runs if run.phase is phase] for phase in words}
    parts = [f"{word}: {', '.join(models[phase])}" for phase, word in words.items() if models[phase]]
    return "; ".join(parts) or "no model is loaded"


# While the service runs.


@contextlib.asynccontextmanager
async def notified(offer: Offer) -> AsyncIterator[Notifier]:
    """Who tells systemd how the service fares, and shows until the end that the running loop still turns."""
    with Notifier(offer.notify) as notifier, contextlib.ExitStack() as stack:
        if notifier.is_heard and offer.watchdog_seconds is not None:
            heart = _Heart(notifier.alive, offer.watchdog_seconds / 2)
            stack.callback(heart.stop)
        yield notifier


class _Heart:
    """A sign of life every so often, from the loop itself: when that is blocked, there is none."""

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        self._beat = beat
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._again()

    def _again(self) -> None:
        self._beat()
        self._timer = self._loop.call_later(self._seconds, self._again)

    def stop(self) -> None:
        self._timer.cancel()


def show_models(notifier: Notifier, pool: Pool) -> None:
    """Keep the status up to date with what is loaded."""
    if notifier.is_heard:
        shown = _Status(notifier, lambda: status_of(pool.fleet))
        pool.on_change.append(shown.changed)
        shown.changed()


class _Status:
    """The status, told when it changes, but not more often than `STATUS_SECONDS`."""

    def __init__(self, notifier: Notifier, describe: Callable[[], str]) -> None:
        self._notifier = notifier
        self._describe = describe
        self._told = ""
        self._is_pausing = False
        self._is_stale = False

    def changed(self) -> None:
        if self._is_pausing:
            self._is_stale = True
            return
        self._is_stale = False
        text = self._describe()
        if text == self._told:
            return
        self._told = text
        self._notifier.status(text)
        self._is_pausing = True
        asyncio.get_running_loop().call_later(STATUS_SECONDS, self._may_tell)

    def _may_tell(self) -> None:
        self._is_pausing = False
        if self._is_stale:
            self.changed()
