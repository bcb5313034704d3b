"""A request whose answer a task prepares: it listens only for its client to leave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from supervisor.proxy.client import Client


class Waiting:
    """Listens to a client while its task is under way; the task ends with the client."""

    __slots__ = ("_task",)

    _task: asyncio.Task[None]

    @classmethod
    def begin(cls, client: Client, work: Coroutine[None, None, None]) -> Self:
        """Let `work` be done for this client."""
        waiting = cls()
        client.listener = waiting
        waiting._task = asyncio.get_running_loop().create_task(work)
        return waiting

    def client_left(self) -> None:
        self._task.cancel()

    def client_lags(self) -> None:
        """Nothing was written yet, or comments, which are too few to matter."""

    def client_keeps_up(self) -> None:
        """Nor does this."""

    def client_sent(self) -> None:
        """What has come is kept until somebody takes it."""
