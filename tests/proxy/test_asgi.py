"""A request served by an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse

from supervisor.proxy.asgi import AsgiCall
from supervisor.proxy.client import Client
from tests.conftest import DEADLINE
from tests.proxy.conftest import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

pytestmark = pytest.mark.anyio


class Scene:
    """A whole request, and the task that serves it."""

    def __init__(
        self, app: ASGIApp, method: str = "POST", body: bytes = b"body", *, lags: bool = False, scheme: str = "http"
    ) -> None:
        self.wire = Wire()
        transport: Any = self.wire
        self.client = Client(
            transport,
            method,
            ("/é", b"/%C3%A9", b"q=%20"),
            [(b"host", b"x:1"), (b"x-a", b"1")],
            version="1.1",
            address=("127.0.0.1", 5),
            ended=lambda: None,
        )
        self.client.feed(body)
        self.client.complete()
        self.client.is_lagging = lags
        self.task = AsgiCall(app, self.client, scheme=scheme).start()

    async def end(self) -> bytes:
        """Wait for the end; what was written."""
        with anyio.fail_after(DEADLINE):
            await self.task
        return self.wire.written


async def test_request_and_answer() -> None:
    """An application sees the whole request, and its answer goes out."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        assert request.client is not None
        seen = [request.method, request.url.path, request.url.query, request.headers["x-a"], request.client.host]
        response = PlainTextResponse(f"{' '.join(seen)} {(await request.body()).decode()}")
        response.raw_headers.append((b"X-Name", b"V"))
        await response(scope, receive, send)

    written = await Scene(app).end()

    head, _, body = written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nx-name: V" in head
    assert body == "POST /é q=%20 1 127.0.0.1 body".encode()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_scheme(scheme: str) -> None:
    """An application knows whether it is asked over TLS: the addresses that it makes depend on it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(str(Request(scope).url))(scope, receive, send)

    written = await Scene(app, scheme=scheme).end()

    assert written.endswith(f"\r\n\r\n{scheme}://x:1/é?q=%20".encode())


async def test_stream() -> None:
    """A stream's head goes out before its first piece if the application says so, and each piece as it comes."""
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    scene = Scene(app)
    with anyio.fail_after(DEADLINE):
        while not scene.wire.written:  # noqa: ASYNC110 - a wire has no event for it
            await asyncio.sleep(0)
    assert scene.wire.written == b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    go_on.set()

    assert (await scene.end()).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_leaving_ends_a_stream() -> None:
    """When the client leaves, an application that waits for that is told, and nothing more is written."""
    left = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            left.set()

    scene = Scene(StreamingResponse(pieces()))
    with anyio.fail_after(DEADLINE):
        while b"one" not in scene.wire.written:  # noqa: ASYNC110 - a wire has no event for it
            await asyncio.sleep(0)
    written = scene.wire.written
    scene.client.left()

    assert await scene.end() == written
    assert left.is_set()


async def test_request_comes_once() -> None:
    """Who asks again after the request waits for the client to leave."""
    messages: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        messages.append(await receive())
        messages.append(await receive())

    scene = Scene(app)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert messages == [{"type": "http.request", "body": b"body", "more_body": False}]
    scene.client.left()
    await scene.end()

    assert messages[1:] == [{"type": "http.disconnect"}]


@pytest.mark.parametrize("lags_before", [True, False])
async def test_slow_client(lags_before: bool) -> None:
    """An application waits for a client that does not keep up, also if it lagged before."""
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent < 10:
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})
            sent += 1
            if sent == 5:
                scene.client.lags()
        await send({"type": "http.response.body"})

    scene = Scene(app, lags=lags_before)
    for _ in range(20):
        await asyncio.sleep(0)
    assert sent == (0 if lags_before else 5)
    scene.client.keeps_up()
    for _ in range(20):
        await asyncio.sleep(0)
    scene.client.keeps_up()

    assert (await scene.end()).count(b"piece") == 10


async def test_slow_client_leaves() -> None:
    """An application that waits for a slow client goes on when that leaves, to no effect."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("late")(scope, receive, send)

    scene = Scene(app, lags=True)
    await asyncio.sleep(0)
    scene.client.left()

    assert await scene.end() == b""


@pytest.mark.parametrize("begins", [True, False])
async def test_bugs(begins: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An application that breaks is logged, and its client is not left waiting."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    scene = Scene(app)
    with caplog.at_level(logging.ERROR, "supervisor"):
        written = await scene.end()

    assert "bug: POST /é broke" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert scene.client.is_answered
    assert not scene.client.keep_alive
    assert written == (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n" if begins else b"")


async def test_no_answer() -> None:
    """An application that forgets to answer leaves no client waiting."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    scene = Scene(app)
    await scene.end()

    assert scene.client.is_answered
