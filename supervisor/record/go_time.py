"""Times as Go's `time` package writes them, by the names of its layouts in small letters, and durations."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# strftime would follow the locale; Go does not.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def format_time(name: str, when: datetime) -> str:
    """A time that knows its zone, in the layout of this name; empty if no layout is called so."""
    write = LAYOUTS.get(name.lower())
    return write(when) if write is not None else ""


def local_time(at: float, *, is_exact: bool = False) -> str:
    """Seconds since the epoch as RFC 3339 has them, in the zone of this machine; in whole seconds, or `is_exact`."""
    more, microsecond = divmod(round(at % 1 * 1e6), 1_000_000)
    start, zone = _second(int(at) + more)
    return f"{start}{_fraction(microsecond)}{zone}" if is_exact else start + zone


@lru_cache(64)  # there may be many requests in one
def _second(second: int) -> tuple[str, str]:
    text = _rfc3339(datetime.fromtimestamp(second).astimezone())
    return text[:19], text[19:]


def format_duration(nanoseconds: int) -> str:
    """`12.5µs`, `3.25ms`, `1m0.5s`, …: the largest unit that leaves something before the point."""
    if nanoseconds < 1_000:
        return f"{nanoseconds}ns" if nanoseconds else "0s"
    if nanoseconds < 1_000_000:
        return f"{_short(nanoseconds / 1e3, 3)}µs"
    if nanoseconds < 1_000_000_000:
        return f"{_short(nanoseconds / 1e6, 6)}ms"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    whole, fraction = divmod(rest, 1_000_000_000)
    seconds = f"{whole}.{fraction:09}".rstrip("0").rstrip(".")
    if not minutes:
        return f"{seconds}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s"


def _short(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _clock(when: datetime) -> str:
    return f"{when:%H:%M:%S}"


def _date(when: datetime) -> str:
    return f"{when.day:02} {_month(when)} {when.year:04}"


def _short_date(when: datetime) -> str:
    return f"{when.day:02} {_month(when)} {when.year % 100:02}"


def _day(when: datetime) -> str:
    return _DAYS[when.weekday()][:3]


def _month(when: datetime) -> str:
    return _MONTHS[when.month - 1]


def _stamp(when: datetime) -> str:
    return f"{_month(when)} {when.day:2} {_clock(when)}"


def _rfc3339(when: datetime, fraction: str = "") -> str:
    text = when.isoformat(timespec="seconds")  # several times as fast as strftime
    zone = text[19:25]
    return f"{text[:19]}{fraction}{'Z' if zone in {'', '+00:00'} else zone}"


def _fraction(microsecond: int) -> str:
    """Without the zeros at its end."""
    return f".{microsecond:06}".rstrip("0").rstrip(".")


def _kitchen(when: datetime) -> str:
    return f"{when.hour % 12 or 12}:{when.minute:02}{'AM' if when.hour < 12 else 'PM'}"


LAYOUTS: Final[Mapping[str, Callable[[datetime], str]]] = {
    "ansic": lambda when: f"{_day(when)} {_stamp(when)} {when.year:04}",
    "unixdate": lambda when: f"{_day(when)} {_stamp(when)} {when:%Z} {when.year:04}",
    "rubydate": lambda when: f"{_day(when)} {_month(when)} {when.day:02} {_clock(when)} {when:%z} {when.year:04}",
    "rfc822": lambda when: f"{_short_date(when)} {when:%H:%M} {when:%Z}",
    "rfc822z": lambda when: f"{_short_date(when)} {when:%H:%M} {when:%z}",
    "rfc850": lambda when: f"{_DAYS[when.weekday()]}, {_short_date(when).replace(' ', '-')} {_clock(when)} {when:%Z}",
    "rfc1123": lambda when: f"{_day(when)}, {_date(when)} {_clock(when)} {when:%Z}",
    "rfc1123z": lambda when: f"{_day(when)}, {_date(when)} {_clock(when)} {when:%z}",
    "rfc3339": _rfc3339,
    "rfc3339nano": lambda when: _rfc3339(when, _fraction(when.microsecond)),
    "kitchen": _kitchen,
    "stamp": _stamp,
    "stampmilli": lambda when: f"{_stamp(when)}.{when.microsecond // 1000:03}",
    "stampmicro": lambda when: f"{_stamp(when)}.{when.microsecond:06}",
    "stampnano": lambda when: f"{_stamp(when)}.{when.microsecond:06}000",
}
EXACT: Final = frozenset(("rfc3339nano", "stampmilli", "stampmicro", "stampnano"))
"""The layouts that show less than a second."""
