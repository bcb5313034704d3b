"""The connections to one server, a child or a peer: idle ones are kept, for as long as the server keeps them, too."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from supervisor.config.values import Timeouts
from supervisor.proxy.connection import Connection
from supervisor.proxy.heads import AS_IT_CAME, Forwarding
from supervisor.proxy.opening import NoConnection, Opener

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.llama.endpoint import Endpoint
    from supervisor.proxy.forward_proxy import ForwardProxy
    from supervisor.proxy.opening import ProtocolT

IDLE_SECONDS = 4.0
"""llama-server closes idle connections after 5 s; ours go first, so that no request meets a closing one."""
OURS = Timeouts(connect=None, keepalive=None, tls_handshake=None, idle_connection=IDLE_SECONDS)
"""What a child of ours needs: it is on this machine, and we know whether it lives."""


class Upstream:
    """The connections to one server."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeouts: Timeouts = OURS,
        forwarding: Forwarding = AS_IT_CAME,
        through: ForwardProxy | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.through = through
        self.adopt(timeouts, forwarding)
        self.is_reachable: bool | None = None
        """Whether the last attempt came through; None before the first."""
        self.is_closed = False
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def adopt(self, timeouts: Timeouts, forwarding: Forwarding) -> None:
        """Treat the server so from now on; exchanges under way and open connections stay."""
        self.forwarding = forwarding
        """How the heads of requests to it are written."""
        self.response_header = timeouts.response_header
        """Seconds within which it has to begin an answer."""
        self._opener = Opener(self.endpoint, timeouts, through=self.through)
        self._idle_seconds = math.inf if timeouts.idle_connection is None else timeouts.idle_connection

    def dry_up(self) -> None:
        """Keep no connection that is not used; exchanges under way go on to their end."""
        self._idle_seconds = 0.0
        if self._sweep is not None:
            self._sweep.cancel()
        self._close_unused()

    @property
    def is_used(self) -> bool:
        """Whether an exchange is under way."""
        return bool(self._busy)

    def take_idle(self) -> Connection | None:
        """A connection that is open already, the most recently used first."""
        oldest = self._loop.time() - self._idle_seconds
        while self._idle:
            connection = self._idle.pop()
            if connection.used_at > oldest and connection.can_be_reused:
                self._busy.add(connection)
                return connection
            connection.close()
        return None

    async def connect(self) -> Connection:
        """A new connection; raises `NoConnection`."""
        self._check_open()
        connection = await self.open(Connection)
        if self.is_closed:
            connection.abandon()
        self._check_open()
        self._busy.add(connection)
        return connection

    async def open(self, make: Callable[[], ProtocolT]) -> ProtocolT:
        """A new connection with another protocol, for its caller to close; raises `NoConnection`."""
        try:
            protocol = await self._opener.open(make)
        except NoConnection:
            self.is_reachable = False
            raise
        self.is_reachable = True
        return protocol

    def release(self, connection: Connection) -> None:
        """Give a connection back after its exchange; one whose response was not read to its end is closed."""
        self._busy.discard(connection)
        if connection.can_be_reused and not self.is_closed:
            connection.rest(self._loop.time())
            self._idle.append(connection)
            if self._sweep is None:
                self._sweep_in(self._idle_seconds)
        else:
            connection.abandon()

    def close(self) -> None:
        """Close every connection; exchanges under way break."""
        self.is_closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()

    def _check_open(self) -> None:
        if self.is_closed:
            raise NoConnection(self.endpoint, "it is being stopped")

    def _sweep_in(self, seconds: float) -> None:
        """Look later for connections that nobody uses: those below the top of the pile are not met by requests."""
        if not math.isinf(seconds):
            self._sweep = self._loop.call_later(seconds, self._close_unused)

    def _close_unused(self) -> None:
        self._sweep = None
        oldest = self._loop.time() - self._idle_seconds
        idle, self._idle = self._idle, []
        for connection in idle:
            if connection.used_at > oldest and connection.can_be_reused:
                self._idle.append(connection)
            else:
                connection.close()
        if self._idle:
            self._sweep_in(self._idle[0].used_at - oldest)

    def __repr__(self) -> str:
        return f"<Upstream {self.endpoint} [{len(self._busy)} busy, {len(self._idle)} idle]>"
