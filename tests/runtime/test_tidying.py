"""Memory is given back when there is enough of it, and a moment in which nobody waits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from supervisor.runtime import tidying
from supervisor.runtime.tidying import MOST_WAITS, WORTH_IT, Tidying
from tests.conftest import eventually
from tests.proxy.conftest import fake_cmd, rss

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.conftest import RunningService

MiB = 1024**2


class Memory:
    """What a service holds, and how much of that it can do without."""

    def __init__(self, held: int) -> None:
        self.held = held
        self.spare = 0
        self.is_idle = True
        self.tidying = Tidying(lambda: self.is_idle, lambda: self.held, self._give_back)
        self.times = 0

    def grow(self, size: int, *, spare: int = 0) -> None:
        self.held += size
        self.spare += spare
        self.tidying.look()

    def _give_back(self) -> None:
        self.times += 1
        self.held -= self.spare
        self.spare = 0


def test_what_is_not_worth_it() -> None:
    """Little is let be, until it has become much."""
    memory = Memory(60 * MiB)
    memory.grow(WORTH_IT - 1)
    assert memory.times == 0

    memory.grow(1, spare=MiB)
    assert (memory.times, memory.held) == (1, 67 * MiB)


def test_what_is_in_use() -> None:
    """What cannot be given back is not tried for again and again, only growth beyond it."""
    memory = Memory(60 * MiB)
    memory.grow(2 * WORTH_IT)
    for _ in range(10):
        memory.grow(0)
    assert memory.times == 1

    memory.grow(WORTH_IT)
    assert memory.times == 2


def test_what_went_by_itself() -> None:
    """Growth counts from the least that was held since."""
    memory = Memory(60 * MiB)
    memory.grow(-20 * MiB)
    memory.grow(WORTH_IT)

    assert memory.times == 1


def test_nobody_has_to_wait() -> None:
    """While somebody is served it waits, but not for ever."""
    memory = Memory(60 * MiB)
    memory.is_idle = False
    memory.grow(WORTH_IT)
    for _ in range(MOST_WAITS - 1):
        memory.grow(0)
    assert memory.times == 0

    memory.grow(0)
    assert memory.times == 1


def test_after_large_requests(start: Callable[..., RunningService]) -> None:
    """A service that has served many large requests at a time soon holds hardly more than before."""
    service = start(f"[models.fake]\ncmd = {fake_cmd()}\n")
    assert service.chat("fake").status_code == 200
    before = rss(service.process.pid)
    with ThreadPoolExecutor(24) as clients:
        answers = [clients.submit(service.chat, "fake", padding="x" * 5 * MiB) for _ in range(24)]
        assert [answer.result().status_code for answer in answers] == [200] * 24

    eventually(lambda: rss(service.process.pid) - before < 16 * MiB)


def test_a_library_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the C library has nothing of the kind, nothing breaks."""
    monkeypatch.setattr(tidying.ctypes, "CDLL", lambda name: object())

    tidying._give_back()
