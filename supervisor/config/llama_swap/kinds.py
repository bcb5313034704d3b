"""The kinds of values in a llama-swap file: how a scalar is read as text, a number, a truth, and a mapping as fields.

As in Go, text may be any scalar, and null leaves the default. A key nobody knows is a warning: llama-swap is silent.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from supervisor.config.kinds import LARGEST, Kind, list_of
from supervisor.config.llama_swap.scalars import Scalar
from supervisor.config.patterns import pattern
from supervisor.config.problems import Mismatch, nearest
from supervisor.config.quantities import base_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.config.place import Place
    from supervisor.config.values import Json

T = TypeVar("T")

_TRUE = ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON")
_FALSE = ("n", "N", "no", "No", "NO", "off", "Off", "OFF")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Key:
    """A key: the kind of its value, how models.toml says the same, and the default as one would write it."""

    kind: Kind[object]
    toml: str
    """Empty where there is no such thing."""
    default: str = ""
    note: str = ""


def of(convert: Callable[[Place], T]) -> Kind[T]:
    """A kind of which no editor needs to know."""
    return Kind(convert, {})


def fields_of(keys: Mapping[str, Key]) -> Kind[dict[str, object]]:
    """A mapping with keys of llama-swap's, exactly as spelled; null is an empty one."""

    def read(place: Place) -> dict[str, object]:
        if is_null(place):
            return {}
        if not isinstance(place.written, dict):
            raise Mismatch("a mapping")
        fields: dict[str, object] = {}
        for name, child in place.entries():
            if name not in keys:
                _warn_unknown(child, name, keys)
            elif not is_null(child):
                fields.update((str(name), value) for value in keys[name].kind.accepted(child))
        return fields

    return of(read)


def _warn_unknown(place: Place, name: str, keys: Mapping[str, Key]) -> None:
    is_top = place.parent is None or place.parent.parent is None
    if is_top and name.startswith(("x-", ".")):
        return  # where people keep what their anchors name
    meant = nearest(name, keys)
    hint = f"did you mean `{meant}`?" if meant else "it is ignored"
    place.warn("a key that llama-swap knows", hint, found=str(name))


def is_null(place: Place) -> bool:
    return isinstance(place.written, Scalar) and place.written.is_null


def _scalar(place: Place, expected: str) -> Scalar:
    if isinstance(place.written, Scalar):
        return place.written
    raise Mismatch(expected)


def text(place: Place) -> str:
    """Any scalar as it is spelled; null is empty."""
    scalar = _scalar(place, "text")
    return "" if scalar.is_null else scalar.text


def filled(place: Place) -> str:
    if value := text(place).strip():
        return value
    raise Mismatch("text that is not empty")


def boolean(place: Place) -> bool:
    scalar = _scalar(place, "true or false")
    if isinstance(scalar.value, bool):
        return scalar.value
    if scalar.text in _TRUE or scalar.text in _FALSE:
        return scalar.text in _TRUE
    raise Mismatch("true or false")


def integer(minimum: int | None = None) -> Kind[int]:
    """An integer; what is behind a decimal point is dropped, as Go does."""
    expected = "an integer" if minimum is None else f"an integer of at least {minimum}"

    def convert(place: Place) -> int:
        value = _scalar(place, expected).value
        if isinstance(value, float) and math.isfinite(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
            raise Mismatch(expected)
        if minimum is not None and value < minimum:
            raise Mismatch(expected)
        return value

    return of(convert)


def word(values: Mapping[str, T]) -> Kind[T]:
    """One of a few words."""
    expected = "one of " + ", ".join(values)

    def convert(place: Place) -> T:
        value = text(place)
        if value in values:
            return values[value]
        raise Mismatch(expected)

    return of(convert)


def word_or_else(values: Mapping[str, T], otherwise: T, consequence: str) -> Kind[T]:
    """One of a few words in any case; another one is a warning."""

    def convert(place: Place) -> T:
        value = text(place).strip().lower()
        if value not in values:
            place.warn("one of " + ", ".join(filter(None, values)), consequence)
        return values.get(value, otherwise)

    return of(convert)


def duration(minimum: float) -> Kind[float]:
    """Seconds, from text such as `5s` and `1m30s`; a bare number is none."""
    expected = f"a duration such as 5s, of at least {minimum:g}s"

    def convert(place: Place) -> float:
        value = text(place)
        if not re.fullmatch(rf"\+?(?:{_DURATION.pattern})+", value):
            raise Mismatch(expected)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(value))
        if not minimum <= seconds <= LARGEST / 1e9:
            raise Mismatch(expected)
        return seconds

    return of(convert)


def json(place: Place) -> Json:
    """Anything JSON can say."""
    if isinstance(place.written, dict):
        return {str(key): value for key, child in place.entries() for value in JSON.accepted(child)}
    if isinstance(place.written, list):
        return LIST_OF_JSON.read(place)
    value = _scalar(place, "a value").value
    if isinstance(value, float) and not math.isfinite(value):
        raise Mismatch("a value that JSON can say")
    return value


def mapping_of(kind: Kind[T]) -> Kind[dict[str, T]]:
    """A mapping whose keys are the user's; null is an empty one."""

    def read(place: Place) -> dict[str, T]:
        if is_null(place):
            return {}
        if not isinstance(place.written, dict):
            raise Mismatch("a mapping")
        return {str(key): value for key, child in place.entries() for value in kind.accepted(child)}

    return of(read)


def command(place: Place) -> tuple[str, ...]:
    """The words of a command line, split as a shell does but run without one; lines with a `#` first are left out."""
    try:
        return tuple(shlex.split(_joined(text(place))))
    except ValueError:
        raise Mismatch("a command whose quotes are closed") from None


def _joined(text: str) -> str:
    """Without comments, which macros may have brought, and without a backslash at the end of a line."""
    lines = [line for line in text.split("\n") if not line.strip().startswith("#")]
    return "\n".join(line.strip()[:-1] if line.strip().endswith("\\") else line for line in lines)


def needed_command(place: Place) -> tuple[str, ...]:
    if parts := command(place):
        return parts
    raise Mismatch("a command")


def url(place: Place) -> str:
    return base_url(text(place))


def regex(place: Place) -> str:
    return pattern(text(place))


TEXT = of(text)
FILLED = of(filled)
BOOLEAN = of(boolean)
JSON: Kind[Json] = of(json)
LIST_OF_JSON = list_of(JSON)
TEXTS = list_of(TEXT)
TABLE = mapping_of(JSON)
URL = of(url)
COMMAND = of(command)
NEEDED_COMMAND = of(needed_command)
PATTERNS = list_of(of(regex))
