"""Times in the layouts of Go's `time`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.record.go_time import LAYOUTS, format_duration, format_time, local_time

EAST = datetime(2026, 8, 2, 9, 5, 7, 120_300, timezone(timedelta(hours=5, minutes=30), "IST"))
WEST = datetime(2009, 11, 17, 20, 34, 58, 0, timezone(timedelta(hours=-7), "MST"))
GREENWICH = datetime(2026, 12, 31, 0, 0, 0, 999_999, UTC)


@pytest.mark.parametrize(
    ("name", "east", "west"),
    [
        ("ansic", "Sun Aug  2 09:05:07 2026", "Tue Nov 17 20:34:58 2009"),
        ("unixdate", "Sun Aug  2 09:05:07 IST 2026", "Tue Nov 17 20:34:58 MST 2009"),
        ("rubydate", "Sun Aug 02 09:05:07 +0530 2026", "Tue Nov 17 20:34:58 -0700 2009"),
        ("rfc822", "02 Aug 26 09:05 IST", "17 Nov 09 20:34 MST"),
        ("rfc822z", "02 Aug 26 09:05 +0530", "17 Nov 09 20:34 -0700"),
        ("rfc850", "Sunday, 02-Aug-26 09:05:07 IST", "Tuesday, 17-Nov-09 20:34:58 MST"),
        ("rfc1123", "Sun, 02 Aug 2026 09:05:07 IST", "Tue, 17 Nov 2009 20:34:58 MST"),
        ("rfc1123z", "Sun, 02 Aug 2026 09:05:07 +0530", "Tue, 17 Nov 2009 20:34:58 -0700"),
        ("rfc3339", "2026-08-02T09:05:07+05:30", "2009-11-17T20:34:58-07:00"),
        ("rfc3339nano", "2026-08-02T09:05:07.1203+05:30", "2009-11-17T20:34:58-07:00"),
        ("kitchen", "9:05AM", "8:34PM"),
        ("stamp", "Aug  2 09:05:07", "Nov 17 20:34:58"),
        ("stampmilli", "Aug  2 09:05:07.120", "Nov 17 20:34:58.000"),
        ("stampmicro", "Aug  2 09:05:07.120300", "Nov 17 20:34:58.000000"),
        ("stampnano", "Aug  2 09:05:07.120300000", "Nov 17 20:34:58.000000000"),
    ],
)
def test_layouts(name: str, east: str, west: str) -> None:
    """Every layout that llama-swap knows looks as Go writes it."""
    assert (format_time(name, EAST), format_time(name.upper(), WEST)) == (east, west)


def test_all_names_are_tried() -> None:
    """The table above has every layout there is."""
    marks = test_layouts.pytestmark  # type: ignore[attr-defined]

    assert {row[0] for row in marks[0].args[1]} == set(LAYOUTS)


@pytest.mark.parametrize("hour", range(24))
def test_kitchen_clock(hour: int) -> None:
    """A kitchen's clock has no hour 0, and noon is past the morning."""
    shown = format_time("kitchen", GREENWICH.replace(hour=hour))

    assert shown == f"{(hour - 1) % 12 + 1}:00{'AM' if hour < 12 else 'PM'}"


def test_greenwich() -> None:
    """No offset is `Z`, and a fraction keeps all that it has."""
    assert format_time("rfc3339nano", GREENWICH) == "2026-12-31T00:00:00.999999Z"


@pytest.mark.parametrize("name", ["", "unknown"])
def test_unknown(name: str) -> None:
    """What is no layout shows no time."""
    assert format_time(name, EAST) == ""


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (999, "999ns"),
        (1_000, "1µs"),
        (12_345, "12.345µs"),
        (999_999, "999.999µs"),
        (1_000_000, "1ms"),
        (100_000_000, "100ms"),
        (1_500_001, "1.500001ms"),
        (999_999_999, "999.999999ms"),
        (1_000_000_000, "1s"),
        (10_250_000_000, "10.25s"),
        (59_999_999_999, "59.999999999s"),
        (60_000_000_000, "1m0s"),
        (90_500_000_000, "1m30.5s"),
        (3_600_000_000_000, "1h0m0s"),
        (100_000_000_000_001, "27h46m40.000000001s"),
    ],
)
def test_durations(nanoseconds: int, text: str) -> None:
    """Durations look as Go prints them."""
    assert format_duration(nanoseconds) == text


@given(st.floats(min_value=0, max_value=4e9))
@example(1787390997.9999998)
def test_local_time(at: float) -> None:
    """A time in the zone of this machine looks as its layout has it, whole or with its fraction."""
    when = datetime.fromtimestamp(at).astimezone()

    assert local_time(at) == format_time("rfc3339", when)
    assert local_time(at, is_exact=True) == format_time("rfc3339nano", when)
