"""Services with a scripted child, and children scripted down to the byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import anyio
import httpx
import pytest

from supervisor.llama.endpoint import Endpoint, TcpEndpoint, UnixEndpoint
from tests.conftest import DEADLINE, ROOT, RunningService, eventually, running_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

FAKE_LLAMA = ROOT / "tests" / "fake_llama.py"


def fake_cmd(*arguments: str) -> str:
    """The value of `cmd` that runs the scripted child."""
    return json.dumps([sys.executable, str(FAKE_LLAMA), "--port", "${PORT}", *arguments])


def http_to(url: str) -> httpx.Client:
    """A client of our own machine; it needs no certificates, whose loading takes longer than most tests here."""
    return httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False, verify=False)


@dataclass
class Child:
    """The scripted child behind a model, asked without the service in between."""

    service: RunningService
    model: str

    def _process(self) -> dict[str, Any]:
        with http_to(self.service.url) as http:
            models = http.get("/status").json()["models"]
        process: dict[str, Any] = next(model["process"] for model in models if model["id"] == self.model)
        return process

    def facts(self, name: str) -> dict[str, Any]:
        """What became of the requests with this `x-name`."""
        with http_to(self._process()["endpoint"]) as http:
            facts: dict[str, Any] = http.get(f"/facts/{name}").json()
            return facts

    def go(self, name: str) -> None:
        """Let the requests with this `x-name` go on."""
        with http_to(self._process()["endpoint"]) as http:
            http.post(f"/go/{name}").raise_for_status()

    def requests(self) -> int:
        """How many requests the service counts on the model."""
        return int(self._process()["requests"])

    def await_start(self, name: str) -> None:
        eventually(lambda: self.facts(name)["started"] == 1)

    def await_gone(self, name: str) -> None:
        eventually(lambda: self.facts(name)["gone"] == 1)
        eventually(lambda: self.requests() == 0)


@contextlib.contextmanager
def raw_request(service: RunningService, request: bytes) -> Iterator[socket.socket]:
    """A request sent on a socket of its own, which closes on leaving."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port), timeout=DEADLINE) as client:
        client.sendall(request)
        yield client


def post(path: str, body: bytes, **headers: str) -> bytes:
    """The bytes of a POST."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{''.join(lines)}\r\n"
    return head.encode() + body


class Wire:
    """The transport of a connection that exists in the test only: it remembers what was done to it."""

    def __init__(self, protocol: asyncio.Protocol | None = None) -> None:
        self._protocol = protocol
        self.written = b""
        self.is_paused = False
        """Whether reading is."""
        self.is_closed = False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 5) if name == "peername" else None

    def write(self, data: bytes) -> None:
        if not self.is_closed:
            self.written += data

    def is_closing(self) -> bool:
        return self.is_closed

    def is_reading(self) -> bool:
        return not self.is_paused and not self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            if self._protocol is not None:
                asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close


@dataclass
class RawAnswer:
    """An answer as it was on the wire, its body without the marks of its framing."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json()["error"]
        return error


def read_answer(file: BinaryIO, *, method: str = "GET") -> RawAnswer:
    """The next answer on a connection; one without a length is everything up to the end."""
    line = file.readline()
    assert line.startswith(b"HTTP/1.1 "), line + file.read()
    headers: dict[str, str] = {}
    while (each := file.readline().decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = each.partition(": ")
        headers[name] = value
    status = int(line.split()[1])
    if method == "HEAD" or status in {204, 304} or status < 200:
        return RawAnswer(status, headers, b"")
    if "content-length" in headers:
        return RawAnswer(status, headers, file.read(int(headers["content-length"])))
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(file.readline(), 16):
            body += file.read(size)
            assert file.readline() == b"\r\n"
        assert file.readline() == b"\r\n"
        return RawAnswer(status, headers, body)
    return RawAnswer(status, headers, file.read())


def rss(pid: int) -> int:
    """Bytes of memory a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose models are all the scripted child; nothing ever asks for `asleep`."""
    config = f"""
        [server]
        max_loaded = 4
        max_body = 200000

        [models.fake]
        cmd = {fake_cmd()}
        aliases = ["ünï/ço de"]

        [models."author/model"]
        cmd = {fake_cmd()}
        [models."author/model".variants."author/model:cold"]
        set_params = {{ seed = 7 }}
        strip_params = ["user"]
        sampling = {{ temp = 0.25 }}

        [models.one-at-a-time]
        cmd = {fake_cmd()}
        concurrency = 1

        [models.asleep]
        cmd = {fake_cmd()}
    """
    with running_service(tmp_path_factory.mktemp("proxy") / "service", config) as service:
        yield service


@contextlib.asynccontextmanager
async def scripted(script: Script, *, unix: Path | None = None) -> AsyncIterator[Endpoint]:
    """A server whose every connection runs `script`, on a free port or at a socket file, within the deadline."""
    writers: list[asyncio.StreamWriter] = []

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(reader, writer)
        writer.close()

    if unix is not None:
        server = await asyncio.start_unix_server(run, str(unix))
        endpoint: Endpoint = UnixEndpoint(unix)
    else:
        server = await asyncio.start_server(run, "127.0.0.1", 0)
        endpoint = TcpEndpoint(server.sockets[0].getsockname()[1])
    try:
        with anyio.fail_after(DEADLINE):
            yield endpoint
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
