"""The rings that keep what children print."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.values import Console
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


def test_a_reader_takes_what_is_new() -> None:
    """A reader gets what there is, then what has come since it looked last, and is woken by each line and the end."""
    ring = LogRing(1000)
    ring.append("before")
    woken: list[str] = []

    with ring.reader(lambda: woken.append("woken")) as reader:
        assert reader.take() == "before\n"
        assert reader.take() == ""
        ring.append("one")
        ring.append("two")
        assert woken == ["woken"] * 2
        assert reader.take() == "one\ntwo\n"
        ring.close()
        assert woken == ["woken"] * 3
    ring.append("after")

    assert len(woken) == 3


def test_a_reader_without_history() -> None:
    """Who does not want what there is gets what comes."""
    ring = LogRing(1000)
    ring.append("before")

    with ring.reader(lambda: None, history=False) as reader:
        assert reader.take() == ""
        ring.append("after")
        assert reader.take() == "after\n"


@pytest.mark.parametrize("is_empty", [True, False])
@pytest.mark.parametrize("history", [True, False])
def test_a_slow_reader_is_told_what_it_missed(*, is_empty: bool, history: bool) -> None:
    """Where lines are missing, it says how many bytes that were; what had gone before it came is not missed."""
    ring = LogRing(2 * (9 + LINE_OVERHEAD))
    for number in range(0 if is_empty else 5):
        ring.append(f"line {number:04}")

    with ring.reader(lambda: None, history=history) as reader:
        if not is_empty and history:
            assert reader.take() == "line 0003\nline 0004\n"
        for number in range(10):
            ring.append(f"lünè {number:04}")
        assert reader.take() == f"\n— {8 * 12} bytes dropped —\nlünè 0008\nlünè 0009\n"
        assert reader.take() == ""


@given(st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=60))
def test_nothing_is_lost_unseen(steps: list[str | None]) -> None:
    """What a reader takes, and the bytes it is told to have missed, are all that was printed."""
    ring = LogRing(3 * LINE_OVERHEAD)
    printed = missed = 0
    taken = ""
    with ring.reader(lambda: None) as reader:
        for step in [*steps, None]:
            if step is not None:
                line = step.replace("\n", "")
                ring.append(line)
                printed += len(f"{line}\n".encode(errors="replace"))
                continue
            text = reader.take()
            if text.startswith("\n— "):
                marker, _, text = text.partition(" bytes dropped —\n")
                missed += int(marker[3:])
            taken += text

    assert missed + len(taken.encode(errors="replace")) == printed


@pytest.mark.parametrize(
    ("console", "shown"),
    [
        (Console.PROXY, ["ours 1", "ours 2"]),
        (Console.UPSTREAM, ["theirs"]),
        (Console.BOTH, ["ours 1", "theirs", "ours 2"]),
        (Console.NONE, []),
    ],
)
def test_what_is_shown(console: Console, shown: list[str]) -> None:
    """What goes to our own output is our log, the children's, both in their order, or nothing."""
    logs = Logs(1000, console)
    logs.proxy.append("ours 1")
    logs.writer("qwen", 3)("stderr", "theirs")
    logs.proxy.append("ours 2")

    assert texts(logs.shown) == shown
    assert texts(logs.proxy) == ["ours 1", "ours 2"]
    assert texts(logs.upstream) == ["theirs"]


@pytest.mark.parametrize("console", Console)
def test_the_end_of_all_logs(console: Console) -> None:
    """When the service ends, whoever follows any log is woken."""
    logs = Logs(1000, console)

    logs.close()

    assert all(ring.is_closed for ring in (logs.proxy, logs.upstream, logs.shown))


def test_sinks_get_every_line() -> None:
    """Who is given lines as they come gets each, whatever the ring keeps."""
    ring, seen = LogRing(1), []
    ring.sinks.append(lambda line: seen.append(line.text))

    for number in range(3):
        ring.append(str(number))

    assert seen == ["0", "1", "2"]


def test_logs_of_models_that_are_gone() -> None:
    """They are forgotten, unless somebody follows them; what stays is the same."""
    logs = Logs(1000)
    for name in ("stays", "gone", "followed"):
        logs.writer(name, 1)("stderr", f"of {name}")
    with logs.of("followed").reader(lambda: None) as reader:
        logs.keep({"stays"})
        logs.of("followed").append("more")

        assert reader.take() == "of followed\nmore\n"
    assert texts(logs.of("stays")) == ["of stays"]
    assert texts(logs.of("gone")) == []
    logs.keep({"stays"})
    assert texts(logs.of("followed")) == []


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
