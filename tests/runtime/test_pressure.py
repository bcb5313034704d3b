"""A machine that runs short: it is said once, in words that help, and what is loaded goes on."""

from __future__ import annotations

import errno
import os
import resource
import select
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from supervisor.llama.diagnosis import diagnose, report
from supervisor.runtime.launcher import _ended
from supervisor.runtime.pressure import HIGH, LOW, PressureWatch, can_open_files, full_stall
from supervisor.runtime.shortage import shortage
from supervisor.runtime.vitals import signs_of_family
from tests.conftest import eventually
from tests.proxy.conftest import Child, fake_cmd, http_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import RunningService


def stall(root: Path, percent: float, *, group: str | None = None) -> None:
    path = root / ("proc/pressure/memory" if group is None else f"sys/fs/cgroup{group}/memory.pressure")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"some avg10=99.00 avg60=0.00 avg300=0.00 total=1\nfull avg10={percent:.2f} avg60=0.00 total=1\n")


def test_memory_pressure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is told once when it begins, with what is loaded, and once when it is over; a value between is neither."""
    stall(tmp_path, 0)
    watch = PressureWatch(lambda: ["big", "small"], tmp_path)
    with caplog.at_level("INFO", "supervisor.pressure"):
        for percent in (0, HIGH - 1, HIGH, 50, LOW + 1, HIGH, LOW, 0):
            stall(tmp_path, percent)
            watch.look()

    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "memory is short: programs stand still 10 % of the time",
        "memory is no longer short",
    ]
    assert "loaded: big, small" in caplog.text


def test_pressure_of_our_group(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a container our own limit counts, not the machine's memory."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    stall(tmp_path, 0)
    stall(tmp_path, 40, group="/box")
    PressureWatch(list, tmp_path).look()

    assert "40 % of the time; loaded: no model" in caplog.text


@pytest.mark.parametrize("text", [None, "", "full\n", "some avg10=1.00\n", "full avg10=x\n"])
def test_no_pressure_known(tmp_path: Path, text: str | None) -> None:
    """Where the kernel tells nothing, nothing is said."""
    path = tmp_path / "proc/pressure/memory"
    if text is not None:
        path.parent.mkdir(parents=True)
        path.write_text(text)

    assert full_stall(path) is None
    PressureWatch(list, tmp_path).look()


def test_no_more_files_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """That connections are closed without an answer is told in the log, for the clients cannot be told."""
    watch = PressureWatch(list, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with caplog.at_level("INFO", "supervisor.pressure"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            watch.look()
            watch.look()
            assert not can_open_files()
            assert signs_of_family(os.getpid()) == ()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        watch.look()

    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("no more files may be opened")
    assert second == "files can be opened again"


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.EMFILE, "too_many_open_files"),
        (errno.ENFILE, "too_many_open_files"),
        (errno.EAGAIN, "too_many_processes"),
        (errno.ENOMEM, "out_of_memory"),
    ],
)
def test_shortages(number: int, cause: str) -> None:
    """A start that the system had no means for is tried again by itself, and its report says what was missing."""
    diagnosis = shortage(OSError(number, os.strerror(number)))
    assert diagnosis is not None
    failure = report("m", diagnosis)

    assert (failure.cause, failure.permanent) == (cause, False)
    assert os.strerror(number) in failure.evidence[0]
    assert "{" not in failure.message + failure.hint


def test_no_shortage() -> None:
    """A file that is not there is no shortage."""
    assert shortage(FileNotFoundError(errno.ENOENT, "No such file or directory")) is None


@pytest.mark.anyio
async def test_no_more_processes() -> None:
    """A fork that the system refuses is a failure that passes."""

    class Unborn:
        class command:
            argv = ("llama-server",)

        async def run(self) -> None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    failure = diagnose(await _ended(Unborn()))  # type: ignore[arg-type]

    assert (failure.cause, failure.permanent) == ("too_many_processes", False)


def test_no_more_files(start: Callable[..., RunningService]) -> None:
    """Without a file to spare, what is loaded serves on; all else is refused in true words, and works later."""
    service = start(f"[server]\nmax_loaded = 3\n[models.warm]\ncmd = {fake_cmd()}\n[models.cold]\ncmd = {fake_cmd()}")
    pid, log = service.process.pid, service.directory / "service.log"
    with (
        httpx.Client(base_url=service.url, timeout=30, trust_env=False) as first,
        httpx.Client(base_url=service.url, timeout=30, trust_env=False) as second,
        ThreadPoolExecutor() as aside,
    ):
        first.get("/props", params={"model": "warm"}).raise_for_status()
        second.get("/health").raise_for_status()
        child = Child(service, "warm")
        hold = aside.submit(
            lambda: first.get("/props", params={"model": "warm"}, headers={"x-do": "hold", "x-name": "h"})
        )
        child.await_start("h")
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (_spare(pid), limits[1]))
        began = time.monotonic()
        busy = second.get("/props", params={"model": "warm"})
        cold = second.get("/props", params={"model": "cold"})
        took = time.monotonic() - began
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        child.go("h")

        assert hold.result().text == "held"
        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "out_of_resources")
        assert "Too many open files" in busy.json()["error"]["message"]
        assert busy.headers["retry-after"] == "1"
        assert (cold.status_code, cold.json()["error"]["code"]) == (503, "too_many_open_files")
        assert "retry-after" in cold.headers
        assert took < 1.9, "our own lack was taken for a crash of the child"
        assert second.get("/props", params={"model": "warm"}).status_code == 200
        with http_to(service.url) as http:
            eventually(lambda: http.get("/props", params={"model": "cold"}).status_code == 200)
    assert "Traceback" not in log.read_text()


def test_as_many_files_as_there_may_be(start: Callable[..., RunningService]) -> None:
    """The soft limit, which is made for programs of another age, is raised to the hard one at the start."""
    service = start(f"[models.m]\ncmd = {fake_cmd()}\n", wrapper=["prlimit", "--nofile=256:3000"])

    assert resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE) == (3000, 3000)


def test_a_service_watches(start: Callable[..., RunningService]) -> None:
    """It looks by itself."""
    service = start(f"[models.m]\ncmd = {fake_cmd()}\n")
    pid, log = service.process.pid, service.directory / "service.log"
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, limits[1]))
    eventually(lambda: "no more files may be opened" in log.read_text())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def _spare(pid: int) -> int:
    """The lowest number that no open file has, below which all are taken.

    The lowest of many looks: what the service has open for a moment, to read what the machine says, is no such file.
    """
    looks = []
    for _ in range(20):
        looks.append(_lowest(pid))
        select.select([], [], [], 0.01)
    return min(looks)


def _lowest(pid: int) -> int:
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(10_000) if number not in taken)
