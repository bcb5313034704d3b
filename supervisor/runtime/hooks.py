"""Commands of the owner's around the life of a model: to stop another GPU service first, or to mount a disk.

They get no shell, a limited time, and `LLAMA_SUPERVISE_MODEL`, `LLAMA_SUPERVISE_HOOK` and, where there is a process,
`LLAMA_SUPERVISE_PID` in their environment. What they print goes to the model's log.
"""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING, Literal

import anyio

from supervisor.config.secrets import redacted
from supervisor.llama.command import Command, child_environment
from supervisor.llama.endpoint import TcpEndpoint
from supervisor.runtime.logs import LineSplitter
from supervisor.runtime.process import run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config.values import Model
    from supervisor.llama.command import Surroundings

logger = logging.getLogger("supervisor.hooks")

HookName = Literal["before_load", "after_load", "before_unload", "after_unload"]

NOWHERE = TcpEndpoint(0)


class HookRunner:
    """Runs the hooks of all models."""

    def __init__(
        self,
        around: Surroundings,
        *,
        log_of: Callable[[str], Callable[[str, str], None]],
        redact: Callable[[str], str],
    ) -> None:
        """`log_of` gives what takes a stream's name and a line of a model."""
        self._around = around
        self._log_of = log_of
        self._redact = redact
        self._running: set[anyio.CancelScope] = set()
        self._has_ended = False

    def end(self) -> None:
        """Kill those that run, and run no more."""
        self._has_ended = True
        for scope in self._running:
            scope.cancel()

    async def run(self, name: HookName, model: Model, pid: int | None = None) -> str | None:
        """Run a hook of this model to its end, if it has it; what went wrong."""
        argv: tuple[str, ...] = getattr(model.hooks, name)
        if not argv or self._has_ended:
            return None
        shown = shlex.join(map(self._redact, redacted(argv)))
        logger.info("%s of %s: %s", name, model.id, shown)
        problem = await self._outcome(name, model, argv, pid)
        if problem is not None:
            logger.warning("%s of %s: `%s` %s", name, model.id, shown, problem)
        return problem and f"`{shown}` {problem}"

    async def _outcome(self, name: HookName, model: Model, argv: tuple[str, ...], pid: int | None) -> str | None:
        command = Command(argv, self._environment(name, model, pid), self._around.base, NOWHERE, speaks_protocol=False)
        log = self._log_of(model.id)
        splitters = {
            stream: LineSplitter(lambda text, stream=stream: log(stream, self._redact(text)))  # type: ignore[misc]
            for stream in ("stdout", "stderr")
        }
        scope = anyio.CancelScope(deadline=anyio.current_time() + model.hooks.timeout)
        self._running.add(scope)
        try:
            with scope:
                code = await run_to_end(command, lambda stream, chunk: splitters[stream].feed(chunk))
                return None if code == 0 else f"ended with code {code}"
        except OSError as exc:
            return f"could not be run: {exc.strerror}"
        finally:
            self._running.discard(scope)
            for splitter in splitters.values():
                splitter.close()
        return f"was killed {'with all the rest' if self._has_ended else f'after {model.hooks.timeout:g} s'}"

    def _environment(self, name: HookName, model: Model, pid: int | None) -> dict[str, str]:
        own = {"LLAMA_SUPERVISE_MODEL": model.id, "LLAMA_SUPERVISE_HOOK": name}
        process = {"LLAMA_SUPERVISE_PID": str(pid)} if pid is not None else {}
        return {**child_environment(self._around), **model.env, **own, **process}
