"""The whole life of one child as one coroutine: spawn, become ready, serve, end. Cancelling it is stopping it."""

from __future__ import annotations

import logging
import shlex
import signal
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from supervisor.config.secrets import redacted
from supervisor.llama import protocol
from supervisor.llama.diagnosis import End
from supervisor.runtime.ending import GRACE, end_left_behind
from supervisor.runtime.health import NO_SUCH_PATH, poll_until_healthy
from supervisor.runtime.load_report import LoadClock
from supervisor.runtime.logs import LineSplitter
from supervisor.runtime.marks import MARK
from supervisor.runtime.oom import oom_kills
from supervisor.runtime.ports import stranger_at
from supervisor.runtime.process import Process, run_to_end
from supervisor.runtime.vitals import signs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.llama.command import Command

logger = logging.getLogger("supervisor.child")

PROTOCOL_PATIENCE = 2.0
"""Seconds after which a child that should report on stdout, and has not, is asked over HTTP as well."""
LISTEN_PATIENCE = 5.0
"""Seconds an unchecked child may take to listen before requests are sent to it all the same."""
STDIN_GRACE = 1.0
"""Seconds a llama-server gets to leave after its stdin closed; it takes 3 to 35 ms."""
HEARTBEAT = 0.5
OK = 200
KEPT_LINES = 2000
KEPT_LENGTH = 2000
"""Characters of a line that are looked at for what went wrong; no message of an error is longer."""


