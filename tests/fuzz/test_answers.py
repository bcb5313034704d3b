"""Answers of any bytes from a model's server or a peer: what reaches the client is one whole answer, or is cut.

An answer that is neither would shift every later one on the client's connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools
import pytest

from tests.fuzz.mutation import example, numbers
from tests.proxy.test_exchange import Asked, upstream_of

if TYPE_CHECKING:
    import asyncio

    from tests.fuzz.mutation import Random

pytestmark = pytest.mark.anyio

STATUSES = (
    "200 OK",
    "200",
    "404 Not Found",
    "500 x",
    "204 No Content",
    "304 x",
    "100 Continue",
    "103 Early",
    "101 x",
    "999 x",
)
HEADERS = (
    "content-type: application/json", "content-type: text/event-stream", "content-type: text/event-stream",
    "content-length: 2", "content-length: 20", "content-length: 0", "content-length: -1", "content-length: 2, 2",
    "transfer-encoding: chunked", "transfer-encoding: chunked", "transfer-encoding: gzip", "connection: close",
    "connection: keep-alive", "connection: x, content-type", "upgrade: h2c", "trailer: x", "date: \xff", "x: ", ": y",
    "x-request-id: theirs", "access-control-allow-origin: *", "set-cookie: a=b", "keep-alive: timeout=5", "x: a\r\n b",
    "content-encoding: gzip", "retry-after: soon", "x-" + "a" * 5000 + ": 1", "x: " + "b" * 70_000,
)  # fmt: skip
BODIES = (
    b"ok", b"{}", b'{"usage":{"prompt_tokens":1}}', b"data: {}\n\ndata: [DONE]\n\n", b"data: half", b"",
    b"2\r\nok\r\n0\r\n\r\n", b"2;a=b\r\nok\r\n0\r\nx: y\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n", b"0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
)  # fmt: skip


def answer(random: Random) -> bytes:
    """What a server might send, and then more of it."""
    data = b""
    for _ in range(random.choice((1, 1, 1, 2))):
        lines = [f"HTTP/{random.choice(('1.1',) * 9 + ('1.0', '2.0'))} {random.choice(STATUSES)}"]
        lines += random.sample(HEADERS, random.randint(0, 4))
        data += "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + random.choice(BODIES)
    return random.mutated(data) if random.chance(0.5) else data


class Reading:
    """How a client reads what was written."""

    def __init__(self, written: bytes) -> None:
        self.count = 0
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(written)

    def on_message_complete(self) -> None:
        self.count += 1


async def test_any_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Never two answers, never half of one on a connection that goes on, and nothing of ours breaks."""
    sent: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        for piece in sent:
            writer.write(piece)
            await writer.drain()

    passed = 0
    for number in numbers(150):
        caplog.clear()
        with example("answers", number) as random:
            sent[:] = random.cut(answer(random))
            async with upstream_of(script) as upstream:
                asked = Asked(upstream)
                asked.run.end(None)
                asked.start()
                written = await asked.end()
            if asked.client.keep_alive:
                assert Reading(written).count == 1, written
                passed += written.startswith(b"HTTP/1.1 200")
            assert not [record for record in caplog.records if record.exc_info or "bug:" in record.getMessage()]

    assert passed > 5
