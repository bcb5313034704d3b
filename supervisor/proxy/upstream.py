"""HTTP/1.1 connections to one server, a child or a peer: a Protocol around httptools, and the idle ones kept.

What httptools does not tell is tracked here (spec: python-io.md): a response to HEAD never completes, 1xx ends a
message, a body may be delimited by the end of the connection, and a killed peer looks like a clean end.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from supervisor.config.values import Timeouts
from supervisor.proxy.heads import AS_IT_CAME, Forwarding
from supervisor.proxy.opening import NoConnection, Opener

if TYPE_CHECKING:
    from supervisor.llama.endpoint import Endpoint
    from supervisor.proxy.heads import Headers

JOINED_BYTES = 64 * 1024
"""Up to this size a body is copied behind its head rather than written by itself."""
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))

IDLE_SECONDS = 4.0
"""llama-server closes idle connections after 5 s; ours go first, so that no request meets a closing one."""
OURS = Timeouts(connect=None, keepalive=None, tls_handshake=None, idle_connection=IDLE_SECONDS)
"""What a child of ours needs: it is on this machine, and we know whether it lives."""


class Receiver(Protocol):
    """Who hears what a child answers, in this order: a head, pieces, the end; or that it will not come to that."""

    def head_came(self, status: int, headers: Headers, *, is_alone: bool) -> None:
        """Status and headers, their names in lower case; alone if nothing of the body came with them."""

    def piece_came(self, piece: bytes) -> None:
        """What has come of the body since the last call, at least one byte."""

    def ended(self) -> None:
        """The response is whole."""

    def broke(self, *, started: bool) -> None:
        """The connection ended before the response did; `started` tells whether its head had come."""

    def child_lags(self) -> None:
        """More of the request has been written than the child takes in."""

    def child_keeps_up(self) -> None:
        """The child takes in more again."""


class Connection(asyncio.Protocol):
    """One connection to a server, one exchange at a time."""

    def __init__(self) -> None:
        self.used_at = 0.0
        self.is_closed = False
        self.is_behind = False
        """Whether more of the request has been written than the server takes in."""
        self.ends_with_connection = False
        """Whether the end of the body is the end of the connection."""
        self.has_served = False
        """Whether an earlier exchange used it: only then may its sudden end be mere bad timing."""
        self._receiver: Receiver | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # httptools calls it for every chunk: a frame of ours each time would tell
        self._is_complete = True
        self._is_sent = True
        self._may_be_kept = True

    # The exchange.

    def send(self, receiver: Receiver, method: bytes, head: bytes, body: bytes = b"", *, is_whole: bool = True) -> None:
        """Begin an exchange; a body that is not whole goes on with `send_more`."""
        self._receiver = receiver
        self._parser = httptools.HttpResponseParser(self)
        self._method = method
        self._status = 0
        self._headers: Headers = []
        self._pieces.clear()
        self._has_head = False
        self._has_told_head = False
        self._is_complete = False
        self._is_sent = is_whole
        self.ends_with_connection = False
        self._may_be_kept = False
        if len(body) < JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def send_more(self, piece: bytes, *, is_last: bool) -> None:
        """Go on with a request's body."""
        if piece and not self.is_closed:
            self._transport.write(piece)
        self._is_sent = is_last

    def pause(self) -> None:
        """Read no more of the response for now; the child will wait."""
        if not self.is_closed:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self.is_closed:
            self._transport.resume_reading()

    @property
    def owes_head(self) -> bool:
        """Whether all of the request is on its way and nothing of an answer has come."""
        return self._is_sent and not self.is_behind and not self._has_told_head

    @property
    def can_be_reused(self) -> bool:
        return self._is_complete and self._is_sent and self._may_be_kept and not self._transport.is_closing()

    def abandon(self) -> None:
        """End the connection, and with it what the child still does for it; the receiver hears no more of it."""
        self._receiver = None
        self.close()

    def rest(self, now: float) -> None:
        """Wait for the next exchange; the receiver of the last one hears no more, even of what has come already."""
        self._receiver = None
        self.has_served = True
        self.used_at = now
        self.resume()  # a client that was slow at the end may have paused it

    def close(self) -> None:
        """End the connection; a receiver that still waits hears that it broke."""
        self.ends_with_connection = False  # an end of our making is nobody's end of a body
        if not self.is_closed:
            self._transport.abort()

    def _tell(self) -> None:
        """Pass on what the parser has found, as long as somebody wants it."""
        receiver = self._receiver
        if receiver is None:
            return
        if self._has_head and not self._has_told_head:
            self._has_told_head = True
            receiver.head_came(self._status, self._headers, is_alone=not self._pieces and not self._is_complete)
        if self._pieces and self._receiver is receiver:
            piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            receiver.piece_came(piece)
        if self._is_complete and self._receiver is receiver:
            self._receiver = None
            receiver.ended()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        if self._is_complete:
            self.close()  # bytes that nobody asked for: whatever this is, the next response would be wrong
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError):
            self.close()
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if self._has_told_head and self.ends_with_connection and exc is None:
            self._is_complete = True
            receiver.ended()
        else:
            receiver.broke(started=self._has_told_head)

    def pause_writing(self) -> None:
        self.is_behind = True
        if self._receiver is not None:
            self._receiver.child_lags()

    def resume_writing(self) -> None:
        self.is_behind = False
        if self._receiver is not None:
            self._receiver.child_keeps_up()

    # httptools

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ValueError("a response nobody asked for")  # httptools makes it an error of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # else a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 100:
            raise ValueError("no status of HTTP")  # it could have a body, which would reach the client without a head
        if self._status < 200:
            return
        names = {name for name, _ in self._headers}
        bodiless = self._method == b"HEAD" or self._status in {204, 304}
        self.ends_with_connection = not bodiless and not names & _FRAMING
        self._is_complete = bodiless
        self._has_head = True

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._headers.clear()
            return
        self._is_complete = True
        # A HEAD response leaves the parser waiting for a body, so its connection is not used again.
        self._may_be_kept = self._method != b"HEAD" and self._parser.should_keep_alive()


class Upstream:
    """The connections to one server."""

    def __init__(self, endpoint: Endpoint, *, timeouts: Timeouts = OURS, forwarding: Forwarding = AS_IT_CAME) -> None:
        self.endpoint = endpoint
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
        self._opener = Opener(self.endpoint, timeouts)
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
        try:
            connection = await self._opener.open(Connection)
        except NoConnection:
            self.is_reachable = False
            raise
        self.is_reachable = True
        if self.is_closed:
            connection.abandon()
        self._check_open()
        self._busy.add(connection)
        return connection

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