class Child:
    """One child process. `run` returns when it ends by itself."""

    def __init__(
        self,
        command: Command,
        *,
        check_endpoint: str,
        load_timeout: float,
        load_limit: float,
        stop_timeout: Callable[[], float],
        redact: Callable[[str], str],
        log: Callable[[str, str], None],
        on_line: Callable[[str], None],
        on_ready: Callable[[Mapping[str, object]], None],
        on_spawn: Callable[[int], None] = lambda pid: None,
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
        self._on_spawn = on_spawn
        self._stderr: deque[str] = deque(maxlen=KEPT_LINES)
        self._splitters = {
            stream: LineSplitter(lambda text, stream=stream: self._line(stream, text))  # type: ignore[misc]
            for stream in ("stdout", "stderr")
        }
        self._has_reported = False
        self._status = 0
        """Of the last answer to a probe; 0 if there was none."""
        self._activity = 0
        self._was_killed = False
        self._is_forced = False
        self._stopping = anyio.CancelScope()
        self._gave_up: tuple[str, dict[str, object]] | None = None
        self._kill: Callable[[], None] = lambda: None

    async def run(self) -> End:
        """Spawn the child and stay with it; raises `OSError` when it cannot be spawned."""
        started = time.monotonic()
        killed_before = oom_kills()
        process = Process(self.command, self._output)
        self.pid = process.pid
        self._kill = lambda: self._kill_group(process)
        logger.info("spawned pid %s: %s", process.pid, shlex.join(self.command.shown))
        try:
            self._on_spawn(process.pid)
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

    def force(self) -> None:
        """Kill it now, though it may be just about to leave."""
        self._is_forced = True
        self._stopping.cancel()
        self._kill()

    async def _stop(self, process: Process) -> None:
        """End it in the fastest way that is safe: nobody has a lease any more, or is meant to be cut."""
        if process.returncode is None and self.is_ready and not self._is_forced:
            with self._stopping:
                self._stopping.deadline = anyio.current_time() + self._grace
                await self._ask_to_leave(process)
                await process.wait()
        # A loading llama-server hears neither stdin nor the first SIGTERM in time, and has nothing to lose.
        if process.returncode is None:
            self._kill_group(process)
            await process.wait()
        if self._was_killed and self.command.stop:
            # What dies of SIGKILL may leave behind what it has started elsewhere, as `docker run` its container.
            with anyio.move_on_after(self._stop_timeout()):
                await self._run_stop(process.pid)
        if mark := self.command.env.get(MARK):
            await end_left_behind(mark, process.pid, grace=0.0 if self._is_forced else GRACE)

    @property
    def _grace(self) -> float:
        """Seconds it gets to leave."""
        return STDIN_GRACE if self.command.speaks_protocol and not self.command.stop else self._stop_timeout()

    async def _ask_to_leave(self, process: Process) -> None:
        has_been_told = bool(self.command.stop) and await self._run_stop(process.pid)
        if self.command.speaks_protocol:
            process.close_stdin()  # and if it was told by SIGTERM, this is what it waits for
        elif not has_been_told:
            process.signal_group(signal.SIGTERM)

    async def _run_stop(self, pid: int) -> bool:
        """Run the command that stops it; whether that went well."""
        argv = tuple(part.replace("${PID}", str(pid)) for part in self.command.stop)
        shown = shlex.join(map(self._redact, redacted(argv)))
        logger.info("stopping pid %s: %s", pid, shown)
        splitters = {
            stream: LineSplitter(lambda text, stream=stream: self._log(stream, self._redact(text)))  # type: ignore[misc]
            for stream in ("stdout", "stderr")
        }
        command = replace(self.command, argv=argv, speaks_protocol=False)
        try:
            returncode = await run_to_end(command, lambda stream, chunk: splitters[stream].feed(chunk))
        except OSError as exc:
            logger.warning("`%s` could not be run: %s", shown, exc.strerror)
            return False
        except anyio.get_cancelled_exc_class():
            if not self._is_forced:
                logger.warning("`%s` did not end within %g s", shown, self._stop_timeout())
            raise
        finally:
            for splitter in splitters.values():
                splitter.close()
        if returncode != 0:
            logger.warning("`%s` ended with code %s", shown, returncode)
        return returncode == 0

    def _kill_group(self, process: Process) -> None:
        self._was_killed = True
        process.signal_group(signal.SIGKILL)

    async def _watch_load(self, process: Process) -> None:
        """Give a start up that shows no sign of life for the load timeout, or has had its whole time."""
        started = since = time.monotonic()
        is_wrapper = not self.command.speaks_protocol
        seen = (self._activity, await signs_of(process.pid, is_wrapper=is_wrapper))
        while True:
            await anyio.sleep(min(HEARTBEAT, self._load_timeout / 4))
            now, signs = time.monotonic(), (self._activity, await signs_of(process.pid, is_wrapper=is_wrapper))
            if signs != seen:
                seen, since = signs, now
            if self.is_ready:
                return
            if now - since >= self._load_timeout:
                self._give_up_waiting("load_timeout", self._load_timeout)
            elif now - started >= self._load_limit:
                self._give_up_waiting("load_too_long", self._load_limit)

    def _give_up_waiting(self, code: str, after: float) -> None:
        """Give a start up, for a better reason than time if there is one."""
        if self._status in NO_SUCH_PATH:
            self.give_up("check_endpoint_wrong", after, status=self._status, path=self._check_endpoint)
        else:
            self.give_up(code, after)

    async def _ask_over_http(self) -> None:
        if self.command.speaks_protocol:
            await anyio.sleep(PROTOCOL_PATIENCE)
            if self._has_reported:
                return
        status = await (self._polled(self._check_endpoint) if self._check_endpoint else self._unchecked())
        if status != OK:
            self.give_up("check_endpoint_wrong", self._load_timeout, status=status, path=self._check_endpoint)
        elif taken := await self._taken():
            self.give_up("listen_address_taken", 0.0, **taken)
        else:
            self._ready({})

    async def _unchecked(self) -> int:
        """It counts as ready at once; but where only the child can listen, the first request should not be refused."""
        if self.command.address is not None:
            with anyio.move_on_after(LISTEN_PATIENCE):
                await self._polled("none")
        return OK

    async def _polled(self, path: str) -> int:
        key = self.command.api_key
        return await poll_until_healthy(
            self.command.endpoint, path, patience=self._load_timeout, heard=self._heard, key=key
        )

    def _heard(self, status: int) -> None:
        self._status = status

    async def _taken(self) -> dict[str, object]:
        """Who answers in the child's place, as far as that can be known; empty if it is the child."""
        address, leader, mark = self.command.address, self.pid, self.command.env.get(MARK, "")
        if address is None or leader is None:
            return {}
        stranger = await anyio.to_thread.run_sync(
            lambda: stranger_at(address.port, address.host, leader=leader, mark=mark), abandon_on_cancel=True
        )
        return {**address._asdict(), "hint": f"{stranger} listens there"} if stranger else {}

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
                self._stderr.append(text[:KEPT_LENGTH])
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
