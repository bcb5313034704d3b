"""HTTP/1.1 connections to one child: a Protocol around httptools, and the idle ones kept for the next request.

What httptools does not tell is tracked here (spec: python-io.md): a response to HEAD never completes, 1xx ends a
message, a body may be delimited by the end of the connection, and a killed peer looks like a clean end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import httptools

from supervisor.errors import UpstreamUnreachable
from supervisor.llama.endpoint import Endpoint, TcpEndpoint, UnixEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable

Headers = list[tuple[bytes, bytes]]

IDLE_SECONDS = 4.0
"""llama-server closes idle connections after 5 s; ours go first, so that no request meets a closing one."""
HIGH_WATER = 256 * 1024
"""Bytes that may wait for a slow client before the child is no longer read."""


class UpstreamBroken(Exception):
    """Raised when a connection ended before the response did; `started` tells whether its head had come."""

    def __init__(self, *, started: bool) -> None:
        super().__init__("the child closed the connection before the end of its response")
        self.started = started


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time: `send`, then `head`, then `read` until it gives None."""

    def __init__(self) -> None:
        self.used_at = 0.0
        self.is_closed = False
        self.ends_with_connection = False
        """Whether the end of the body is the end of the connection."""
        self.has_served = False
        """Whether an earlier exchange used it: only then may its sudden end be mere bad timing."""
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._method = b""

    # The exchange.

    def send(self, method: bytes, head: bytes, body: bytes) -> None:
        """Begin an exchange."""
        self._parser = httptools.HttpResponseParser(self)
        self._method = method
        self._status = 0
        self._headers: Headers = []
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._is_paused = False
        self._is_started = False
        self._is_complete = False
        self.ends_with_connection = False
        self._may_be_kept = False
        self._transport.write(head + body if len(body) < HIGH_WATER else head)
        if len(body) >= HIGH_WATER:
            self._transport.write(body)

    async def head(self) -> tuple[int, Headers]:
        """Status and headers of the response; raises `UpstreamBroken`."""
        while not self._is_started:
            if self.is_closed:
                raise UpstreamBroken(started=False)
            await self._wait()
        return self._status, self._headers

    async def read(self) -> bytes | None:
        """What has come of the body since the last call, at least one byte; None after its end.

        Raises `UpstreamBroken`.
        """
        while not self._chunks:
            if self._is_complete:
                return None
            if self.is_closed:
                raise UpstreamBroken(started=True)
            await self._wait()
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._is_paused and not self.is_closed:
            self._is_paused = False
            self._transport.resume_reading()
        return chunk

    @property
    def is_drained(self) -> bool:
        """Whether everything of the response has been read."""
        return self._is_complete and not self._chunks

    @property
    def can_be_reused(self) -> bool:
        return self.is_drained and self._may_be_kept and not self.is_closed

    def close(self) -> None:
        """End the connection, and with it what the child still does for it."""
        self.ends_with_connection = False  # an end of our making is nobody's end of a body
        if not self.is_closed:
            self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        if not self._method or self._is_complete:
            self.close()  # bytes that nobody asked for: whatever this is, the next response would be wrong
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            self.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if self._method and self._is_started and self.ends_with_connection and exc is None:
            self._is_complete = True
        self._wake()

    # httptools

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ValueError("a response nobody asked for")  # httptools makes it an error of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_started:  # else a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 200:
            return
        names = {name for name, _ in self._headers}
        bodiless = self._method == b"HEAD" or self._status in {204, 304}
        self.ends_with_connection = not bodiless and not names & {b"content-length", b"transfer-encoding"}
        self._is_complete = bodiless
        self._is_started = True

    def on_body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._buffered += len(chunk)
        if self._buffered > HIGH_WATER and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._headers.clear()
            return
        self._is_complete = True
        # A HEAD response leaves the parser waiting for a body, so its connection is not used again.
        self._may_be_kept = self._method != b"HEAD" and self._parser.should_keep_alive()


class Upstream:
    """The connections to one child."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._is_closed = False
        self._loop = asyncio.get_running_loop()

    async def acquire(self, *, fresh: bool = False) -> Connection:
        """An idle connection, the most recently used first, or a new one.

        Raises `UpstreamUnreachable`.
        """
        if self._is_closed:
            raise UpstreamUnreachable(f"{self.endpoint} is being stopped")
        oldest = self._loop.time() - IDLE_SECONDS
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.used_at > oldest and not connection.is_closed:
                self._busy.add(connection)
                return connection
            connection.close()
        connection = await self._connect()
        self._busy.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """Give a connection back after its exchange; one whose response was not read to its end is closed."""
        self._busy.discard(connection)
        if connection.can_be_reused:
            connection.has_served = True
            connection.used_at = self._loop.time()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close every connection; exchanges under way break."""
        self._is_closed = True
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()

    async def _connect(self) -> Connection:
        make: Callable[[], Connection] = Connection
        try:
            match self.endpoint:
                case UnixEndpoint(path):
                    _, connection = await self._loop.create_unix_connection(make, str(path))
                case TcpEndpoint(port, host):
                    _, connection = await self._loop.create_connection(make, host, port)
        except OSError as exc:
            raise UpstreamUnreachable(f"no connection to {self.endpoint}: {exc.strerror or exc}") from exc
        return connection

    def __repr__(self) -> str:
        return f"<Upstream {self.endpoint} [{len(self._busy)} busy, {len(self._idle)} idle]>"
