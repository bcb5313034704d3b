"""Noticing that a client went away while its answer is awaited."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from starlette.types import Receive

PATIENCE = 0.05
"""Seconds before looking: most answers are there sooner, and a task for each would cost more than it saves."""


class Disconnect:
    """While entered, cancels the surrounding task when the client disconnects; that cancellation ends here."""

    __slots__ = ("_receive", "_task", "_timer", "_watcher", "happened")

    def __init__(self, receive: Receive) -> None:
        self.happened = False
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = task.get_loop().call_later(PATIENCE, self._start)
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, _: object) -> bool:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self.happened and exc_type is asyncio.CancelledError:
            return self._task.uncancel() == 0
        return False

    def _start(self) -> None:
        self._watcher = self._task.get_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while not (await self._receive())["type"].endswith(".disconnect"):
            pass
        self.happened = True
        self._task.cancel()
