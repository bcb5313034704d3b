"""Noticing that a client went away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from supervisor.proxy.disconnect import Disconnect
from tests.conftest import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from starlette.types import Message

pytestmark = pytest.mark.anyio


async def ended(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """The work's task once it has ended by itself: no deadline may cancel what is tested with cancellation."""
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait({task}, timeout=DEADLINE)
    assert done, "it goes on for ever"
    return task


class Client:
    """A client that is silent until it leaves."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.watched = asyncio.Event()
        self.released = asyncio.Event()

    async def receive(self) -> Message:
        self.watched.set()
        try:
            await self.gone.wait()
        finally:
            self.released.set()
        return {"type": "http.disconnect"}


async def test_leaving_ends_the_work() -> None:
    """When the client leaves, what is done for it is cancelled, and only that."""
    client = Client()
    cleaned = after = False

    async def serve() -> None:
        nonlocal cleaned, after
        with Disconnect(client.receive) as disconnect:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned = True
        assert disconnect.happened
        await asyncio.sleep(0)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        after = True

    client.gone.set()
    (await ended(serve())).result()

    assert cleaned
    assert after


async def test_messages_before_the_end() -> None:
    """Only the end counts, not what else a server may still tell."""
    messages: list[Message] = [{"type": "http.request"}, {"type": "http.request"}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def serve() -> None:
        with Disconnect(receive):
            await asyncio.Event().wait()

    (await ended(serve())).result()

    assert messages == []


async def test_quick_answers_are_not_watched() -> None:
    """An answer that is there at once costs no task, and the client is never asked."""
    client = Client()
    with Disconnect(client.receive) as disconnect:
        await asyncio.sleep(0)

    assert not disconnect.happened
    assert not client.watched.is_set()


async def test_watching_ends_with_the_work() -> None:
    """After the answer nobody listens to the client any more."""
    client = Client()

    async def serve() -> None:
        with Disconnect(client.receive) as disconnect:
            await client.watched.wait()
        await client.released.wait()
        assert not disconnect.happened

    (await ended(serve())).result()


async def test_errors_pass() -> None:
    """What goes wrong in the work is told, watched or not."""
    client = Client()

    async def serve() -> None:
        with Disconnect(client.receive):
            await client.watched.wait()
            raise ZeroDivisionError

    assert isinstance((await ended(serve())).exception(), ZeroDivisionError)


async def test_being_cancelled_from_outside() -> None:
    """A shutdown is not mistaken for a client that left: the cancellation goes on."""
    client = Client()

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        with Disconnect(client.receive):
            await client.watched.wait()
            task.cancel()
            await asyncio.Event().wait()

    assert (await ended(serve())).cancelled()


async def test_leaving_and_being_cancelled_at_once() -> None:
    """When both happen, the cancellation from outside is not lost."""
    client = Client()

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        with Disconnect(client.receive) as disconnect:
            try:
                await asyncio.Event().wait()
            finally:
                assert disconnect.happened
                task.cancel()

    client.gone.set()

    assert (await ended(serve())).cancelled()
