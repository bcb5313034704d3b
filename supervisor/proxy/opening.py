"""Opening a connection to a server: a socket file, TCP or TLS, each step within its limit, and in words why not."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from typing import TYPE_CHECKING, TypeVar

from supervisor.errors import OutOfResources, UpstreamUnreachable
from supervisor.llama.endpoint import Endpoint, HttpEndpoint, TcpEndpoint, UnixEndpoint
from supervisor.proxy.forward_proxy import connected_through

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from supervisor.config.values import Timeouts
    from supervisor.proxy.forward_proxy import ForwardProxy

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)

_NEVER = 1e9
"""Seconds; what the event loops say of a handshake that takes too long is no better than what we say."""


BACKLOG_SECONDS = 30.0
"""How long a server may leave connections unaccepted at its socket file."""
BACKLOG_PAUSE = 0.005
_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class NoConnection(UpstreamUnreachable):
    """Raised when a server cannot be connected to."""

    def __init__(self, endpoint: Endpoint, why: str) -> None:
        super().__init__(f"no connection to {endpoint}: {why}")
        self.why = why


class Opener:
    """Opens connections to one server."""

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts, *, through: ForwardProxy | None = None) -> None:
        self.endpoint = endpoint
        self._through = through
        self._timeouts = timeouts
        self._tls: ssl.SSLContext | None = None

    async def open(self, make: Callable[[], ProtocolT]) -> ProtocolT:
        """A new connection with its protocol; raises `NoConnection`, and `OutOfResources` where the lack is ours."""
        is_secure = isinstance(self.endpoint, HttpEndpoint) and self.endpoint.tls
        if is_secure and self._tls is None:  # reading the certificates takes 20 ms
            self._tls = await asyncio.get_running_loop().run_in_executor(None, _tls_context)
        try:
            async with asyncio.timeout(self._timeouts.connect):
                transport, protocol = await self._opened(make)
        except OSError as exc:
            if exc.errno in _SHORTAGES:
                raise shortage(exc) from exc
            why = _why(exc, self._timeouts.connect)
            at_proxy = f"the proxy {self._through}: " if self._through is not None else ""
            raise NoConnection(self.endpoint, f"{at_proxy}{why}") from exc
        if self._timeouts.keepalive is not None and not isinstance(self.endpoint, UnixEndpoint):
            _probe(transport, self._timeouts.keepalive)
        if self._tls is not None:
            protocol.connection_made(await self._secured(transport, protocol, self._tls))
        return protocol

    async def _opened(self, make: Callable[[], ProtocolT]) -> tuple[asyncio.Transport, ProtocolT]:
        match self.endpoint:
            case UnixEndpoint(path):
                return await _connected_in_turn(path, make)
            case HttpEndpoint() if self._through is not None:
                return await connected_through(self._through, self.endpoint, make)
            case TcpEndpoint(port, host) | HttpEndpoint(host, port):
                return await asyncio.get_running_loop().create_connection(make, host, port)

    async def _secured(
        self, plain: asyncio.Transport, protocol: asyncio.Protocol, context: ssl.SSLContext
    ) -> asyncio.Transport:
        """The connection as it goes on over TLS, with a server that has proved to be the one we mean."""
        assert isinstance(self.endpoint, HttpEndpoint)
        host, limit = self.endpoint.host, self._timeouts.tls_handshake
        secure = None
        try:
            async with asyncio.timeout(limit):
                if not plain.is_closing():
                    secure = await asyncio.get_running_loop().start_tls(
                        plain, protocol, context, server_hostname=host, ssl_handshake_timeout=_NEVER
                    )
        except OSError as exc:
            raise NoConnection(self.endpoint, _why_insecure(exc, limit)) from exc
        finally:
            if secure is None:
                plain.abort()
        if secure is None:
            raise NoConnection(self.endpoint, "it closed the connection before the TLS handshake")
        return secure


async def _connected_in_turn(path: Path, make: Callable[[], ProtocolT]) -> tuple[asyncio.Transport, ProtocolT]:
    """A connection to a socket file. Where TCP would wait for its place in the backlog, this says EAGAIN: unix(7)."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + BACKLOG_SECONDS
    while True:
        try:
            return await loop.create_unix_connection(make, str(path))
        except BlockingIOError:
            if loop.time() >= give_up_at:
                raise
        await asyncio.sleep(BACKLOG_PAUSE)


def shortage(exc: OSError) -> OutOfResources:
    """What the system denies us."""
    message = f"the service cannot open a connection to the model: {_plainly(exc)}"
    return OutOfResources(message, hint="raise the limit of open files (LimitNOFILE=), or send fewer requests at once")


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _probe(transport: asyncio.Transport, pause: float) -> None:
    """Let the kernel find out when the other machine is gone."""
    seconds = max(1, round(pause))
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # of a connection that has ended already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)


def _why(exc: OSError, limit: float | None) -> str:
    match exc:
        case socket.gaierror():
            return f"its name leads to no address ({exc.strerror})"
        case TimeoutError(errno=None):
            return f"no connection within {limit:g} s"
        case _:
            return _plainly(exc)


def _why_insecure(exc: OSError, limit: float | None) -> str:
    match exc:
        case ssl.SSLCertVerificationError():
            return f"its TLS certificate is not trusted: {exc.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {exc.reason or exc}"
        case TimeoutError(errno=None):
            return f"no TLS handshake within {limit:g} s"
        case _:
            return f"it closed the connection during the TLS handshake ({_plainly(exc)})"


def _plainly(exc: OSError) -> str:
    """What the system says, not what an event loop makes of it."""
    return os.strerror(exc.errno) if exc.errno else str(exc)
