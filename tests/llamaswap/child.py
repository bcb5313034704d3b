"""`tests/fake_llama.py` for llama-swap configs: it keeps a journal of its life, and its health and end are switchable.

The journal has one JSON object a line: `start` with argv, pid and environment, `signal` with what came, `stop`. Any
argument that it does not know is only written down. With `--stop PID` it is a `cmdStop` instead of a server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fake_llama import Gone, Request, World, answer_request, plain, read_request
from tests.llamaswap.answers import answer

SLEEPER = "import signal; signal.pause()"


@dataclass
class Life(World):
    """What all connections share, and what is asked about us."""

    health: int = 200
    health_path: str = "/health"
    hanging_probes: int = 0
    """Probes that will never be answered."""
    speaks: bool = False
    probes: list[list[tuple[str, str]]] = field(default_factory=list)
    """The headers of every probe."""
    sockets: int = 0
    """Websockets that are open."""
    handshake: dict[str, str] = field(default_factory=dict)
    """The headers of the newest."""

    def control(self, method: str, path: str) -> tuple[int, bytes] | None:
        if path == self.health_path:
            return self.health, b"health"
        if path.startswith("/health-is/"):
            self.health = int(path.removeprefix("/health-is/"))
            return 200, b"so be it"
        if path == "/about-us":
            return 200, json.dumps(self.about_us()).encode()
        if path == "/end":
            os._exit(0)
        return None if path == "/health" else super().control(method, unquote(path))

    def about_us(self) -> dict[str, object]:
        return {"probes": self.probes, "sockets": self.sockets, "handshake": self.handshake, "pid": os.getpid()}

    def hangs(self, request: Request) -> bool:
        """Whether this is a probe to leave without an answer."""
        if request.target != self.health_path:
            return False
        self.probes.append(request.headers)
        self.hanging_probes -= 1
        return self.hanging_probes >= 0


@dataclass(frozen=True)
class Journal:
    path: Path | None

    def note(self, event: str, **facts: object) -> None:
        if self.path is not None:
            line = json.dumps({"event": event, "pid": os.getpid(), **facts})
            with self.path.open("a") as file:
                file.write(f"{line}\n")


async def serve_connection(life: Life, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while await serve_request(life, await whole_request(reader), reader, writer):
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def serve_request(
    life: Life, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Answer; whether the connection is kept."""
    if life.hangs(request):
        await reader.read()
        return False
    if (known := life.control(request.method, request.target)) is not None:
        writer.write(plain(*known))
        return True
    if request.header("upgrade").lower() == "websocket":
        await echo_websocket(life, request, reader, writer)
        return False
    facts = life.facts[request.header("x-name")]
    facts.started += 1
    if life.speaks and not request.header("x-do") and (said := answer(request.target, request.body)) is not None:
        writer.write(plain(200, *said))
        return True
    try:
        keep = await answer_request(life, request, reader, writer)
    except (Gone, ConnectionError):
        facts.gone += 1
        return False
    facts.ended += 1
    return keep


async def whole_request(reader: asyncio.StreamReader) -> Request:
    """A request whose body may come in chunks."""
    request = await read_request(reader)
    if "chunked" in request.header("transfer-encoding"):
        while size := int(await reader.readline(), 16):
            request.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    return request


async def echo_websocket(
    life: Life, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    from websockets.frames import Frame, Opcode
    from websockets.http11 import Request as Handshake
    from websockets.server import ServerProtocol

    protocol = ServerProtocol(max_size=None)
    lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers)]
    protocol.receive_data("\r\n".join([*lines, "", ""]).encode("latin-1"))
    (handshake,) = protocol.events_received()
    assert isinstance(handshake, Handshake)
    protocol.send_response(protocol.accept(handshake))
    life.sockets += 1
    life.handshake = {name.lower(): value for name, value in request.headers}
    try:
        while True:
            data = protocol.data_to_send()
            writer.write(b"".join(data))
            if b"" in data or not (received := await reader.read(65536)):  # b"" says that it is for us to close
                break
            protocol.receive_data(received)
            for event in protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    protocol.send_text(event.data)
                elif isinstance(event, Frame) and event.opcode is Opcode.BINARY:
                    protocol.send_binary(event.data)
    finally:
        life.sockets -= 1


def obey_signals(journal: Journal, *, ignore_term: bool) -> None:
    def ended(signum: signal.Signals) -> None:
        journal.note("signal", name=signum.name)
        if signum is not signal.SIGTERM or not ignore_term:
            journal.note("stop")
            os._exit(0)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        asyncio.get_running_loop().add_signal_handler(signum, ended, signum)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int)
    parser.add_argument("--id", help="the model it serves")
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--health", type=int, default=200, help="the status of the answer to a probe")
    parser.add_argument("--health-path", default="/health")
    parser.add_argument("--hang-probes", type=int, default=0, help="leave so many probes without an answer")
    parser.add_argument("--exit-with", type=int, help="do not even listen")
    parser.add_argument("--until", type=Path, help="exit as said only as long as this file is missing")
    parser.add_argument("--stdout", default="", help="what to print there first, with spaces for `_`")
    parser.add_argument("--stderr", default="", help="the same there; unlike a log of our argv it has spaces")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--grandchild", action="store_true", help="start one in our process group")
    parser.add_argument("--speaks", action="store_true", help="answer as a language model would")
    parser.add_argument("--stop", type=int, metavar="PID", help="be a cmdStop")
    parser.add_argument("--with", dest="signal", default="SIGUSR1", help="the signal to stop with; `none` does nothing")
    return parser.parse_known_args()[0]


def stop(journal: Journal, pid: int, signum: str) -> None:
    journal.note("cmdStop", target=pid, argv=sys.argv[1:], env=own_env())
    if signum != "none":
        os.kill(pid, signal.Signals[signum])


def start_grandchild(journal: Journal) -> None:
    grandchild = subprocess.Popen([sys.executable, "-S", "-c", SLEEPER])
    journal.note("grandchild", child=grandchild.pid)


def own_env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("TEST_")}


async def main() -> None:
    options = arguments()
    journal = Journal(options.journal)
    if options.stop is not None:
        stop(journal, options.stop, options.signal)
        return
    facts = {"model": options.id, "port": options.port, "argv": sys.argv[1:], "pgid": os.getpgid(0)}
    journal.note("start", **facts, cwd=str(Path.cwd()), env=own_env())
    obey_signals(journal, ignore_term=options.ignore_term)
    for stream, text in ((1, options.stdout), (2, options.stderr)):
        if text:
            os.write(stream, f"{text.replace('_', ' ')}\n".encode())
    if options.grandchild:
        start_grandchild(journal)
    if options.exit_with is not None and not (options.until and options.until.exists()):
        os._exit(options.exit_with)
    life = Life(
        None,
        health=options.health,
        health_path=options.health_path,
        hanging_probes=options.hang_probes,
        speaks=options.speaks,
    )
    server = await asyncio.start_server(lambda *ends: serve_connection(life, *ends), "127.0.0.1", options.port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
