"""Large bodies whose requests wait: on disk meanwhile, whole at the child, and gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.config.values import Filters
from supervisor.fleet.names import Target
from supervisor.proxy.body_memory import BodyMemory
from supervisor.proxy.call import Call
from supervisor.proxy.client import Client
from supervisor.proxy.parking import PARKED_FROM, PIECE, Parking, file_system, parking_folder
from tests.conftest import eventually
from tests.proxy.conftest import Child, Wire, fake_cmd, post, raw_request, read_answer, rss
from tests.proxy.test_front import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.errors import SupervisorError
    from tests.conftest import RunningService

MiB = 1024 * 1024


def chat(size: int) -> bytes:
    return json.dumps(
        {"model": "slow", "messages": [{"role": "user", "content": os.urandom(size // 2).hex()}]}
    ).encode()


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def parked_files(pid: int) -> list[str]:
    """The files without a name that a process has open on a disk."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(link.readlink())
            if target.endswith("(deleted)") and target.startswith((tempfile.gettempdir(), "/var/tmp")):
                found.append(target)
    return found


# Through a running service.


@pytest.fixture
def cold(start: Callable[..., RunningService], tmp_path: Path) -> tuple[RunningService, Path]:
    """A service whose model loads until a file is there."""
    ready = tmp_path / "ready"
    return start(f"[models.slow]\ncmd = {fake_cmd('--ready-file', str(ready))}"), ready


def test_waiting_on_disk(cold: tuple[RunningService, Path]) -> None:
    """Large bodies of requests that wait for a model take no memory, and reach it byte for byte."""
    service, ready = cold
    pid = service.process.pid
    bodies = [chat(24 * MiB), chat(24 * MiB), chat(1000)]
    before = rss(pid)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(raw_request(service, post("/v1/chat/completions", body, x_do="mirror")))
            for body in bodies
        ]
        eventually(lambda: len(parked_files(pid)) == 2)
        eventually(lambda: rss(pid) - before < 24 * MiB)
        ready.touch()
        answers = [read_answer(client.makefile("rb")) for client in clients]

        assert [answer.status for answer in answers] == [200] * 3
        assert [digest(answer.body) for answer in answers] == [digest(body) for body in bodies]
        for client in clients:  # each connection is as good as ever
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert read_answer(client.makefile("rb")).status == 200
    eventually(lambda: parked_files(pid) == [])
    eventually(lambda: Child(service, "slow").requests() == 0)


def test_leaving_while_the_body_is_on_disk(cold: tuple[RunningService, Path]) -> None:
    """A client that leaves leaves no file behind, and its request never reaches the model."""
    service, ready = cold
    with raw_request(service, post("/v1/chat/completions", chat(10 * MiB), x_name="left")):
        eventually(lambda: parked_files(service.process.pid))
    eventually(lambda: parked_files(service.process.pid) == [])
    ready.touch()
    eventually(lambda: service.model("slow")["state"] in {"ready", "cold"})

    assert service.model("slow")["waiting"] == 0


