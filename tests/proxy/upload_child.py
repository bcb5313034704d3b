"""A child that tells how far an upload has come, byte by byte, and reads it only as it is told by `x-do`.

As in `fake_llama`, a request is known by its header `x-name`: `GET /facts/NAME` and `POST /go/NAME`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field

PIECE = b"x" * 65536


@dataclass
class Facts:
    """What became of the requests of one name."""

    begun: int = 0
    """Heads that have come."""
    received: int = 0
    """Bytes of bodies."""
    sent: int = 0
    """Bytes of answers."""
    ended: int = 0
    gone: int = 0
    """Requests whose connection ended too soon."""


@dataclass
class World:
    facts: defaultdict[str, Facts] = field(default_factory=lambda: defaultdict(Facts))
    gates: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))


@dataclass
class Connection:
    """One connection, request after request."""

    world: World
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def serve(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._serve_one():
                await self.writer.drain()
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def _serve_one(self) -> bool:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        if target == "/health":
            self._answer(b"ok")
        elif target.startswith("/facts/"):
            self._answer(json.dumps(asdict(self.world.facts[target.removeprefix("/facts/")])).encode())
        elif target.startswith("/go/"):
            self.world.gates[target.removeprefix("/go/")].set()
            self._answer(b"gone on")
        else:
            facts = self.world.facts[headers.get("x-name", "")]
            facts.begun += 1
            try:
                is_kept = await self._do(method, target, headers, facts)
            except (asyncio.IncompleteReadError, ConnectionError):
                facts.gone += 1
                raise
            facts.ended += 1
            return is_kept
        return True

    async def _do(self, method: str, target: str, headers: dict[str, str], facts: Facts) -> bool:
        length = int(headers.get("content-length", "0"))
        match headers.get("x-do", "read"):
            case "read":
                self._answer(await self._told(method, target, length, facts))
            case "stall":
                await self.world.gates[headers["x-name"]].wait()
                self._answer(await self._told(method, target, length, facts))
            case "refuse":
                self._answer(b"no", "413 Too Much")
                await self.writer.drain()
                await self._told(method, target, length, facts)
            case "refuse-unread":
                self._answer(b"no", "413 Too Much")
                await self.writer.drain()
                await self.world.gates[headers["x-name"]].wait()
                return False
            case "close":
                return False
            case "endless":
                self.writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                while True:
                    self.writer.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
                    await self.writer.drain()
                    facts.sent += len(PIECE)
            case "medium":
                self._answer(PIECE)
            case "large":
                self._answer(PIECE * 256)
        return True

    async def _told(self, method: str, target: str, length: int, facts: Facts) -> bytes:
        """Read a body; what came."""
        digest, left = hashlib.sha256(), length
        while left:
            piece = await self.reader.read(min(left, 65536))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            digest.update(piece)
            left -= len(piece)
            facts.received += len(piece)
        return json.dumps({"method": method, "target": target, "bytes": length, "sha256": digest.hexdigest()}).encode()

    def _answer(self, body: bytes, status: str = "200 OK") -> None:
        self.writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port: int = parser.parse_args().port
    world = World()
    server = await asyncio.start_server(
        lambda reader, writer: Connection(world, reader, writer).serve(), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
