"""A request that waits in a task of its own, until somebody serves it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from supervisor.proxy.client import Client


class Waiting:
    """Who listens to its client meanwhile: of all that may happen, only its leaving matters."""

    __slots__ = ("_task",)

    def __init__(self, client: Client, work: Coroutine[None, None, None]) -> None:
        client.listener = self
        self._task = asyncio.get_running_loop().create_task(work)

    def client_left(self) -> None:
        self._task.cancel()

    def client_lags(self) -> None:
        """What is written until it is served is too little to matter."""

    def client_keeps_up(self) -> None:
        """Nor does this."""

    def client_sent(self) -> None:
        """It is kept until somebody takes it."""
