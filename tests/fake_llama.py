"""A small server to put behind the service: it does what the header `x-do` of a request says, and reports what it saw.

A request is known by its header `x-name`. `GET /facts/NAME` tells what became of it, `POST /go/NAME` lets it go on:
whoever waits, waits for a fact.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from websockets.typing import Subprotocol

JUNK = bytes(range(256)) * 4 + b"\x1b[31mred\x1b[0m words\n and no newline at the end \xff\xfe"


@dataclass
class Facts:
    """What became of the requests of one name."""

    started: int = 0
    gone: int = 0
    """Requests whose connection ended before their answer."""
    ended: int = 0
    close_code: int | None = None
    """What a websocket was closed with."""


@dataclass
class Request:
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, wanted: str, default: str = "") -> str:
        return next((value for name, value in self.headers if name.lower() == wanted), default)


@dataclass
class World:
    """What all connections share."""

    ready_file: Path | None
    facts: defaultdict[str, Facts] = field(default_factory=lambda: defaultdict(Facts))
    gates: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    @property
    def is_ready(self) -> bool:
        return self.ready_file is None or self.ready_file.exists()

    def control(self, method: str, path: str) -> tuple[int, bytes] | None:
        """The answer of a route that is about us, None for any other."""
        if path == "/health":
            return (200, b"ok") if self.is_ready else (503, b"loading")
        if path.startswith("/facts/"):
            return 200, json.dumps(asdict(self.facts[path.removeprefix("/facts/")])).encode()
        if path.startswith("/go/") and method == "POST":
            self.gates[path.removeprefix("/go/")].set()
            return 200, b"gone on"
        return None


class Gone(Exception):
    """Raised when the connection ended while we waited."""


async def serve_connection(world: World, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            request = await read_request(reader)
            if (answer := world.control(request.method, request.target)) is not None:
                writer.write(plain(*answer))
                continue
            facts = world.facts[request.header("x-name")]
            facts.started += 1
            try:
                keep = await answer_request(world, request, reader, writer)
            except (Gone, ConnectionError):
                facts.gone += 1
                break
            facts.ended += 1
            if not keep:
                break
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    request = Request(method, target, headers, b"")
    request.body = await reader.readexactly(int(request.header("content-length", "0")))
    return request


async def answer_request(
    world: World, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Do as told; whether the connection is kept."""
    name = request.header("x-name")

    async def go() -> None:
        await wait_for(world.gates[name], reader)

    match request.header("x-do", "echo"):
        case "echo":
            seen = {"method": request.method, "target": request.target, "headers": request.headers}
            body = json.dumps({**seen, "body": request.body.decode("latin-1")}).encode()
            writer.write(plain(200, b"" if request.method == "HEAD" else body, "application/json"))
        case "mirror":
            writer.write(plain(200, request.body, request.header("content-type")))
        case "raw":
            writer.write(raw(request.header("x-head")) + request.body)
            return False
        case "hold":
            await go()
            writer.write(plain(200, b"held"))
        case "hang":
            await wait_for(asyncio.Event(), reader)
        case "die":
            die()
        case "close":
            return False
        case "sse":
            writer.write(raw("200 OK|content-type: text/event-stream|transfer-encoding: chunked"))
            writer.write(chunk(b"data: " + (request.body or b"one") + b"\n\n"))
            await writer.drain()
            await go()
            writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))
        case "stream-then-die":
            writer.write(raw(request.header("x-head")))
            writer.write(request.body)
            await writer.drain()
            await go()
            die()
        case "endless":
            writer.write(raw("200 OK|content-type: text/event-stream|transfer-encoding: chunked"))
            while True:
                writer.write(chunk(b"data: more\n\n" * 1000))
                await writer.drain()
        case other:
            writer.write(plain(400, f"what is {other}?".encode()))
    await writer.drain()
    return True


async def wait_for(gate: asyncio.Event, reader: asyncio.StreamReader) -> None:
    """Wait for the gate; raises `Gone` when the connection ends first."""
    end = asyncio.ensure_future(reader.read(1))
    opened = asyncio.ensure_future(gate.wait())
    await asyncio.wait({end, opened}, return_when=asyncio.FIRST_COMPLETED)
    opened.cancel()
    if end.done():
        raise Gone
    end.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await end


def die() -> None:
    os.write(2, b"fake_llama: error: told to die\n")
    os._exit(3)


def plain(status: int, body: bytes, content_type: str = "text/plain") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def raw(head: str) -> bytes:
    """A head written as `200 OK|name: value`."""
    return f"HTTP/1.1 {head}||".replace("|", "\r\n").encode()


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


async def serve_websockets(world: World, port: int) -> None:
    """`/echo` sends everything back, `/close/CODE` closes with it; `/facts/…` and `/go/…` work as over HTTP."""
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.datastructures import Headers
    from websockets.http11 import Request as Handshake
    from websockets.http11 import Response

    def control(_: ServerConnection, request: Handshake) -> Response | None:
        answer = world.control("POST" if request.path.startswith("/go/") else "GET", request.path)
        if answer is None:
            return None
        status, body = answer
        return Response(status, "X", Headers({"content-length": str(len(body))}), body)

    async def handle(socket: ServerConnection) -> None:
        assert socket.request is not None
        path, _, query = socket.request.path.partition("?")
        facts = world.facts[query]
        facts.started += 1
        if code := re.fullmatch(r"/close/(\d+)", path):
            await socket.close(int(code[1]), "as told")
        elif path == "/subprotocol":
            await socket.send(str(socket.subprotocol))
        with contextlib.suppress(Exception):
            async for message in socket:
                await socket.send(message)
        facts.close_code = socket.close_code
        facts.gone += 1

    def choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((each for each in offered if each == "chat"), None)

    async with serve(
        handle, "127.0.0.1", port, process_request=control, select_subprotocol=choose, max_size=None, compression=None
    ):
        await asyncio.Event().wait()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready-file", type=Path, help="healthy only once this exists")
    parser.add_argument("--exit-with", type=int, help="do not even listen")
    parser.add_argument("--stderr", default="", help="what to print there first")
    parser.add_argument("--junk", action="store_true", help="print bytes that are no text")
    parser.add_argument("--websockets", action="store_true")
    options = parser.parse_args()
    if options.stderr:
        os.write(2, f"{options.stderr}\n".encode())
    if options.junk:
        for stream in (1, 2):
            os.write(stream, JUNK)
    if options.exit_with is not None:
        sys.exit(options.exit_with)
    world = World(options.ready_file)
    if options.websockets:
        await serve_websockets(world, options.port)
    server = await asyncio.start_server(
        lambda reader, writer: serve_connection(world, reader, writer), "127.0.0.1", options.port
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
