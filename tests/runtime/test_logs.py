"""The rings that keep what children print."""

from __future__ import annotations

import itertools

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.runtime.logs import LINE_LIMIT, LINE_OVERHEAD, LineSplitter, LogRing, Logs, clean

pytestmark = pytest.mark.anyio


def texts(ring: LogRing) -> list[str]:
    return [line.text for line in ring.lines()]


def test_the_ring_forgets_the_oldest_lines_first() -> None:
    """However much a child prints, the ring keeps the latest lines within its size."""
    ring = LogRing(3 * (9 + LINE_OVERHEAD))

    for number in range(100):
        ring.append(f"line {number:04}")

    assert texts(ring) == ["line 0097", "line 0098", "line 0099"]


def test_lines_remember_run_stream_and_time() -> None:
    """A line can be told apart by its run and stream, and says when it came."""
    ring = LogRing(1000, clock=lambda: 12.5)
    ring.append("old", run=1, stream="stderr")
    ring.append("new", run=2, stream="stdout")

    assert [line.text for line in ring.lines(run=2)] == ["new"]
    assert [line.text for line in ring.lines(stream="stderr")] == ["old"]
    assert ring.lines()[0].at == 12.5


def test_one_line_larger_than_the_ring_is_kept() -> None:
    """The latest line is never lost, even when it alone is too large."""
    ring = LogRing(5)

    ring.append("a long last word")

    assert texts(ring) == ["a long last word"]


async def test_a_follower_gets_history_and_then_news() -> None:
    """Following shows what was there, then what comes, until the ring is closed."""
    ring = LogRing(1000)
    ring.append("before")
    seen: list[str] = []

    async def follow() -> None:
        async for lines in ring.follow():
            seen.extend(line.text for line in lines)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        ring.append("after")
        await anyio.wait_all_tasks_blocked()
        ring.close()

    assert seen == ["before", "after"]


async def test_a_follower_without_history_gets_news_only() -> None:
    """Who does not want history is spared it."""
    ring = LogRing(1000)
    ring.append("before")
    follower = ring.follow(history=False)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: _append_when_blocked(ring))
        lines = await anext(follower)

    assert [line.text for line in lines] == ["after"]


async def _append_when_blocked(ring: LogRing) -> None:
    await anyio.wait_all_tasks_blocked()
    ring.append("after")


async def test_a_slow_follower_misses_lines_and_blocks_nobody() -> None:
    """A reader that is too slow sees a gap; the child's output never waits for it."""
    ring = LogRing(2 * (8 + LINE_OVERHEAD))
    follower = ring.follow()
    ring.append("first")
    assert [line.text for line in await anext(follower)] == ["first"]

    for number in range(50):
        ring.append(f"line {number:03}")

    assert [line.text for line in await anext(follower)] == ["line 048", "line 049"]


def test_a_writer_feeds_the_models_ring_and_the_common_one() -> None:
    """A child's line is found under its model and under all children."""
    logs = Logs(1000)

    logs.writer("qwen", 3)("stderr", "hello")

    assert texts(logs.of("qwen")) == texts(logs.upstream) == ["hello"]


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_lines_do_not_depend_on_how_the_pipe_cut_them(data: bytes, cuts: list[int]) -> None:
    """The same bytes give the same lines, in whatever pieces they come."""
    whole: list[str] = []
    pieces: list[str] = []
    one, many = LineSplitter(whole.append), LineSplitter(pieces.append)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]

    one.feed(data)
    one.close()
    for start, end in itertools.pairwise(places):
        many.feed(data[start:end])
    many.close()

    assert whole == pieces


def test_a_line_without_end_is_broken_into_pieces() -> None:
    """A child that never prints a newline cannot make a line grow without bound."""
    lines: list[str] = []
    splitter = LineSplitter(lines.append)

    for _ in range(100):
        splitter.feed(b"x" * 1000)
    splitter.close()

    assert max(map(len, lines)) <= LINE_LIMIT + 1000
    assert sum(map(len, lines)) == 100_000


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("bell\x07 and \x00 nul", "bell and  nul"),
        ("tabs\tstay", "tabs\tstay"),
        ("carriage\r", "carriage"),
        ("ünïcödé ✓", "ünïcödé ✓"),
    ],
)
def test_control_characters_do_not_reach_a_terminal(raw: str, shown: str) -> None:
    """Colours, titles, bells and other controls are taken out, text stays."""
    assert clean(raw) == shown
