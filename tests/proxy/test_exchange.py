"""A request passed to a child and its answer passed back, between a scripted child and a client in the test."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.config.values import Filters, Model, Timeouts
from supervisor.errors import Failure
from supervisor.fleet.names import Target
from supervisor.fleet.values import Phase, Run, RunId
from supervisor.proxy.answer import Answer
from supervisor.proxy.backend import LocalBackend
from supervisor.proxy.call import Call
from supervisor.proxy.client import Client
from supervisor.proxy.dialects import Dialect
from supervisor.proxy.exchange import Exchange
from supervisor.proxy.upstream import Upstream
from supervisor.runtime.live import Lease, LiveRun
from tests.proxy.conftest import Wire, scripted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from supervisor.llama.endpoint import Endpoint
    from tests.proxy.conftest import Script

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
TARGET = Target("m", "m", Filters())
CRASH = Failure("f", "m", "crashed", "it fell", "", phase="serving", at="2026-01-01T00:00:00Z", exit_code=3)


class Asked:
    """One request to a child, and what its client got of the answer."""

    def __init__(
        self, upstream: Upstream, body: bytes = b"body", *, method: str = "POST", length: int | None = None
    ) -> None:
        self.wire = Wire()
        self.ended = asyncio.Event()
        transport: Any = self.wire
        self.client = Client(
            transport, method, ("/x", b"/x", b""), [], version="1.1", address=None, ended=self.ended.set
        )
        self.client.is_whole = length is None
        self.run = LiveRun(Run(RunId(1), Model(id="m"), Phase.READY, 0.0, 0.0))
        self.run.leases = 1
        self.answer = Answer(self.client, Dialect.OPENAI)
        self._call = Call(method.encode(), b"/x", [], body, TARGET, length=length)
        self._exchange = Exchange(self._call, self.answer, LocalBackend(Lease(self.run, self._give_back), upstream))

    def _give_back(self, run: LiveRun) -> None:
        run.leases -= 1

    def start(self) -> None:
        self._exchange.start()

    async def end(self) -> bytes:
        """Wait for the end of the answer; what was written."""
        await self.ended.wait()
        self.check_given_back()
        return self.wire.written

    def check_given_back(self) -> None:
        """Everything was given back, once."""
        assert (self.run.leases, self.run.awaited) == (0, 0)
        assert self.client.listener is None or self.client.is_gone

    @property
    def has_limit(self) -> bool:
        """Whether there is a time by which its answer has to begin."""
        return self._exchange._timer is not None

    @property
    def body(self) -> bytes:
        return self.wire.written.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        return int(self.wire.written.split()[1])


async def exchange(upstream: Upstream) -> Asked:
    """An exchange to its end, with a child of which nothing more will be known."""
    asked = Asked(upstream)
    asked.run.end(None)
    asked.start()
    await asked.end()
    return asked


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact in this loop; `scripted` sets the limit."""
    while not fact():  # noqa: ASYNC110 - a wire tells its state, but has no event for it
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def upstream_of(script: Script) -> AsyncIterator[Upstream]:
    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint)
        yield upstream
        upstream.close()


