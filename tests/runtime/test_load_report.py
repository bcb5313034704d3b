"""What the phases of a start cost, told from scripted words of a child."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.runtime.load_report import LoadClock, LoadReport

GIGA = 10**9


def clock(*begins_and_ends: tuple[float, float], spoke: float = 10.02) -> LoadClock:
    """A child spawned at 10 that told of its progress as (fraction, when)."""
    told = LoadClock(10.0)
    told.spoke(spoke)
    for fraction, when in begins_and_ends:
        told.progressed(fraction, when)
    return told


def phases(report: LoadReport) -> tuple[float | None, ...]:
    """Rounded, for the sake of binary fractions."""
    values = (report.spawn, report.prepare, report.read, report.warm_up)
    return tuple(None if value is None else round(value, 6) for value in values)


def test_the_phases_of_a_start() -> None:
    """As spec llama-server.md, 2.2, has it: begun at once, again after 1.8 s, read 0.1 s later, then warmed up."""
    report = clock((0.0, 10.02), (0.0, 11.815), (1.0, 11.906)).report(12.363, size=246587904)

    assert round(report.seconds, 6) == 2.363
    assert phases(report) == (0.02, 1.795, 0.091, 0.457)
    assert report.read_speed == pytest.approx(246587904 / 0.091)


def test_steps_in_between_change_nothing() -> None:
    """Without mapping a child tells how far it is; the phases are the same."""
    report = clock((0.0, 10.1), (0.0, 11.0), (0.25, 11.2), (0.7767, 11.5), (1.0, 12.0)).report(12.5)

    assert phases(report) == (0.02, 0.9, 1.0, 0.5)


def test_only_the_first_word_ends_the_spawn() -> None:
    """Everything it says later belongs to another phase."""
    told = clock()
    told.spoke(10.5)
    told.spoke(11.0)

    assert phases(told.report(12.0)) == (0.02, None, None, None)


def test_a_child_that_says_nothing_has_only_a_length() -> None:
    """Another server than llama-server is measured from spawn to ready."""
    report = LoadClock(10.0).report(10.5, size=None)

    assert report.seconds == 0.5
    assert phases(report) == (None, None, None, None)
    assert report.read_speed is None
    assert str(report) == "0.50 s"
    assert report.as_json() == {
        "seconds": 0.5,
        "phases": {"spawn": None, "prepare": None, "read": None, "warm_up": None},
        "fitted": None,
        "bytes": None,
        "read_gb_per_second": None,
        "prefetched_bytes": 0,
        "prefetch_gb_per_second": None,
    }


def test_what_is_read_after_the_model_is_not_its_reading() -> None:
    """A projector or a draft tells of its own progress once the model is read; the size is the model's alone."""
    text = ((0.0, 10.02), (0.0, 11.0), (1.0, 13.0))
    draft = ((0.0, 13.0), (0.0, 13.5), (1.0, 14.0), (1.0, 14.0))
    report = clock(*text, *draft).report(15.0, size=4 * GIGA)

    assert phases(report) == (0.02, 0.98, 2.0, 2.0)
    assert report.read_speed == 2 * GIGA


def test_an_end_without_a_beginning_is_no_length() -> None:
    """A child that only tells its end leaves the read open."""
    report = clock((1.0, 11.0)).report(12.0)

    assert phases(report) == (0.02, None, None, 1.0)


@pytest.mark.parametrize(("size", "read"), [(None, 1.0), (0, 1.0), (5, None), (5, 0.0)])
def test_a_speed_needs_a_size_and_a_time(size: int | None, read: float | None) -> None:
    """Nothing is divided by nothing."""
    report = LoadReport(1.0, read=read, size=size)

    assert report.read_speed is None
    assert report.as_json()["read_gb_per_second"] is None


def test_the_words_of_the_log() -> None:
    """One line has the phases there were, what was left out, and what was read ahead."""
    report = clock((0.0, 10.05), (0.0, 10.05), (1.0, 12.05)).report(12.55, size=4 * GIGA)
    quick = replace(report, is_fitted=False, prefetched=3 * GIGA, prefetch_seconds=1.5)

    assert str(report) == "2.55 s (spawn 0.02, prepare 0.00, read 2.00, warm-up 0.50, 2.0 GB/s)"
    assert str(quick).endswith("warm-up 0.50, no fit, 2.0 GB/s, 3.00 GB prefetched)")


def test_what_status_shows() -> None:
    """Seconds to the millisecond, bytes, and GB per second of either reader."""
    report = clock((0.0, 10.05), (0.0, 10.05), (1.0, 12.05)).report(12.55, size=4 * GIGA)
    shown = replace(report, is_fitted=False, prefetched=3 * GIGA, prefetch_seconds=1.5).as_json()

    assert shown == {
        "seconds": 2.55,
        "phases": {"spawn": 0.02, "prepare": 0.0, "read": 2.0, "warm_up": 0.5},
        "fitted": False,
        "bytes": 4 * GIGA,
        "read_gb_per_second": 2.0,
        "prefetched_bytes": 3 * GIGA,
        "prefetch_gb_per_second": 2.0,
    }


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.floats(0, 5)), max_size=8), st.floats(0, 5))
def test_no_phase_is_negative_or_longer_than_the_start(steps: list[tuple[float, float]], rest: float) -> None:
    """Whatever a child tells in whatever order, the phases are parts of the start."""
    now = 10.0
    told = LoadClock(now)
    for fraction, pause in steps:
        now += pause
        told.spoke(now)
        told.progressed(fraction, now)
    report = told.report(now + rest)
    known = [part for part in (report.spawn, report.prepare, report.read, report.warm_up) if part is not None]

    assert all(part >= 0 for part in known)
    assert sum(known) <= report.seconds + 1e-6
