"""Whole requests that are kept to be looked at."""

from __future__ import annotations

from supervisor.record.captures import Capture, Captures


def capture(size: int) -> Capture:
    return Capture("/v1/completions", {}, b"x" * size, {}, None)


def test_the_newest_are_kept() -> None:
    """The oldest make room; one that is larger than all the room is not kept, and costs no other."""
    captures = Captures(4000, lambda text: text)
    kept = [captures.keep(number, capture(1000)) for number in range(1, 5)]

    assert kept == [True] * 4
    assert captures.numbers() == {3, 4}
    assert captures.keep(5, capture(4000)) is False
    assert captures.numbers() == {3, 4}
    assert captures.get(1) is None


def test_nothing_is_kept() -> None:
    """Without room there is none for anything."""
    assert Captures(0, lambda text: text).keep(1, capture(0)) is False