def saying(*segments: bytes, closes: bool = False) -> Script:
    """A child that answers every request with these."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"body")
            for segment in segments:
                writer.write(segment)
                await writer.drain()
            if closes:
                return

    return script


# Kept connections.


@contextlib.asynccontextmanager
async def closing_child(*answers: int) -> AsyncIterator[tuple[Upstream, list[int]]]:
    """A child whose connections answer so many requests each, and close upon the next; and what each has read."""
    read: list[int] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(read)
        read.append(0)
        while True:
            await reader.readuntil(b"body")
            read[number] += 1
            if read[number] > answers[number]:
                return
            writer.write(OK)

    async with upstream_of(script) as upstream:
        yield upstream, read


async def test_kept_connection_that_just_ended() -> None:
    """A request that meets the end of a kept connection is sent once more on a new one."""
    async with closing_child(1, 2) as (upstream, read):
        assert [(await exchange(upstream)).body for _ in range(3)] == [b"ok"] * 3
        assert read == [2, 2]


async def test_new_connection_that_ends() -> None:
    """A request is not repeated when a new connection ends: that is no bad timing, and it may have had effects."""
    async with closing_child(0, 1) as (upstream, read):
        asked = await exchange(upstream)

        assert asked.status == 502
        assert b"closed the connection before the end" in asked.body
        assert read == [1]
        assert "[0 busy, 0 idle]" in repr(upstream)


async def test_second_try_is_the_last() -> None:
    """A request is sent twice at the most, and the second time never on another kept connection."""
    async with closing_child(1, 1, 0, 1) as (upstream, read):
        together = [Asked(upstream) for _ in range(2)]
        for each in together:
            each.start()
        for each in together:
            assert (await each.end()).endswith(b"ok")
        assert "[0 busy, 2 idle]" in repr(upstream)
        asked = await exchange(upstream)

        assert asked.status == 502
        assert sorted(read) == [1, 1, 2]
        assert "[0 busy, 1 idle]" in repr(upstream)


async def test_answer_that_has_begun_is_not_repeated() -> None:
    """A kept connection that ends in the middle of an answer cuts that answer: the request was served."""
    count = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        for answer in (OK, OK[:-1]):
            await reader.readuntil(b"body")
            count += 1
            writer.write(answer)

    async with upstream_of(script) as upstream:
        await exchange(upstream)
        asked = await exchange(upstream)

        assert asked.wire.written == OK[:-1]
        assert not asked.client.keep_alive
        assert count == 2


async def test_bodies_are_let_go() -> None:
    """At the end of an exchange nobody holds the body, not even a traceback of what went wrong."""
    hangs = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        await hangs.wait()

    async with upstream_of(script) as upstream:
        left = Asked(upstream)
        left.start()
        left.client.left()
        crashed = Asked(upstream)
        crashed.run.end(CRASH)
        crashed.start()
        hangs.set()
        await crashed.end()

        assert (left._call.body, crashed._call.body) == (b"", b"")


async def test_the_rest_of_an_upload_is_let_go() -> None:
    """What came of a body whose client has left is held by nobody, and nobody serves it."""
    async with closing_child(0) as (upstream, _):
        asked = Asked(upstream, b"bo", length=4)
        asked.start()
        asked.client.feed(b"d")
        asked.client.left()

        assert (asked.client.body, asked.client.listener) == (b"", None)


async def test_an_upload_takes_no_kept_connection() -> None:
    """What is passed on while it comes cannot be sent twice, so it goes on a new connection."""
    async with closing_child(1, 1) as (upstream, read):
        await exchange(upstream)
        asked = Asked(upstream, b"bo", length=4)
        asked.client.pause()
        asked.start()
        await until(lambda: not asked.wire.is_paused)
        asked.client.feed(b"dy")
        asked.client.complete()
        await asked.end()

        assert asked.body == b"ok"
        assert read == [1, 1]
        assert "[0 busy, 2 idle]" in repr(upstream)


async def test_kept_connection_after_a_slow_client() -> None:
    """A client that lagged at the end of its answer does not stop the next one on the same connection."""
    async with closing_child(3) as (upstream, read):
        first = Asked(upstream)
        first.wire.write = lambda data: first.client.lags()  # type: ignore[method-assign]
        first.start()
        await first.end()
        second = await exchange(upstream)

        assert second.body == b"ok"
        assert read == [2]


# What passes.


@pytest.mark.parametrize("segments", [(OK,), (OK[:20], OK[20:]), tuple(OK[n : n + 1] for n in range(len(OK)))])
async def test_answer_passes(segments: tuple[bytes, ...]) -> None:
    """An answer is passed on however it comes, and everything is given back."""
    async with upstream_of(saying(*segments)) as upstream:
        asked = await exchange(upstream)

        assert asked.wire.written == OK
        assert asked.client.keep_alive
        assert "[0 busy, 1 idle]" in repr(upstream)


@pytest.mark.parametrize("torn", [b"", b": half a comment"])
async def test_head_of_a_stream_is_not_held_back(torn: bytes) -> None:
    """A client hears at once that a stream has begun, also if only a torn line of it has come."""
    go_on = asyncio.Event()
    chunk = b"%x\r\n%b\r\n" % (len(torn), torn) if torn else b""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(STREAM + b"transfer-encoding: chunked\r\n\r\n" + chunk)
        await go_on.wait()
        writer.write(b"2\r\n\n\n\r\n0\r\n\r\n")
        await reader.read()

    async with upstream_of(script) as upstream:
        asked = Asked(upstream)
        asked.start()
        await until(lambda: asked.wire.written)
        assert asked.wire.written.endswith(b"\r\n\r\n")
        go_on.set()
        await asked.end()

        assert torn in asked.body


EVENT = b"9\r\ndata: 1\n\n\r\n"


@pytest.mark.parametrize("trailers", [b"", b"x: y\r\n", b"x: 0\r\n0: 0\r\n"])
@pytest.mark.parametrize("rest", [EVENT * 3, b""])
async def test_chunks_pass_by(rest: bytes, trailers: bytes) -> None:
    """A stream whose chunks pass as they are is the same to the client, and has one end, without trailers."""
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(STREAM + b"transfer-encoding: chunked\r\n\r\n" + EVENT)
        await go_on.wait()
        writer.write(rest + b"0\r\n" + trailers + b"\r\n")
        await reader.read()

    async with upstream_of(script) as upstream:
        asked = Asked(upstream)
        asked.start()
        await until(lambda: asked.body)
        go_on.set()
        await asked.end()

        assert asked.body == EVENT + rest + b"0\r\n\r\n"
        assert asked.client.keep_alive
        assert "[0 busy, 1 idle]" in repr(upstream)


@pytest.mark.parametrize(("last", "is_told"), [(EVENT, True), (b"50\r\ndata: 1\n\r\n", False)])
async def test_chunks_that_break_off(last: bytes, is_told: bool) -> None:
    """After chunks that have passed an error can be told, unless it would become a part of a torn one."""
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(STREAM + b"transfer-encoding: chunked\r\n\r\n" + EVENT)
        await go_on.wait()
        writer.write(last)

    async with upstream_of(script) as upstream:
        asked = Asked(upstream)
        asked.run.end(CRASH)
        asked.start()
        await until(lambda: asked.body)
        go_on.set()
        await asked.end()

        assert asked.body.startswith(EVENT + last)
        assert (b"it fell" in asked.body) is is_told
        assert asked.body.endswith(b"0\r\n\r\n" if is_told else last)


async def test_a_compressed_stream() -> None:
    """What is compressed has no lines to wait for, and nothing that a client could read can follow it."""
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(STREAM + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n4\r\n\x1f\x8b\n!\r\n")
        await go_on.wait()

    async with upstream_of(script) as upstream:
        asked = Asked(upstream)
        asked.run.end(CRASH)
        asked.start()
        await until(lambda: b"\x1f\x8b\n!" in asked.wire.written)
        go_on.set()
        await asked.end()

        assert asked.body.endswith(b"4\r\n\x1f\x8b\n!\r\n")
        assert not asked.client.keep_alive


@pytest.mark.parametrize("tail", [b"content-length: 2\r\n\r\nno", b"content-length: 0\r\n\r\n", b"\r\nno"])
async def test_impossible_status(tail: bytes) -> None:
    """A status that HTTP does not have is told as an error, and nothing of that answer follows it."""
    async with upstream_of(saying(b"HTTP/1.1 600 Odd\r\n" + tail)) as upstream:
        asked = await exchange(upstream)
        for _ in range(10):
            await asyncio.sleep(0)

        assert asked.status == 502
        assert asked.wire.written.endswith(b"}")
        assert asked.wire.written.count(b"HTTP/1.1") == 1
        asked.check_given_back()


async def test_refusal_in_a_stream_that_waits() -> None:
    """A child's error becomes the last event of a stream that had begun with comments."""
    body = b'{"error":{"message":"too long"}}'
    answer = b"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    async with upstream_of(saying(answer[:-5], answer[-5:])) as upstream:
        asked = Asked(upstream)
        asked.answer.comment("loading")
        asked.start()
        await asked.end()

        assert b": loading\n\n" in asked.body
        assert b'"message":"too long"' in asked.body
        assert asked.body.endswith(b"\n\n\r\n0\r\n\r\n")
        assert "[0 busy, 1 idle]" in repr(upstream)


