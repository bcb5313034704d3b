"""A client's connection: requests parsed one after another, each handed on when it is whole.

uvicorn listens, accepts and shuts down; this is the protocol class it is given. What its own leaves open is decided
here: the size of a head, how long a connection may be idle, odd framings, and `Upgrade: h2c` (spec: python-io.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools

from supervisor.errors import InternalError, InvalidRequest, RequestTimeout, ShuttingDown, TooManyConnections
from supervisor.proxy.client import STATUS_LINES, Client, Plane
from supervisor.proxy.dialects import Dialect, error_response
from supervisor.proxy.heads import fields_of
from supervisor.proxy.objections import HEAD_LIMIT, Head, head_too_large, objection
from supervisor.proxy.request_id import REQUEST_ID, new_request_id, request_id_of, with_request_id

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.server import ServerState

    from supervisor.errors import SupervisorError
    from supervisor.proxy.crowd import Crowd
    from supervisor.proxy.heads import Headers

logger = logging.getLogger("supervisor.proxy")

IDLE_SECONDS = 75.0
"""Longer than the pools of common clients keep a connection, so that theirs ends first (spec: python-io.md)."""
STALLED_SECONDS = 2.0
"""How long a client may take nothing of its answer, or send what nobody wants, once the service ends."""
HEAD_SECONDS = 30.0
"""How long the head of a request may take."""
BODY_SECONDS = 30.0
BODY_BYTES = 15_000
"""How much of a body has to come in so many seconds, unless it ends: 500 bytes a second, as Apache's mod_reqtimeout."""


