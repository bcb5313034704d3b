"""One operating-system process: spawned so that it cannot outlive us, its output always drained, its end awaited.

How and why: spec python-io.md. A child gets its own process group and no terminal; signals go to the whole group.
`setpriv` sets PR_SET_PDEATHSIG, which needs the forking thread to live as long as we do: spawn from the main thread
only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING, TypedDict

import anyio

from supervisor.runtime.terminal import has_terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.llama.command import Command

READ_SIZE = 65536
FINAL_READS = 64
"""How much is still read from a dead child's pipes (4 MiB); a grandchild may hold them open for ever."""

PR_SET_PDEATHSIG = 1


class _Apart(TypedDict, total=False):
    start_new_session: bool
    process_group: int


class Process:
    """A running child. `wait` for its end; `close` frees what is left of it."""

    def __init__(self, command: Command, on_output: Callable[[str, bytes], None]) -> None:
        """Spawn it; raises `OSError` when that is impossible."""
        argv, preexec = _dying_with_us(command.argv)
        self._on_output = on_output
        self._loop = asyncio.get_running_loop()
        self._popen = subprocess.Popen(
            argv,
            env=command.env,
            cwd=command.cwd,
            stdin=subprocess.PIPE if command.speaks_protocol else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **_apart(),
            preexec_fn=preexec,  # noqa: PLW1509 - only where setpriv is missing
        )
        self.pid = self._popen.pid
        self._pipes: dict[str, int] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[int] = self._loop.create_future()
        try:
            self._begin(is_wrapper=not command.speaks_protocol)
        except OSError:
            self._abandon()
            raise

    def _begin(self, *, is_wrapper: bool) -> None:
        for stream in ("stdout", "stderr"):
            self._watch(stream)
        if is_wrapper:
            self._watchdog = _watchdog(self.pid)
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._reap)

    def _abandon(self) -> None:
        """Leave nothing of a child behind that we could not have watched."""
        self.signal_group(signal.SIGKILL)
        self._popen.wait()
        self._dismiss_watchdog()
        for stream in tuple(self._pipes):
            self._unwatch(stream)
        self.close_stdin()

    def _dismiss_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            assert self._watchdog.stdin is not None
            self._watchdog.stdin.close()

    @property
    def returncode(self) -> int | None:
        return self._popen.returncode

    async def wait(self) -> int:
        """The exit code, negative for a signal, once it is gone."""
        return await asyncio.shield(self._ended)

    def signal_group(self, signum: signal.Signals) -> None:
        """Signal the child and what it has started itself."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signum)

    def close_stdin(self) -> None:
        """Tell a child in child mode to leave at once."""
        if self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()

    def _watch(self, stream: str) -> None:
        pipe = self._popen.stdout if stream == "stdout" else self._popen.stderr
        assert pipe is not None
        fd = pipe.fileno()
        os.set_blocking(fd, False)
        self._pipes[stream] = fd
        self._loop.add_reader(fd, self._read, stream)

    def _read(self, stream: str) -> bool:
        """Take what is there; whether there may be more."""
        fd = self._pipes.get(stream)
        if fd is None:
            return False
        try:
            chunk = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return False
        if chunk:
            self._on_output(stream, chunk)
        else:
            self._unwatch(stream)
        return bool(chunk)

    def _unwatch(self, stream: str) -> None:
        fd = self._pipes.pop(stream, None)
        if fd is not None:
            self._loop.remove_reader(fd)
            pipe = self._popen.stdout if stream == "stdout" else self._popen.stderr
            assert pipe is not None
            pipe.close()

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # The dead leader still holds its process group id here, so nobody else can be hit.
        self.signal_group(signal.SIGKILL)
        self._dismiss_watchdog()
        returncode = self._popen.wait()
        for stream in tuple(self._pipes):
            for _ in range(FINAL_READS):
                if not self._read(stream):
                    break
            self._unwatch(stream)
        self.close_stdin()
        if not self._ended.done():
            self._ended.set_result(returncode)

    def __repr__(self) -> str:
        return f"<Process {self.pid} [{'running' if self.returncode is None else f'ended {self.returncode}'}]>"


async def run_to_end(command: Command, on_output: Callable[[str, bytes], None]) -> int:
    """Run something that ends by itself; its exit code. When cancelled, it is killed; raises `OSError`."""
    process = Process(command, on_output)
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.signal_group(signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.wait()


def _watchdog(pid: int) -> subprocess.Popen[bytes]:
    """Ends a wrapper's whole group when we are gone: PR_SET_PDEATHSIG reaches the wrapper alone, not its server."""
    return subprocess.Popen(
        ["/bin/sh", "-c", 'read _; kill -s KILL -- "-$1"', "llama-supervise-watchdog", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _apart() -> _Apart:
    """Out of reach of a terminal's signals, and unable to ask somebody there for a password: that fails at once.

    A session of its own does that wherever there is a terminal. Elsewhere it would only make the kernel schedule a
    child as a party of its own (sched(7), autogroup): it takes the processor from us with each request that we pass on.
    """
    return {"start_new_session": True} if has_terminal() else {"process_group": 0}


_SETPRIV = shutil.which("setpriv") if sys.platform == "linux" else None
_DYING_WITH_US = ("--pdeathsig", "KILL", "--")


def _dying_with_us(argv: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[[], None] | None]:
    if _SETPRIV is not None and _is_whole(_SETPRIV):
        return (_SETPRIV, *_DYING_WITH_US, *argv), None
    if sys.platform != "linux":
        return argv, None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return argv, lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


@cache
def _is_whole(setpriv: str) -> bool:
    """Whether it is util-linux's: BusyBox has one, too, that knows no `--pdeathsig` and would start nothing."""
    tried = subprocess.run(
        [setpriv, *_DYING_WITH_US, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return tried.returncode == 0
