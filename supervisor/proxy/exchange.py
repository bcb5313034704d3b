"""A request passed to a backend, a child that is ready or a peer, and its answer passed back.

Bytes go through as callbacks, from one connection's `data_received` to the other's `write`: no task, no future, no
queue. Only what has to wait is a task: a new connection, and learning what became of a child whose connection ended.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING

import msgspec.json

from supervisor.errors import InternalError, SupervisorError, UpstreamRefused, UpstreamUnreachable
from supervisor.proxy.heads import is_compressed, is_event_stream, response_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from supervisor.proxy.answer import Answer
    from supervisor.proxy.backend import Backend
    from supervisor.proxy.call import Call
    from supervisor.proxy.connection import Connection
    from supervisor.proxy.heads import Fields, Headers
    from supervisor.proxy.lines import WholeLines
    from supervisor.proxy.loading_state import Joint
    from supervisor.record.recording import Tap

logger = logging.getLogger("supervisor.proxy")

REFUSAL_LIMIT = 64 * 1024
"""Bytes kept of an error that has to be put into a stream."""


class Exchange:
    """One call and its answer, between a client and a connection to a backend."""

    __slots__ = (
        "_answer",
        "_backend",
        "_call",
        "_client",
        "_complaint",
        "_connection",
        "_has_end",
        "_lines",
        "_origin",
        "_recording",
        "_tap",
        "_task",
        "_timer",
        "_up",
    )

    def __init__(self, call: Call, answer: Answer, backend: Backend) -> None:
        self._call = call
        self._answer = answer
        self._client = answer.client
        self._recording = answer.client.recording
        self._backend = backend
        self._origin = backend.origin
        self._up = backend.upstream
        self._connection: Connection | None = None
        self._lines: WholeLines | Joint | None = None
        self._complaint: bytes | None = None
        """The backend's error, where the stream that should carry it has begun."""
        self._has_end = False
        """Whether the last of the chunks has been passed on."""
        self._tap: Tap | None = None
        """Takes each piece of the answer, for the record."""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Until the answer begins, where there is a limit to that."""

    def start(self) -> None:
        """Send the request; everything else is answers to what happens."""
        self._client.listener = self
        if self._recording is not None:
            self._recording.sent()
        self._backend.begin()
        connection = self._up.take_idle() if self._call.length is None else None  # a kept one may need a second try
        if connection is not None:
            self._send(connection)
        else:
            self._later(self._connect)

    def _send(self, connection: Connection) -> None:
        self._connection = connection
        call = self._call
        head = call.head(self._up.forwarding, self._client)
        if call.length is None:
            connection.send(self, call.method, head, call.body)
        else:
            self._client.resume()  # before a child that is slow pauses it again
            is_whole = self._client.is_whole
            connection.send(self, call.method, head, call.body + self._client.take_body(), is_whole=is_whole)
        if self._up.response_header is not None:
            self._expect_head()
        if self._client.is_lagging:
            connection.pause()

    async def _connect(self) -> None:
        try:
            connection = await self._up.connect()
        except UpstreamUnreachable as exc:
            raise await self._backend.unreachable(exc) from exc
        self._send(connection)

    def _expect_head(self) -> None:
        """Let the time for the answer's head run, if all of the request is on its way."""
        seconds, connection = self._up.response_header, self._connection
        if self._timer is None and seconds is not None and connection is not None and connection.owes_head:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._head_is_late)

    def _expect_no_head(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _head_is_late(self) -> None:
        self._fail(self._backend.late())

    # What the backend answers.

    def head_came(self, status: int, headers: Headers, fields: Fields, *, is_alone: bool) -> bool:
        if self._timer is not None:
            self._expect_no_head()
        if status >= 600:
            self._fail(UpstreamRefused(f"the model's server answered with status {status}, which HTTP does not have"))
            return False
        self._call.body = b""
        if self._client.share is not None:
            self._client.share.give_back()
        is_stream = is_event_stream(fields)
        if self._answer.is_stream and not is_stream:
            self._complaint = b""
            return False
        if self._recording is not None:
            self._recording.head_came(fields, is_stream=is_stream)
            self._tap = self._record_first
        has_lines = is_stream and not is_compressed(fields)
        self._lines = self._answer.lines() if has_lines else None
        returned = response_headers(status, headers, fields, is_stream=is_stream)
        self._answer.begin(status, returned, is_stream=has_lines)
        if is_alone:
            self._client.flush()
        is_captured = self._recording is not None and self._recording.is_captured
        return self._answer.takes_chunks and not is_captured

    def piece_came(self, piece: bytes) -> None:
        self._origin.heard_at = monotonic()
        if self._lines is not None and (self._lines.holds or not piece.endswith(b"\n")):
            piece = self._lines.feed(piece)
        elif self._complaint is not None:
            self._complaint = (self._complaint + piece)[:REFUSAL_LIMIT]
            return
        if piece:
            if self._tap is not None:
                self._tap(piece)
            self._client.write(piece)
        else:
            self._client.flush()

    def chunks_came(self, chunks: bytes, *, are_last: bool) -> None:
        self._origin.heard_at = monotonic()
        if self._tap is not None:
            self._tap(chunks)
        self._has_end = are_last
        self._client.write(chunks, are_chunks=True)

    def _record_first(self, piece: bytes) -> None:
        if self._recording is not None:
            self._tap = self._recording.first_came(piece)

    def ended(self) -> None:
        if self._complaint is not None:
            self._fail(UpstreamRefused(_message(self._complaint)))
        elif self._lines is not None and self._connection is not None and self._connection.ends_with_connection:
            self._later(self._conclude)
        else:
            self._finish()

    def broke(self, *, started: bool) -> None:
        connection = self._connection
        self._let_go()
        if connection is not None and connection.is_torn:
            self._answer.is_stream = False  # whatever followed would be taken for a part of the chunk
        if self._call.length is not None:
            self._client.pause()  # nobody takes the rest of an upload now
        if not started and connection is not None and connection.has_served:
            self._later(self._connect)  # a kept connection had just ended: once more, on a new one
        else:
            self._later(self._lament)

    def child_lags(self) -> None:
        self._client.pause()
        self._expect_no_head()

    def child_keeps_up(self) -> None:
        self._client.resume()
        self._expect_head()

    # How the client fares.

    def client_left(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._close()

    def client_lags(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def client_keeps_up(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def client_sent(self) -> None:
        if self._connection is not None:
            self._connection.send_more(self._client.take_body(), is_last=self._client.is_whole)
            self._expect_head()

    # The end.

    async def _conclude(self) -> None:
        """A stream whose end is that of its connection is whole only if its child has not died."""
        error = await self._backend.died()
        if error is not None:
            raise error
        self._finish()

    async def _lament(self) -> None:
        raise await self._backend.broke()

    def _finish(self) -> None:
        self._close()
        rest = self._lines.rest() if self._lines is not None else b""
        if rest and self._tap is not None:
            self._tap(rest)
        if self._has_end:
            self._client.end()
        else:
            self._client.finish(rest)

    def _fail(self, error: SupervisorError) -> None:
        self._close()
        logger.warning(
            "%s could not answer %s: %s",
            self._backend.name,
            self._call.target.decode("latin-1"),
            error,
            extra=self._facts(),
        )
        self._answer.fail(error)

    def _facts(self) -> dict[str, str]:
        """What the log knows this exchange by."""
        return {"request_id": self._client.request_id, "model": self._call.model.whole_name}

    def _close(self) -> None:
        """Give everything back."""
        self._let_go()
        self._call.body = b""  # a traceback may hold all of this until cycles are looked for
        self._backend.end()

    def _let_go(self) -> None:
        if self._timer is not None:
            self._expect_no_head()
        connection, self._connection = self._connection, None
        if connection is not None:
            self._up.release(connection)

    def _later(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._waiting(work))

    async def _waiting(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await work()
        except SupervisorError as exc:
            self._fail(exc)
        except Exception:
            logger.exception("bug: an answer of %s broke", self._backend.name, extra=self._facts())
            self._fail(InternalError("something broke; the service's log has the details"))


def _message(body: bytes) -> str:
    """What a backend's error says."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
