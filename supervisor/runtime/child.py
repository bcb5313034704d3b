"""The whole life of one child as one coroutine: spawn, become ready, serve, end. Cancelling it is stopping it."""

from __future__ import annotations

import logging
import shlex
import signal
import time
from collections import deque
from typing import TYPE_CHECKING

import anyio

from supervisor.llama import protocol
from supervisor.llama.diagnosis import End
from supervisor.runtime.health import poll_until_healthy
from supervisor.runtime.load_report import LoadClock
from supervisor.runtime.logs import LineSplitter
from supervisor.runtime.oom import oom_kills
from supervisor.runtime.process import Process
from supervisor.runtime.vitals import signs_of_life, signs_of_session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.llama.command import Command

logger = logging.getLogger("supervisor.child")

PROTOCOL_PATIENCE = 2.0
"""Seconds after which a child that should report on stdout, and has not, is asked over HTTP as well."""
STDIN_GRACE = 1.0
"""Seconds a llama-server gets to leave after its stdin closed; it takes 3 to 35 ms."""
HEARTBEAT = 0.5
OK = 200
KEPT_LINES = 2000


class Child:
    """One child process. `run` returns when it ends by itself."""

    def __init__(
        self,
        command: Command,
        *,
        check_endpoint: str,
        load_timeout: float,
        load_limit: float,
        stop_timeout: float,
        redact: Callable[[str], str],
        log: Callable[[str, str], None],
        on_line: Callable[[str], None],
        on_ready: Callable[[Mapping[str, object]], None],
    ) -> None:
        self.command = command
        self.pid: int | None = None
        self.progress: protocol.Progress | None = None
        self.is_ready = False
        self.clock = LoadClock(time.monotonic())
        self.tokens_per_second: float | None = None
        """Of the last answer, as the child logs it."""
        self._check_endpoint = check_endpoint
        self._load_timeout = load_timeout
        self._load_limit = load_limit
        self._stop_timeout = stop_timeout
        self._redact = redact
        self._log = log
        self._on_line = on_line
        self._on_ready = on_ready
        self._stderr: deque[str] = deque(maxlen=KEPT_LINES)
        self._splitters = {
            stream: LineSplitter(lambda text, stream=stream: self._line(stream, text))  # type: ignore[misc]
            for stream in ("stdout", "stderr")
        }
        self._has_reported = False
        self._activity = 0
        self._gave_up: tuple[str, dict[str, object]] | None = None
        self._kill: Callable[[], None] = lambda: None

    async def run(self) -> End:
        """Spawn the child and stay with it; raises `OSError` when it cannot be spawned."""
        started = time.monotonic()
        killed_before = oom_kills()
        process = Process(self.command, self._output)
        self.pid = process.pid
        self._kill = lambda: process.signal_group(signal.SIGKILL)
        logger.info("spawned pid %s: %s", process.pid, shlex.join(self.command.shown))
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_load, process)
                tasks.start_soon(self._ask_over_http)
                await process.wait()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._stop(process)
            for splitter in self._splitters.values():
                splitter.close()
        killed_after = oom_kills()
        code, facts = self._gave_up or (None, {})
        return End(
            phase="serving" if self.is_ready else "loading",
            lines=tuple(self._stderr),
            returncode=process.returncode,
            elapsed=time.monotonic() - started,
            gave_up=code,
            gave_up_facts=facts,
            was_out_of_memory=None if killed_after is None else killed_after != killed_before,
        )

    def give_up(self, code: str, after: float, **facts: object) -> None:
        """Kill it for a reason of ours: the code of a cause, how long we waited, and what else its words need."""
        self._gave_up = (code, {"seconds": after, **facts})
        self._kill()

    def put_down(self) -> None:
        """Kill it because of what it said itself."""
        self._kill()

    async def _stop(self, process: Process) -> None:
        """End it in the fastest way that is safe: nobody has a lease any more, or is meant to be cut."""
        if process.returncode is not None:
            return
        if self.is_ready:
            grace = self._ask_to_leave(process)
            with anyio.move_on_after(grace):
                await process.wait()
        # A loading llama-server hears neither stdin nor the first SIGTERM in time, and has nothing to lose.
        if process.returncode is None:
            process.signal_group(signal.SIGKILL)
            await process.wait()

    def _ask_to_leave(self, process: Process) -> float:
        if self.command.speaks_protocol:
            process.close_stdin()
            return STDIN_GRACE
        process.signal_group(signal.SIGTERM)
        return self._stop_timeout

    async def _watch_load(self, process: Process) -> None:
        """Give a start up that shows no sign of life for the load timeout, or has had its whole time."""
        started = since = time.monotonic()
        signs_of = signs_of_life if self.command.speaks_protocol else signs_of_session
        seen = (self._activity, signs_of(process.pid))
        while True:
            await anyio.sleep(min(HEARTBEAT, self._load_timeout / 4))
            now, signs = time.monotonic(), (self._activity, signs_of(process.pid))
            if signs != seen:
                seen, since = signs, now
            if self.is_ready:
                return
            if now - since >= self._load_timeout:
                self.give_up("load_timeout", self._load_timeout)
            elif now - started >= self._load_limit:
                self.give_up("load_too_long", self._load_limit)

    async def _ask_over_http(self) -> None:
        if self.command.speaks_protocol:
            await anyio.sleep(PROTOCOL_PATIENCE)
        if not self._has_reported:
            status = await poll_until_healthy(self.command.endpoint, self._check_endpoint, patience=self._load_timeout)
            if status == OK:
                self._ready({})
            else:
                self.give_up("check_endpoint_wrong", self._load_timeout, status=status, path=self._check_endpoint)

    def _output(self, stream: str, chunk: bytes) -> None:
        self._activity += 1
        self.clock.spoke(time.monotonic())
        self._splitters[stream].feed(chunk)

    def _line(self, stream: str, text: str) -> None:
        message = protocol.parse(text) if stream == "stdout" and self.command.speaks_protocol else None
        if message is None:
            text = self._redact(text)
            self._log(stream, text)
            self._on_line(text)
            if stream == "stderr":
                self._stderr.append(text)
            self.tokens_per_second = protocol.generation_speed(text) or self.tokens_per_second
            return
        self._has_reported = True
        match message:
            case protocol.Progress():
                self.progress = message
                self.clock.progressed(message.fraction, time.monotonic())
            case protocol.Ready(model):
                self._ready(model)
            case protocol.Sleeping():
                pass

    def _ready(self, model: Mapping[str, object]) -> None:
        if not self.is_ready:
            self.is_ready = True
            self._stderr.clear()  # what it complained of while loading has not kept it from serving
            self._on_ready(model)

    def __repr__(self) -> str:
        return f"<Child {self.pid} [{'ready' if self.is_ready else 'loading'}]>"
