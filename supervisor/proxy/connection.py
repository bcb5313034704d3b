"""One HTTP/1.1 connection to a server, a child or a peer: a Protocol around httptools, with one exchange at a time.

What httptools does not tell is tracked here (spec: python-io.md): a response to HEAD never completes, 1xx ends a
message, a body may be delimited by the end of the connection, and a killed peer looks like a clean end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from supervisor.proxy.heads import fields_of
from supervisor.proxy.passing import CHUNKED_HEAD, LINES_END, PassingChunks, may_pass, without_trailers

if TYPE_CHECKING:
    from supervisor.proxy.heads import Fields, Headers

JOINED_BYTES = 64 * 1024
"""Up to this size a body is copied behind its head rather than written by itself."""


class Receiver(Protocol):
    """Who hears what a child answers, in this order: a head, pieces, the end; or that it will not come to that."""

    def head_came(self, status: int, headers: Headers, fields: Fields, *, is_alone: bool) -> bool:
        """Status and headers; alone if nothing of the body came with them.

        Whether chunks of the body may pass by as they are.
        """

    def piece_came(self, piece: bytes) -> None:
        """What has come of the body since the last call, at least one byte."""

    def chunks_came(self, chunks: bytes, *, are_last: bool) -> None:
        """The same as it is on the wire: whole chunks, the last of which ends with a line, or is the last of all."""

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
        self.is_torn = False
        """Whether a response broke off within a chunk that has been passed on."""
        self.has_served = False
        """Whether an earlier exchange used it: only then may its sudden end be mere bad timing."""
        self._receiver: Receiver | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # httptools calls it for every chunk: a frame of ours each time would tell
        self._passing: PassingChunks | None = None
        """Not None: chunks pass by as they are."""
        self._is_complete = True
        self._is_sent = True
        self._may_be_kept = True
        self._is_at_start = False
        """Whether the parser has just seen the end of a response."""

    # The exchange.

    def send(self, receiver: Receiver, method: bytes, head: bytes, body: bytes = b"", *, is_whole: bool = True) -> None:
        """Begin an exchange; a body that is not whole goes on with `send_more`."""
        self._receiver = receiver
        if not self._is_at_start:
            self._parser = httptools.HttpResponseParser(self)
        self._is_at_start = False
        self._method = method
        self._status = 0
        self._headers: Headers = []
        self._pieces.clear()
        self._has_head = False
        self._has_told_head = False
        self._may_pass = False
        self._passing = None
        self._is_complete = False
        self._is_sent = is_whole
        self.ends_with_connection = False
        self.is_torn = False
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

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        if self._is_complete:
            self.close()  # bytes that nobody asked for: whatever this is, the next response would be wrong
            return
        if self._passing is None:
            self._take_apart(data)
        elif data.endswith(LINES_END):
            self._pass(self._passing, data)
        elif self._stop_passing(self._passing):
            self._take_apart(data)
        else:
            self.close()

    def _take_apart(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError):
            self.close()
        receiver = self._receiver
        if receiver is None:
            return
        if self._has_head and not self._has_told_head:
            self._has_told_head = True
            is_alone = not self._pieces and not self._is_complete
            told = receiver.head_came(self._status, self._headers, self._fields, is_alone=is_alone)
            self._may_pass = told and self._is_chunked
        if self._pieces and self._receiver is receiver:
            piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            if self._may_pass and not self._is_complete and may_pass(data, piece):
                self._passing = PassingChunks()
            receiver.piece_came(piece)
        self._tell_end(receiver)

    def _pass(self, chunks: PassingChunks, data: bytes) -> None:
        try:
            chunks.feed(data)
        except httptools.HttpParserError:
            self.close()
            return
        self._is_complete = chunks.is_complete
        receiver = self._receiver
        if receiver is None:
            return
        passed = without_trailers(data) if self._is_complete else data
        if passed:
            receiver.chunks_came(passed, are_last=self._is_complete and passed is data)
        self._tell_end(receiver)

    def _stop_passing(self, chunks: PassingChunks) -> bool:
        """Begin to take chunks apart again, for something torn comes; whether it can be told where they begin."""
        self._passing = None
        self.is_torn = not chunks.are_whole()
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(CHUNKED_HEAD)
        return not self.is_torn

    def _tell_end(self, receiver: Receiver) -> None:
        """Pass on that the response has ended, if it has, and that is still wanted."""
        if self._is_complete and self._receiver is receiver:
            self._receiver = None
            receiver.ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if self._passing is not None:
            self.is_torn = not self._passing.are_whole()
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
        if self._has_head:
            return  # of the parser that takes over in the middle of a body
        self._status = self._parser.get_status_code()
        if self._status < 100:
            raise ValueError("no status of HTTP")  # it could have a body, which would reach the client without a head
        if self._status < 200:
            return
        fields = self._fields = fields_of(self._headers)
        bodiless = self._method == b"HEAD" or self._status in {204, 304}
        self._is_chunked = b"transfer-encoding" in fields
        self.ends_with_connection = not bodiless and not self._is_chunked and b"content-length" not in fields
        self._is_complete = bodiless
        self._has_head = True
        # A HEAD response leaves the parser waiting for a body, so its connection is not used again.
        self._may_be_kept = self._method != b"HEAD" and self._parser.should_keep_alive()

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._headers.clear()
            return
        self._is_complete = self._is_at_start = True