@pytest.mark.parametrize("crashed", [True, False])
async def test_stream_until_the_connection_ends(crashed: bool) -> None:
    """A stream that ends with its connection is whole unless its child is found to have died."""
    async with upstream_of(saying(STREAM + b"\r\ndata: 1\n\ndata: torn", closes=True)) as upstream:
        asked = Asked(upstream)
        if crashed:
            asked.run.end(CRASH)
        asked.start()
        await asked.end()

        assert (b"data: torn" in asked.body) is not crashed
        assert (b'"code":"crashed"' in asked.body) is crashed


async def test_crash_is_told() -> None:
    """A connection that ends because its child died is told as the crash, once that is known."""
    asked: Asked

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")

    async with upstream_of(script) as upstream:
        asked = Asked(upstream)
        asked.start()
        await until(lambda: "[0 busy" in repr(upstream) and upstream_was_used(asked))
        asked.run.end(CRASH)
        await asked.end()

        assert asked.status == 502
        assert b"it fell" in asked.body


def upstream_was_used(asked: Asked) -> bool:
    return asked.run.awaited == 1


async def test_nobody_listens() -> None:
    """A child that takes no connection is told as its end, if it has ended."""
    async with upstream_of(saying(OK)) as upstream:
        endpoint: Endpoint = upstream.endpoint
    gone = Upstream(endpoint)
    asked = Asked(gone)
    asked.run.end(CRASH)
    asked.start()
    await asyncio.wait_for(asked.end(), 30)

    assert b"it fell" in asked.body


