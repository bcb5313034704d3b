"""Questions to the record."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import InvalidRequest
from supervisor.record.queries import Query, histogram, query_of


def test_usual() -> None:
    """Without parameters, the newest 25 of all models."""
    assert query_of([]) == Query()
    assert Query().where() == ("", [])
    assert Query().order() == " ORDER BY id DESC"


def test_everything() -> None:
    """Every parameter narrows it; a plus sign may have become a space, and whole seconds are in to their end."""
    query = query_of(
        [
            *(("model", "a"), ("model", "b"), ("start", "2026-08-22T09:29:57+00:00")),
            *(("end", "2026-08-22T09:29:57 00:00"), ("min_id", "3"), ("max_id", "9")),
            *(("limit", "999"), ("page", "2"), ("sort", "gen_speed"), ("order", "ASC")),
        ]
    )
    where, values = query.where()

    assert where == " WHERE model IN (?, ?) AND timestamp >= ? AND timestamp <= ? AND id >= ? AND id <= ?"
    assert values == ["a", "b", 1787390997.0, 1787390997.999999, 3, 9]
    assert query.order() == " ORDER BY tokens_per_second ASC, id ASC"
    assert (query.limit, query.page) == (999, 2)


@pytest.mark.parametrize(
    "given",
    [
        {"min_id": "0"},
        {"max_id": "0"},
        {"min_id": "9", "max_id": "2"},
        {"start": "2026-02-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"},
    ],
)
def test_ranges_that_nothing_is_in(given: dict[str, str]) -> None:
    """Numbers begin with 1, and a range that ends before it begins is a mistake, not an empty page."""
    with pytest.raises(InvalidRequest):
        query_of(list(given.items()))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("limit", "0", "`limit`: expected a whole number from 1 to 999, got `0`"),
        ("limit", "1000", "`limit`: expected a whole number from 1 to 999, got `1000`"),
        ("page", "0", "`page`: expected a whole number from 1 on, got `0`"),
        ("page", "9" * 40, f"`page`: expected a whole number from 1 on, got `{'9' * 40}`"),
        ("min_id", "-1", "`min_id`: expected a whole number from 1 on, got `-1`"),
        ("max_id", "²", "`max_id`: expected a whole number from 1 on, got `²`"),
        (
            "start",
            "yesterday",
            "`start`: expected a time as RFC 3339 has it, such as 2026-08-22T09:29:57Z, got `yesterday`",
        ),
        ("end", "2026-08-22T09:29:57", "`end`: expected a time as RFC 3339 has it"),
        ("order", "up", "`order`: expected asc or desc, got `up`"),
    ],
)
def test_refused(name: str, value: str, message: str) -> None:
    """What cannot be understood is named, with what was expected."""
    with pytest.raises(InvalidRequest) as caught:
        query_of([(name, value)])

    assert caught.value.message.startswith(message)


def test_unknown_order() -> None:
    """A column that is none is refused with the nearest one: it becomes a part of SQL."""
    with pytest.raises(InvalidRequest) as caught:
        query_of([("sort", "gen_sped; DROP TABLE activity")])
    with pytest.raises(InvalidRequest) as close:
        query_of([("sort", "gen_sped")])

    assert caught.value.message.startswith("`sort`: expected id, time,")
    assert close.value.hint == "did you mean `gen_speed`?"


def test_histogram() -> None:
    """Between 5 and 20 bins as Sturges says; percentiles lie between values."""
    few = histogram([1.0, 2.0, 3.0, 11.0])
    many = histogram([float(value) for value in range(1, 100_001)])

    assert few is not None
    assert few.as_json() == {
        "bins": (2, 1, 0, 0, 1),
        "min": 1.0,
        "max": 11.0,
        "binSize": 2.0,
        "p50": 2.5,
        "p95": pytest.approx(9.8),
        "p99": pytest.approx(10.76),
    }
    assert many is not None
    assert len(many.bins) == 18
    assert sum(many.bins) == 100_000


@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=300).map(sorted))
def test_bins(values: list[float]) -> None:
    """Every value is in the bin that it belongs to; the largest is in the last."""
    spread = histogram(values)

    assert spread is not None
    assert sum(spread.bins) == len(values)
    if spread.bin_size:
        places = Counter(min(int((value - values[0]) / spread.bin_size), len(spread.bins) - 1) for value in values)
        assert {place: count for place, count in enumerate(spread.bins) if count} == places


def test_histogram_of_one_value() -> None:
    """One bin where all are equal; none of nothing."""
    one = histogram([7.0, 7.0])

    assert one is not None
    assert (one.bins, one.p50, one.p99) == ((2,), 7.0, 7.0)
    assert histogram([]) is None