def test_a_model_that_never_comes(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """Where the wait ends with an error, that is the answer, and the file is gone."""
    ready = tmp_path / "ready"
    service = start(f'[models.slow]\nload_timeout = "2s"\ncmd = {fake_cmd("--ready-file", str(ready))}')
    with raw_request(service, post("/v1/chat/completions", chat(10 * MiB))) as client:
        eventually(lambda: parked_files(service.process.pid))

        assert read_answer(client.makefile("rb")).status == 503
    eventually(lambda: parked_files(service.process.pid) == [])


# By itself.


class Taker:
    """Who takes a body as it comes, and is slow if told."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.taken = b""

    def client_sent(self) -> None:
        self.taken += self._client.take_body()

    def client_left(self) -> None: ...

    def client_lags(self) -> None: ...

    def client_keeps_up(self) -> None: ...


class Waiting:
    """A request with a large body that waits."""

    def __init__(self, parking: Parking) -> None:
        self.body = os.urandom(PARKED_FROM + 5)
        self.ended = 0
        self.failures: list[SupervisorError] = []
        self.client = Client(
            Wire(),
            "POST",
            ("/", b"/", b""),
            [],
            version="1.1",
            address=None,
            ended=self._end,  # type: ignore[arg-type]
        )
        self.memory = BodyMemory(1 << 40)
        self.client.feed(self.body)
        self.client.complete()
        self.memory.hold(self.client)
        self.call = Call(b"POST", b"/", [], self.client.take_body(), Target("m", "m", Filters()))
        parked = parking.park(self.call, self.client)
        assert parked is not None
        self.parked = parked

    def _end(self) -> None:
        self.ended += 1

    def fetch(self) -> Taker:
        self.parked.fetch(self.failures.append)
        taker = self.client.listener = Taker(self.client)
        return taker


@pytest.mark.anyio
async def test_from_disk(tmp_path: Path) -> None:
    """What was put on disk comes back at the pace it is taken; meanwhile it takes no memory that is counted."""
    waiting = Waiting(Parking([tmp_path], after=0))
    assert waiting.memory.held == len(waiting.body)
    await until(lambda: waiting.parked.is_on_disk)
    assert (waiting.call.body, waiting.memory.held) == (b"", 0)
    taker = waiting.fetch()
    client = waiting.client
    assert (waiting.call.length, client.is_whole) == (len(waiting.body), False)
    client.resume()
    await until(lambda: taker.taken)
    client.pause()
    await asyncio.sleep(0)
    so_far = len(taker.taken)
    assert so_far <= 2 * PIECE
    client.resume()
    await until(lambda: client.is_whole)

    assert taker.taken == waiting.body
    client.finish()
    assert waiting.ended == 1


@pytest.mark.anyio
async def test_a_short_wait_writes_nothing(tmp_path: Path) -> None:
    """Who is served before long is served from memory."""
    waiting = Waiting(Parking([tmp_path], after=3600))
    waiting.parked.fetch(waiting.failures.append)

    assert waiting.call.body == waiting.body
    assert (waiting.call.length, waiting.client.source) == (None, None)


@pytest.mark.anyio
async def test_small_bodies_stay(tmp_path: Path) -> None:
    """A small body is not worth a file."""
    waiting = Waiting(Parking([tmp_path]))
    waiting.call.body = waiting.body[: PARKED_FROM - 1]

    assert Parking([tmp_path]).park(waiting.call, waiting.client) is None
    waiting.parked.leave()


@pytest.mark.anyio
async def test_a_disk_that_takes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be written, bodies wait in memory; that is said once, and once more when it has passed."""
    folder = tmp_path / "full"
    folder.mkdir()
    parking = Parking([folder], after=0)
    folder.rmdir()
    for _ in range(2):
        waiting = Waiting(parking)
        await until(lambda: "wait in memory" in caplog.text)
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        assert (waiting.call.body, waiting.parked.is_on_disk) == (waiting.body, False)
        waiting.parked.leave()
    folder.mkdir()
    again = Waiting(parking)
    with caplog.at_level("INFO", "supervisor"):
        await until(lambda: again.parked.is_on_disk)
    again.parked.leave()

    assert caplog.text.count("wait in memory") == 1
    assert caplog.text.count("again\n") == 1


@pytest.mark.anyio
async def test_a_file_that_cannot_be_read_back(tmp_path: Path) -> None:
    """A body that is lost is told as our fault; nobody gets half of it for a whole one."""
    waiting = Waiting(Parking([tmp_path], after=0))
    await until(lambda: waiting.parked.is_on_disk)
    file: Any = waiting.parked._file
    os.ftruncate(file.fileno(), 10)
    taker = waiting.fetch()
    waiting.client.resume()
    await until(lambda: waiting.failures)

    assert waiting.failures[0].status == 500
    assert not waiting.client.is_whole
    assert len(taker.taken) < len(waiting.body)
    waiting.client.left()


@pytest.mark.anyio
async def test_answered_before_it_was_read(tmp_path: Path) -> None:
    """A server that answers early ends the reading, and the connection knows the request as the whole it was."""
    waiting = Waiting(Parking([tmp_path], after=0))
    await until(lambda: waiting.parked.is_on_disk)
    taker = waiting.fetch()
    waiting.client.resume()
    await until(lambda: taker.taken)
    waiting.client.begin(400, [(b"content-length", b"0")])
    waiting.client.finish()

    assert (waiting.ended, waiting.client.is_whole, waiting.client.source) == (1, True, None)


def test_folder_on_a_disk(tmp_path: Path) -> None:
    """A folder that is memory in truth is taken only if there is no other; one that cannot be written to never."""
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 {number} / / rw shared:1 - tmpfs tmpfs rw\n")
    assert file_system(tmp_path, mounts) == "tmpfs"
    assert parking_folder([tmp_path / "none", tmp_path], mounts) == tmp_path
    mounts.write_text(f"1 0 {number} / / rw - ext4 /dev/sda1 rw\n")
    assert file_system(tmp_path, mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "none") is None
    memory = Path("/dev/shm")
    if file_system(memory) == "tmpfs" and file_system(tmp_path) != "tmpfs":
        assert parking_folder([memory, tmp_path]) == tmp_path
