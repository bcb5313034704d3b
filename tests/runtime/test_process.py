"""One operating-system process: spawn, output, end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from supervisor.llama.command import Command
from supervisor.llama.endpoint import TcpEndpoint
from supervisor.runtime import process as module
from supervisor.runtime.process import Process
from tests.conftest import alive, eventually

pytestmark = pytest.mark.anyio


def command(*argv: str, protocol: bool = False, env: dict[str, str] | None = None) -> Command:
    return Command(argv, env or dict(os.environ), Path("/"), TcpEndpoint(1), protocol)


def python(code: str, **options: object) -> Command:
    return command(sys.executable, "-c", code, **options)  # type: ignore[arg-type]


class Output:
    def __init__(self) -> None:
        self.of = {"stdout": b"", "stderr": b""}

    def __call__(self, stream: str, chunk: bytes) -> None:
        self.of[stream] += chunk


async def test_output_of_both_streams_is_complete_when_the_end_is_known() -> None:
    """What a child printed just before it ended is not lost."""
    output = Output()
    code = "import sys; print('out' * 50000); print('err' * 50000, file=sys.stderr); sys.exit(3)"

    process = Process(python(code), output)
    returncode = await process.wait()

    assert returncode == 3
    assert output.of == {"stdout": b"out" * 50000 + b"\n", "stderr": b"err" * 50000 + b"\n"}


async def test_a_signal_is_a_negative_exit_code() -> None:
    """A child killed by a signal is told from one that exited."""
    process = Process(python("import signal; signal.pause()"), Output())

    process.signal_group(signal.SIGKILL)

    assert await process.wait() == -signal.SIGKILL


async def test_closing_stdin_is_seen_by_the_child() -> None:
    """A child in child mode learns from its stdin that it should leave."""
    process = Process(python("import sys; sys.stdin.read(); sys.exit(7)", protocol=True), Output())

    process.close_stdin()

    assert await process.wait() == 7


async def test_other_children_have_no_stdin() -> None:
    """A server that reads stdin gets an end at once instead of our terminal."""
    output = Output()

    process = Process(python("import sys; print(repr(sys.stdin.read()))"), output)
    await process.wait()

    assert output.of["stdout"] == b"''\n"


async def test_what_the_child_started_ends_with_it() -> None:
    """Grandchildren in its process group do not survive, even if they hold the pipes."""
    output = Output()
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
        "print(p.pid, flush=True)"
    )

    process = Process(python(code), output)
    await process.wait()

    grandchild = int(output.of["stdout"])
    eventually(lambda: not alive(grandchild))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
@pytest.mark.parametrize("setpriv", ["whole", "poor", "none"])
async def test_the_kernel_ends_a_child_with_us(setpriv: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is a `setpriv` for that, one that knows nothing of it, as BusyBox's, or none."""
    poor = tmp_path / "setpriv"
    poor.write_text('#!/bin/sh\necho "setpriv: unrecognized option: pdeathsig" >&2\nexit 1\n')
    poor.chmod(0o755)
    if setpriv != "whole":
        monkeypatch.setattr(module, "_SETPRIV", str(poor) if setpriv == "poor" else None)
    output = Output()
    get_pdeathsig = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"

    assert await Process(python(get_pdeathsig), output).wait() == 0
    assert output.of["stdout"] == b"9\n"


@pytest.mark.parametrize("has_terminal", [True, False])
async def test_a_child_has_its_own_group(monkeypatch: pytest.MonkeyPatch, *, has_terminal: bool) -> None:
    """Ctrl-C in our terminal does not reach the children before we have drained them.

    A session of its own it gets only from a terminal: elsewhere the kernel would schedule it apart from us for nothing.
    """
    monkeypatch.setattr(module, "has_terminal", lambda: has_terminal)
    output = Output()

    process = Process(python("import os; print(os.getpgid(0) == os.getpid(), os.getsid(0))"), output)
    await process.wait()

    leads_group, session = output.of["stdout"].split()
    assert leads_group == b"True"
    assert (int(session) == process.pid) is has_terminal
    assert (int(session) == os.getsid(0)) is not has_terminal


async def test_nothing_is_left_open() -> None:
    """A finished process holds no file descriptor of ours."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208

    for _ in range(5):
        await Process(python("print('x')", protocol=True), Output()).wait()

    assert len(set(os.listdir("/proc/self/fd"))) <= len(before)  # noqa: PTH208


async def test_a_program_that_is_not_there_is_an_exit_with_a_reason() -> None:
    """`setpriv` turns a failed exec into exit code 127 and a line that the catalogue knows."""
    output = Output()

    process = Process(command("/nonexistent/llama-server"), output)

    assert await process.wait() in {126, 127}
    assert b"/nonexistent/llama-server" in output.of["stderr"]


async def test_a_child_we_cannot_watch_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """When file descriptors run out in the middle of a spawn, the error leaves no process."""
    spawned: list[int] = []

    def out_of_descriptors(pid: int) -> int:
        spawned.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", out_of_descriptors)

    with pytest.raises(OSError, match="Too many open files"):
        Process(python("import signal; signal.pause()"), Output())

    assert not alive(spawned[0])
