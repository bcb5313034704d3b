"""Asking a server one thing over HTTP, on a connection of its own: whether it is ready, or what it says of itself.

With the parser that the data plane has loaded anyway: a client library takes 50 ms of every start to import.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio.to_thread
import httptools

from supervisor.llama.endpoint import HttpEndpoint, UnixEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from supervisor.llama.endpoint import Endpoint

READ_BYTES = 64 * 1024
MOST_OF_A_HEAD = 128 * 1024
_AS_WRITTEN = "/%?!$&'()*+,;=:@~"
"""What a path with a query may hold beside letters and digits."""
_FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class NoAnswer(Exception):
    """Raised when a server does not answer, or not in HTTP."""

    def __init__(self, why: object, *, is_absent: bool = False) -> None:
        super().__init__(str(why))
        self.is_absent = is_absent
        """Whether nobody accepts connections there, as long as it starts for instance."""


class Asker:
    """Asks one server, and sends it this key; it sets no limit to how long anything takes."""

    def __init__(self, endpoint: Endpoint, key: str | None = None) -> None:
        self._endpoint = endpoint
        self._key = key
        self._trusted: ssl.SSLContext | None = None

    @contextlib.asynccontextmanager
    async def get(self, path: str) -> AsyncIterator[Answer]:
        """What it answers at this path, as soon as its head is there; raises `NoAnswer`, as reading on does."""
        try:
            reader, writer = await self._connected()
        except ssl.SSLError as exc:
            raise NoAnswer(exc) from exc
        except OSError as exc:
            raise NoAnswer(exc, is_absent=True) from exc
        try:
            writer.write(self._head(path))
            answer = Answer(reader)
            await answer.begin()
            yield answer
        finally:
            writer.transport.abort()  # of a body that is long, or without an end, nobody wants more

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        endpoint = self._endpoint
        if isinstance(endpoint, UnixEndpoint):
            return await asyncio.open_unix_connection(endpoint.path)
        if isinstance(endpoint, HttpEndpoint) and endpoint.tls and self._trusted is None:
            # Reading the certificates takes 20 ms.
            self._trusted = await anyio.to_thread.run_sync(ssl.create_default_context, abandon_on_cancel=True)
        return await asyncio.open_connection(endpoint.host, endpoint.port, ssl=self._trusted)

    def _head(self, path: str) -> bytes:
        host = "localhost" if isinstance(self._endpoint, UnixEndpoint) else self._endpoint.authority
        base = self._endpoint.base_path if isinstance(self._endpoint, HttpEndpoint) else ""
        lines = [f"GET {base}{quote(path, safe=_AS_WRITTEN)} HTTP/1.1", f"Host: {host}", "Accept: */*"]
        if self._key is not None:
            lines.append(f"Authorization: Bearer {self._key}")
        return "\r\n".join((*lines, "Connection: close", "", "")).encode()


class Answer:
    """What a server answers, as it comes; httptools tells it the parts."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        """Their names in lower case."""
        self._reader = reader
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._has_head = False
        self._is_whole = False

    async def begin(self) -> None:
        """Wait for its head."""
        received = 0
        while not self._has_head:
            received += await self._more()
            if received > MOST_OF_A_HEAD and not self._has_head:
                raise NoAnswer("its head has no end")

    async def body(self, most: int) -> bytes | None:
        """Its body; None if that has more bytes than these."""
        while not self._is_whole and len(self._body) <= most:
            await self._more()
        return bytes(self._body) if len(self._body) <= most else None

    async def _more(self) -> int:
        """Take in what comes next; how many bytes that are."""
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as exc:
            raise NoAnswer(exc) from exc
        if data:
            self._take_apart(data)
        elif self._has_head and not self.headers.keys() & _FRAMING:
            self._is_whole = True
        else:
            raise NoAnswer("it ended the connection before its answer was whole")
        return len(data)

    def _take_apart(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            raise NoAnswer(f"it does not speak HTTP: {exc}") from exc

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200
        if not self._has_head:
            self.headers.clear()  # of a 100, which the answer follows

    def on_body(self, piece: bytes) -> None:
        self._body += piece

    def on_message_complete(self) -> None:
        self._is_whole = self._has_head