# How long an answer may take to begin.


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@contextlib.asynccontextmanager
async def limited(script: Script, seconds: float = 0.05) -> AsyncIterator[Upstream]:
    async with scripted(script) as endpoint:
        upstream = Upstream(endpoint, timeouts=Timeouts(response_header=seconds))
        yield upstream
        upstream.close()


async def test_no_answer_in_time() -> None:
    """A child that takes a request and does not answer is told as late at the limit, and hears that it may stop."""
    gone = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        gone.set()

    async with limited(script) as upstream:
        asked = Asked(upstream)
        asked.start()
        await asked.end()

        assert asked.status == 504
        assert b"`m` has not begun to answer within 0.05 s" in asked.body
        assert b'"gateway_timeout"' in asked.body
        assert "[0 busy, 0 idle]" in repr(upstream)
        await gone.wait()


async def test_early_answers_do_not_count() -> None:
    """A 1xx is no answer."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await reader.read()

    async with limited(script) as upstream:
        asked = Asked(upstream)
        asked.start()
        await asked.end()

        assert asked.status == 504


async def test_late_in_a_stream_that_waits() -> None:
    """A stream that had begun with comments is told by an event."""
    async with limited(silence) as upstream:
        asked = Asked(upstream)
        asked.answer.comment("loading")
        asked.start()
        await asked.end()

        assert asked.status == 200
        assert b'"gateway_timeout"' in asked.body


async def test_only_the_beginning_is_limited() -> None:
    """An answer that has begun may take as long as it likes."""
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(OK[:-2])
        await go_on.wait()
        writer.write(OK[-2:])
        await reader.read()

    async with limited(script, 30) as upstream:
        asked = Asked(upstream)
        asked.start()
        await until(lambda: asked.has_limit)
        await until(lambda: asked.wire.written)
        assert not asked.has_limit
        go_on.set()

        assert await asked.end() == OK


async def test_the_second_try_has_its_own_time() -> None:
    """The limit begins anew where a request is sent again; of the first try no timer is left."""
    count = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        await reader.readuntil(b"body")
        count += 1
        writer.write(OK)
        await reader.readuntil(b"body")
        count += 1

    async with limited(script, 30) as upstream:
        await exchange(upstream)
        asked = await exchange(upstream)

        assert asked.body == b"ok"
        assert count == 3
        assert not asked.has_limit


async def test_time_starts_when_all_is_sent() -> None:
    """While a client still sends there is nothing to answer."""
    async with limited(silence) as upstream:
        asked = Asked(upstream, b"bo", length=4)
        asked.start()
        await until(lambda: "[1 busy" in repr(upstream))
        assert not asked.has_limit
        asked.client.feed(b"dy")
        asked.client.complete()
        assert asked.has_limit
        await asked.end()

        assert asked.status == 504


async def test_time_starts_when_all_is_taken() -> None:
    """A child that is slow to read a request is not late with its answer."""
    body = b"x" * 16 * 1024 * 1024
    read_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await read_on.wait()
        await reader.readexactly(len(body))
        writer.write(OK)
        await reader.read()

    async with limited(script, 30) as upstream:
        asked = Asked(upstream, body)
        asked.start()
        await until(lambda: "[1 busy" in repr(upstream))
        assert not asked.has_limit
        read_on.set()
        await until(lambda: asked.has_limit)

        assert await asked.end() == OK


async def test_leaving_stops_the_clock() -> None:
    """A client that leaves leaves no timer behind."""
    async with limited(silence, 30) as upstream:
        asked = Asked(upstream)
        asked.start()
        await until(lambda: asked._exchange._timer is not None)
        timer = asked._exchange._timer
        asked.client.left()

        assert timer is not None
        assert timer.cancelled()
        asked.check_given_back()


async def test_no_limit_no_timer() -> None:
    """Where nothing is laid down no timer is set."""
    async with upstream_of(silence) as upstream:
        asked = Asked(upstream)
        asked.start()
        await until(lambda: "[1 busy" in repr(upstream))

        assert not asked.has_limit
        asked.client.left()


# Pace.


async def test_slow_client_slows_the_child() -> None:
    """While the client lags, the child is not read; afterwards nothing is lost."""
    piece = b"x" * 65536
    total = 512

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (total * len(piece)))
        for _ in range(total):
            writer.write(piece)
            await writer.drain()
        await reader.read()

    async with upstream_of(script) as upstream:
        asked = Asked(upstream)
        asked.start()
        await until(lambda: len(asked.body) > len(piece))
        asked.client.lags()
        already = len(asked.body)
        for _ in range(200):
            await asyncio.sleep(0)
        assert len(asked.body) == already
        asked.client.keeps_up()
        await asked.end()

        assert asked.body == piece * total


async def test_client_that_lags_already() -> None:
    """A client that lagged before its child was asked gets nothing until it has caught up."""
    async with upstream_of(saying(OK)) as upstream:
        asked = Asked(upstream)
        asked.answer.is_stream = False
        asked.client.lags()
        asked.start()
        await until(lambda: "[1 busy" in repr(upstream))
        for _ in range(200):
            await asyncio.sleep(0)
        assert asked.wire.written == b""
        asked.client.keeps_up()
        await asked.end()

        assert asked.wire.written == OK


async def test_slow_child_slows_the_upload() -> None:
    """A child that does not read its request stops the client from sending, already upon the first part."""
    first = b"x" * 16 * 1024 * 1024
    read_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await read_on.wait()
        await reader.readexactly(len(first) + 4)
        writer.write(OK)
        await reader.read()

    async with upstream_of(script) as upstream:
        asked = Asked(upstream, first, length=len(first) + 4)
        asked.client.pause()
        asked.start()
        await until(lambda: "[1 busy" in repr(upstream))
        assert asked.wire.is_paused
        read_on.set()
        await until(lambda: not asked.wire.is_paused)
        asked.client.feed(b"last")
        asked.client.complete()
        await asked.end()

        assert asked.wire.written == OK


# Leaving.


async def test_leaving_while_connecting() -> None:
    """A client that leaves before its child is connected leaves nothing behind."""
    async with upstream_of(saying(OK)) as upstream:
        asked = Asked(upstream)
        asked.start()
        asked.client.left()
        asked.check_given_back()
        for _ in range(200):
            await asyncio.sleep(0)

        assert "[0 busy, 0 idle]" in repr(upstream)
        assert asked.wire.written == b""
        assert (await exchange(upstream)).body == b"ok"


@pytest.mark.parametrize("turns", range(12))
async def test_leaving_at_any_turn(turns: int) -> None:
    """Whenever a client leaves, everything is given back once, and no connection stays busy."""
    async with upstream_of(saying(OK[:-1], OK[-1:])) as upstream:
        asked = Asked(upstream)
        asked.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.client.left()
        for _ in range(200):
            await asyncio.sleep(0)

        asked.check_given_back()
        assert "[0 busy" in repr(upstream)
        assert (await exchange(upstream)).body == b"ok"


async def test_leaving_a_broken_answer() -> None:
    """A client that leaves while it is being found out what became of its child is not answered any more."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")

    async with upstream_of(script) as upstream:
        asked = Asked(upstream)
        asked.start()
        await until(lambda: "[1 busy" in repr(upstream))
        await until(lambda: "[0 busy" in repr(upstream))
        asked.client.left()
        asked.check_given_back()
        asked.run.end(CRASH)
        for _ in range(20):
            await asyncio.sleep(0)

        assert asked.wire.written == b""
        asked.check_given_back()


async def test_cut_by_shutdown() -> None:
    """An answer that is cut because the service ends says so."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with upstream_of(script) as upstream:
        asked = Asked(upstream)
        asked.start()
        await until(lambda: "[1 busy" in repr(upstream))
        asked.run.terminate(by_shutdown=True)
        upstream.close()
        await asked.end()

        assert asked.status == 503
        assert b"shutting_down" in asked.body


async def test_bugs(caplog: pytest.LogCaptureFixture) -> None:
    """A bug while a connection is made is a 500 and logged, and everything is given back."""
    async with upstream_of(saying(OK)) as upstream:

        async def broken() -> None:
            raise ZeroDivisionError

        upstream.connect = broken  # type: ignore[assignment,method-assign]
        asked = Asked(upstream)
        with caplog.at_level(logging.ERROR, "supervisor"):
            asked.start()
            await asked.end()

    assert asked.status == 500
    assert "ZeroDivisionError" in caplog.text
