"""The watch for children that hang: what it costs where nobody asked for it, and after a reload that did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.config.values import Model
from supervisor.runtime import stall as module

if TYPE_CHECKING:
    from supervisor.runtime.live import LiveRun

pytestmark = pytest.mark.anyio


class Hung:
    """A run whose child owes an answer and does nothing."""

    def __init__(self, stall_timeout: float | None) -> None:
        self.model = Model("m", stall_timeout=stall_timeout)
        self.awaited, self.heard_at, self.pid = 1, 0.0, 1
        self.given_up = anyio.Event()
        self.child = SimpleNamespace(
            command=SimpleNamespace(speaks_protocol=False), give_up=lambda *_: self.given_up.set()
        )


async def test_nothing_is_looked_at_where_a_stall_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at a wrapper's family means all of /proc; a reload that sets a limit is heeded nonetheless."""
    run, pauses, looks = Hung(None), 0, 0
    sleep = anyio.sleep

    async def pause(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 10:
            assert looks == 0
            run.model = Model("m", stall_timeout=0.05)
        await sleep(min(seconds, 0.01))

    async def look(pid: int, *, is_wrapper: bool) -> tuple[int, ...]:
        nonlocal looks
        looks += 1
        assert is_wrapper
        return (7, 7, 0, 0)

    monkeypatch.setattr(module.anyio, "sleep", pause)
    monkeypatch.setattr(module, "signs_of", look)
    live: LiveRun = run  # type: ignore[assignment]
    await module.watch_for_stalls(live)

    assert run.given_up.is_set()
    assert looks >= 2