class Front(asyncio.Protocol):
    """One connection of a client, with uvicorn's constructor."""

    def __init__(
        self,
        plane: Plane,
        *,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        crowd: Crowd | None = None,
    ) -> None:
        self._plane = plane
        self._crowd = crowd
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._current: Client | None = None
        """Whose answer is awaited or under way."""
        self._receiving: Client | None = None
        """Whose body is on its way."""
        self._pending: deque[Client] = deque()
        """Requests that came before the one in front of them was answered."""
        self._is_closing = False
        self._is_shutting_down = False
        self._is_lagging = False
        """Whether the client has not taken what was written; until it has, no further request is served."""
        self._in_head = True
        self._head_size = 0
        """Bytes since the last that became part of a body, or ended a head."""
        self._since = self._loop.time()
        """When the head under way began, or the connection became idle."""
        self._unread = (0, 0.0)
        """What was not yet written when we last looked, and since when it has been that much."""
        self._progress: tuple[Client | None, int, float] = (None, 0, 0.0)
        """Whose body we looked at, how much of it there was, and when that was."""
        self._new_parser()

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # it is answered first, then closed

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name
        self._state.connections.add(cast("Any", self))
        peer = transport.get_extra_info("peername")
        self._address = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple | list) else None
        if self._crowd is not None and not self._crowd.admits(self._state.connections, self._loop.time()):
            self._reject(TooManyConnections(f"{self._crowd.limit} connections are open already, and all of them busy"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._state.connections.discard(cast("Any", self))
        for client in (self._current, *self._pending):
            if client is not None:
                client.left()
        self._pending.clear()

    def data_received(self, data: bytes) -> None:
        if self._is_closing and self._receiving is None:
            return
        if not self._head_size and not self._is_closing:
            self._since = self._loop.time()
        self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._upgrade(data[exc.args[0] :])
        except httptools.HttpParserCallbackError:
            logger.exception("bug: a request broke")
            self._reject(InternalError("something broke; the service's log has the details"))
        except httptools.HttpParserError:
            self._reject(InvalidRequest("this is not HTTP as this service speaks it"))
        else:
            if self._head_size > HEAD_LIMIT:
                self._reject(head_too_large())

    def pause_writing(self) -> None:
        self._is_lagging = True
        if self._current is not None:
            self._current.lags()

    def resume_writing(self) -> None:
        self._is_lagging = False
        if self._current is not None:
            self._current.keeps_up()
        elif self._pending:
            self._loop.call_soon(self._next)

    # httptools

    def on_message_begin(self) -> None:
        self._head_size = self._head_size or 1  # behind another request in the same segment
        self._url = b""
        self._headers: Headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_size = 0
        if self._is_closing or self._parser.should_upgrade():
            return
        path, _, query = self._url.partition(b"?")
        text = path.decode("ascii", "replace")
        client = Client(
            self._transport,
            self._parser.get_method().decode("ascii"),
            (unquote(text) if "%" in text else text, path, query),
            self._headers,
            self._parser.get_http_version(),
            self._address,
            self._answered,
        )
        client.request_id = request_id_of(client.headers, client.fields)
        client.keep_alive = self._parser.should_keep_alive() and not self._is_shutting_down
        self._receiving = client
        if self._current is not None or self._pending or self._is_lagging:
            self._pending.append(client)
            self._transport.pause_reading()
            return
        self._current = client
        error = objection(client)
        if error is not None:
            self._plane.refuse(client, error)
        else:
            self._begin(client)

    def on_body(self, piece: bytes) -> None:
        self._head_size = 0
        client = self._receiving
        if client is not None and not client.is_answered:
            client.feed(piece)
            if client is not self._current:
                self._transport.pause_reading()  # whoever is in front of it may have resumed it for itself
            if client is self._current and client.listener is None:
                self._plane.grew(client)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._head_size = 0
        client, self._receiving = self._receiving, None
        if client is None:
            return
        if client.is_answered:
            self._close()  # the rest of a request that was refused before it was whole
            return
        client.complete()
        if client is self._current and client.listener is None:
            self._plane.whole(client)

    # One request after another.

    def _begin(self, client: Client) -> None:
        self._plane.began(client)
        expect = client.fields.get(b"expect")
        if expect is None or expect.lower() != b"100-continue" or client.version == "1.0":
            return
        if not client.is_answered and not client.is_whole:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answered(self) -> None:
        """The answer is out; the connection is ready for the next request, or ends."""
        client, self._current = self._current, None
        self._state.total_requests += 1
        self._since = self._loop.time()
        if client is None or not client.keep_alive or self._is_shutting_down:
            self._is_closing = True
            if client is None or client.is_whole:
                self._close()
            else:
                self._transport.resume_reading()  # to drop the rest of it: a reset would destroy the answer
        elif self._pending:
            self._loop.call_soon(self._next)
        else:
            self._transport.resume_reading()  # it may have been paused for a child that was slow

    def _next(self) -> None:
        """Serve a request that has waited for the one before it."""
        if self._is_closing or self._is_lagging or self._current is not None or not self._pending:
            return
        client = self._current = self._pending.popleft()
        error = objection(client)
        if error is not None:
            client.keep_alive = False
            self._plane.refuse(client, error)
            return
        self._begin(client)
        if client.body_size and client.listener is None and not client.is_answered:
            self._plane.grew(client)
        if client.is_whole and client.listener is None and not client.is_answered:
            self._plane.whole(client)
        if not self._pending:
            self._transport.resume_reading()

    def _upgrade(self, rest: bytes) -> None:
        """A websocket is uvicorn's; any other upgrade is declined by serving the request as if it had not asked."""
        if self._parser.get_method() == b"CONNECT":
            self._reject(
                InvalidRequest("the request's target has to be a path", hint="this service is no forward proxy")
            )
        elif fields_of(self._headers).get(b"upgrade", b"").lower() != b"websocket":
            head = self._head_without_upgrade()
            self._new_parser()
            self.data_received(head + rest)
        elif self._parser.get_method() != b"GET" or self._parser.get_http_version() != "1.1":
            self._reject(InvalidRequest("a websocket begins with GET, in HTTP/1.1"))
        elif error := objection(Head(*self._url.partition(b"?")[::2], self._headers, fields_of(self._headers), "1.1")):
            self._reject(error)
        elif self._current is None:
            self._hand_over(rest)
        else:
            self._close()

    def _hand_over(self, rest: bytes) -> None:
        """To uvicorn's websocket, if it makes one of this: of a body, for instance, or a long line, it says nothing."""
        protocol = cast("Any", self._config.ws_protocol_class)(
            config=self._config, server_state=self._state, app_state=self._app_state
        )
        protocol.connection_made(self._transport)
        protocol.data_received(self._head(with_request_id(self._headers)) + rest)
        if not getattr(protocol, "handshake_initiated", True):
            self._state.connections.discard(protocol)
            self._reject(InvalidRequest("the request asks for a websocket, and is not one"))
            return
        self._state.connections.discard(cast("Any", self))
        self._transport.set_protocol(protocol)

    def _head_without_upgrade(self) -> bytes:
        dropped = {b"upgrade", b"connection", b"http2-settings"}
        return self._head([pair for pair in self._headers if pair[0] not in dropped])

    def _head(self, headers: Headers) -> bytes:
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (self._parser.get_method(), self._url, lines)

    def _reject(self, error: SupervisorError) -> None:
        """Refuse what is no request; nothing on this connection can be understood any more."""
        broken, self._receiving = self._receiving, None
        if self._current is None:
            self._write_error(error)
            self._close()
        elif broken is self._current:
            broken.keep_alive = False
            broken.let_go()
            if broken.has_begun:
                broken.cut()
            else:
                self._plane.refuse(broken, error)
            self._close()
        else:  # the requests before it are none the worse; the one under way is the last that is answered
            self._is_closing = True
            self._current.keep_alive = False

    def _write_error(self, error: SupervisorError) -> None:
        if not self._is_closing:
            status, headers, body = error_response(error, Dialect.OPENAI, b"")
            named = [*headers, (REQUEST_ID, new_request_id().encode())]
            lines = b"".join(b"%b: %b\r\n" % pair for pair in named)
            self._transport.write(STATUS_LINES[status] + lines + b"connection: close\r\n\r\n" + body)

    def _close(self) -> None:
        self._is_closing = True
        self._transport.close()

    # What the server asks.

    def shutdown(self) -> None:
        """Serve no further request: uvicorn calls this when the service ends."""
        self._is_shutting_down = True
        self._since = self._loop.time()
        if self._current is None:
            self._close()
        else:
            self._current.keep_alive = False

    def _has_stalled(self, now: float) -> bool:
        """Whether a client takes nothing of its answer: it must not hold up the end of the service."""
        size, since = self._transport.get_write_buffer_size(), self._unread[1]
        if size != self._unread[0]:
            self._unread = size, now
            return False
        return size > 0 and now - since >= STALLED_SECONDS

    def _is_coming_slowly(self, now: float) -> bool:
        """Whether nobody serves the request yet, for it is still on its way: once whole it would be refused, too."""
        client = self._current
        if client is None or client.is_whole or client.listener is not None:
            return False
        return now - self._since >= STALLED_SECONDS

    def _starves(self, now: float) -> bool:
        """Whether the body under way hardly comes, though we do read."""
        client, (watched, size, since) = self._receiving, self._progress
        assert client is not None
        if client is not watched or client.body_size - size >= BODY_BYTES or not self._transport.is_reading():
            self._progress = client, client.body_size, now
            return False
        return now - since > BODY_SECONDS

    @property
    def idle_since(self) -> float | None:
        """When its last request was over, or it was opened; None while there is one, or a part of one."""
        is_busy = self._current is not None or self._receiving is not None or self._head_size or self._is_closing
        return None if is_busy else self._since

    def sweep(self, now: float) -> None:
        """Close a connection that has been idle, or busy with the head or the body of a request, for too long."""
        if self._is_shutting_down and self._has_stalled(now):
            self._transport.abort()
            return
        if self._is_shutting_down and self._is_coming_slowly(now):
            self._plane.refuse(cast("Client", self._current), ShuttingDown("shutting down"))
            return
        if self._is_closing:
            patience = STALLED_SECONDS if self._is_shutting_down else IDLE_SECONDS
            if self._current is None and now - self._since > patience:
                self._transport.abort()  # it neither sends the rest of what was refused, nor takes its answer
            return
        if self._current is not None or self._receiving is not None:
            if self._current is self._receiving and self._starves(now):
                least = f"{BODY_BYTES} bytes in {BODY_SECONDS:.0f} s"
                self._reject(RequestTimeout(f"the body of the request came too slowly; at least {least} are expected"))
            return
        if self._head_size and now - self._since > HEAD_SECONDS:
            self._reject(RequestTimeout(f"the head of the request did not come within {HEAD_SECONDS:.0f} s"))
        elif now - self._since > IDLE_SECONDS:
            self._close()
