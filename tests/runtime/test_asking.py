"""Asking a server one thing over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from supervisor.llama.endpoint import HttpEndpoint, TcpEndpoint, UnixEndpoint
from supervisor.runtime.asking import MOST_OF_A_HEAD, Asker, NoAnswer
from tests.proxy.conftest import scripted
from tests.proxy.tls import server_context

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.llama.endpoint import Endpoint
    from tests.proxy.conftest import Script

pytestmark = pytest.mark.anyio

MOST = 1000


def answering(*pieces: bytes, heads: list[bytes] | None = None) -> Script:
    """A server that answers everybody with these pieces, one by one, and ends the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return answer


async def asked(endpoint: Endpoint, path: str = "/") -> tuple[int, bytes | None]:
    """Status and body of its answer."""
    async with Asker(endpoint).get(path) as answer:
        return answer.status, await answer.body(MOST)


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"],
        [b"HTTP/1.1 200 OK\r\nContent-", b"Length: 2\r\n\r", b"\nh", b"i"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nh\r\n1\r\n", b"i\r\n0\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\n\r\n", b"hi"],
        [b"HTTP/1.1 100 Continue\r\ncontent-length: 9\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"],
    ],
)
async def test_a_body_ends_as_its_head_says(pieces: list[bytes]) -> None:
    """By its length, with its last chunk, or with the connection where neither is named."""
    async with scripted(answering(*pieces)) as endpoint:
        assert await asked(endpoint) == (200, b"hi")


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([b""], "before its answer was whole"),
        ([b"HTTP/1.1 200 OK\r\n"], "before its answer was whole"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi"], "before its answer was whole"),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"], "before its answer was whole"),
        ([b"SSH-2.0-OpenSSH_9.6\r\n\r\n"], "does not speak HTTP"),
        ([b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n\0"], "HTTP"),
        ([b"HTTP/1.1 200 OK\r\n", *([b"x: " + b"y" * 1000 + b"\r\n"] * (MOST_OF_A_HEAD // 1000 + 1))], "HTTP|no end"),
    ],
)
async def test_what_is_no_answer(pieces: list[bytes], why: str) -> None:
    """Who breaks off, or says something else, has answered nothing, but is there."""
    async with scripted(answering(*pieces)) as endpoint:
        with pytest.raises(NoAnswer, match=why) as raised:
            await asked(endpoint)
    assert not raised.value.is_absent


async def test_more_than_is_wanted() -> None:
    """A body without an end is left alone once it is too long."""

    async def talk_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * MOST)
            await writer.drain()

    async with scripted(talk_on) as endpoint:
        assert await asked(endpoint) == (200, None)


async def test_nobody_is_there(tmp_path: Path) -> None:
    """A server that does not listen yet is told from one that answers nonsense."""
    async with scripted(answering()) as closed:
        pass
    for endpoint in (closed, UnixEndpoint(tmp_path / "none.sock")):
        with pytest.raises(NoAnswer) as raised:
            await asked(endpoint)
        assert raised.value.is_absent


async def test_what_is_asked(tmp_path: Path) -> None:
    """Below the path of its URL, in the characters that a request may have, for the name it is known by."""
    heads: list[bytes] = []
    answer = answering(b"HTTP/1.1 204 No\r\n\r\n", heads=heads)
    async with scripted(answer, unix=tmp_path / "x.sock") as unix, scripted(answer) as tcp:
        assert isinstance(tcp, TcpEndpoint)
        await asked(unix, "/health?x=1&y=%20")
        await asked(HttpEndpoint("127.0.0.1", tcp.port, base_path="/below"), "/ä\r\nx: y")

    assert heads[0].startswith(b"GET /health?x=1&y=%20 HTTP/1.1\r\nHost: localhost\r\n")
    assert heads[1].startswith(b"GET /below/%%C3%%A4%%0D%%0Ax:%%20y HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % tcp.port)


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with TLS is asked if somebody we trust vouches for it; else that is said, for it is no mere absence."""
    context, certificate = server_context(tmp_path)
    answer = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    endpoint = HttpEndpoint("localhost", server.sockets[0].getsockname()[1], tls=True)
    async with server:
        with pytest.raises(NoAnswer, match="certificate verify failed") as raised:
            await asked(endpoint)
        assert not raised.value.is_absent

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await asked(endpoint) == (200, b"hi")
