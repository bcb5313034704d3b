"""Questions to the record: which rows, in which order, and how speeds are spread. Pure; SQL is text here."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from supervisor.config.problems import nearest
from supervisor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

SORTED_BY = {
    "id": "id",
    "time": "timestamp",
    "model": "model",
    "req_path": "req_path",
    "resp_status_code": "resp_status_code",
    "resp_content_type": "resp_content_type",
    "cached": "cache_tokens",
    "prompt": "input_tokens",
    "generated": "output_tokens",
    "drafted": "draft_tokens",
    "prompt_speed": "prompt_per_second",
    "gen_speed": "tokens_per_second",
    "duration": "duration_ms",
}
"""What a list may be sorted by, and the column of each."""
MOST_ROWS = 999
USUAL_ROWS = 25
_MOST_PAGES = 10**12
_A_TIME = "a time as RFC 3339 has it, such as 2026-08-22T09:29:57Z"
_A_NUMBER = "a whole number from 1 on"
_BINS = (5, 20)


@dataclass(frozen=True, slots=True)
class Query:
    """One page of rows; times are seconds since the epoch, and both ends of every range are in it."""

    models: tuple[str, ...] = ()
    """Any of them; empty: all."""
    start: float | None = None
    end: float | None = None
    min_id: int | None = None
    max_id: int | None = None
    limit: int = USUAL_ROWS
    page: int = 1
    sort: str = "id"
    is_descending: bool = True

    def where(self) -> tuple[str, list[object]]:
        """The condition, and what its question marks stand for."""
        terms, values = [], list[object](self.models)
        if self.models:
            terms.append(f"model IN ({', '.join('?' * len(self.models))})")
        for term, value in (
            ("timestamp >= ?", self.start),
            ("timestamp <= ?", self.end),
            ("id >= ?", self.min_id),
            ("id <= ?", self.max_id),
        ):
            if value is not None:
                terms.append(term)
                values.append(value)
        return (f" WHERE {' AND '.join(terms)}" if terms else ""), values

    def order(self) -> str:
        """Rows that are equal otherwise come by their numbers."""
        direction = "DESC" if self.is_descending else "ASC"
        column = SORTED_BY[self.sort]
        return f" ORDER BY {column} {direction}" + (f", id {direction}" if column != "id" else "")


def query_of(given: Sequence[tuple[str, str]]) -> Query:
    """The page that the parameters of a URL ask for; raises `InvalidRequest`."""
    last = dict(given)
    order = last.get("order", "").lower() or "desc"
    if order not in {"asc", "desc"}:
        raise InvalidRequest(f"`order`: expected asc or desc, got `{order[:50]}`")
    sort = last.get("sort") or "id"
    if sort not in SORTED_BY:
        meant = nearest(sort, SORTED_BY)
        raise InvalidRequest(
            f"`sort`: expected {', '.join(SORTED_BY)}, got `{sort[:50]}`",
            hint=f"did you mean `{meant}`?" if meant else "",
        )
    start, end = (_of(last, name, _time, _A_TIME) for name in ("start", "end"))
    least, most = (_of(last, name, lambda text: _whole(text, 1), _A_NUMBER) for name in ("min_id", "max_id"))
    _check_order("min_id", least, "max_id", most)
    _check_order("start", start, "end", end)
    return Query(
        models=models_of(given),
        start=start,
        # Times are shown in whole seconds: all that is shown as this second is in it.
        end=end + 0.999_999 if end is not None and end.is_integer() else end,
        min_id=least,
        max_id=most,
        limit=_of(last, "limit", lambda text: _whole(text, 1, MOST_ROWS), f"a whole number from 1 to {MOST_ROWS}")
        or USUAL_ROWS,
        page=_of(last, "page", lambda text: _whole(text, 1, _MOST_PAGES), _A_NUMBER) or 1,
        sort=sort,
        is_descending=order == "desc",
    )


def _check_order(low_name: str, low: float | None, high_name: str, high: float | None) -> None:
    if low is not None and high is not None and low > high:
        raise InvalidRequest(f"`{low_name}` lies behind `{high_name}`, so nothing is between them")


def models_of(given: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The models that the parameters of a URL name."""
    return tuple(value for name, value in given if name == "model" and value)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values are spread, in bins of equal width."""

    bins: tuple[int, ...]
    min: float
    max: float
    bin_size: float
    p50: float
    p95: float
    p99: float

    def as_json(self) -> dict[str, object]:
        """As llama-swap's page reads it."""
        return {
            "bins": self.bins,
            "min": self.min,
            "max": self.max,
            "binSize": self.bin_size,
            "p50": self.p50,
            "p95": self.p95,
            "p99": self.p99,
        }


def histogram(values: Sequence[float]) -> Histogram | None:
    """Of values in ascending order; None of none. As many bins as Sturges' rule says, between 5 and 20."""
    if not values:
        return None
    low, high = values[0], values[-1]
    if low == high:
        return Histogram((len(values),), low, high, 0.0, low, low, low)
    count = min(max(math.ceil(math.log2(len(values))) + 1, _BINS[0]), _BINS[1])
    width = (high - low) / count
    ends = [bisect_right(values, number, key=lambda value: int((value - low) / width)) for number in range(count - 1)]
    bins = [end - start for start, end in pairwise((0, *ends, len(values)))]  # the last has the largest, too
    p50, p95, p99 = (_percentile(values, share) for share in (0.5, 0.95, 0.99))
    return Histogram(tuple(bins), low, high, width, p50, p95, p99)


def _percentile(values: Sequence[float], share: float) -> float:
    """Between two values, in proportion."""
    place = share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def time_of(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time; raises `ValueError`."""
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("it has no time zone")
    return when.timestamp()


def _of(given: Mapping[str, str], name: str, read: Callable[[str], T], expected: str) -> T | None:
    text = given.get(name, "")
    if not text:
        return None
    try:
        return read(text)
    except (ValueError, OverflowError) as exc:
        raise InvalidRequest(f"`{name}`: expected {expected}, got `{text[:50]}`") from exc


def _time(text: str) -> float:
    return time_of(text.replace(" ", "+"))  # a plus sign in a URL means a space


def _whole(text: str, least: int, most: int = 2**53) -> int:
    value = int(text) if text.isascii() and text.isdecimal() else -1
    if not least <= value <= most:
        raise ValueError(text)
    return value
