"""The kinds of values a config file has: how each is read, and how an editor checks it.

A reader returns the value or raises `Mismatch`; `Kind.accepted` makes a problem of that, so
that one bad value does not hide the next. Which keys exist is not known here.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from supervisor.config.problems import Mismatch, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.config.place import Place
    from supervisor.config.values import Json, Option, Scalar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Schema = dict[str, object]
LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """A kind of value."""

    read: Callable[[Place], T_co]
    json: Schema
    """What JSON Schema says about it."""

    def accepted(self, place: Place) -> tuple[T_co, ...]:
        """The value in a tuple; an empty one when it was refused, with the problem noted."""
        try:
            return (self.read(place),)
        except Mismatch as mismatch:
            place.refuse(mismatch.expected, mismatch.hint)
            return ()


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a table: the kind of its value, what it is for, and the default as one would write it."""

    kind: Kind[object]
    description: str
    default: object = None

    @property
    def json(self) -> Schema:
        default = {} if self.default is None else {"default": self.default}
        return {"description": self.description, **self.kind.json, **default}


def of(convert: Callable[[object], T], json: Schema) -> Kind[T]:
    """A kind whose reader needs no more than the value."""
    return Kind(lambda place: convert(place.value), json)


def string(value: object) -> str:
    if isinstance(value, str):
        return value
    raise Mismatch("a string")


def filled(value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise Mismatch("a string that is not empty")


def boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise Mismatch("true or false")


def scalar(value: object) -> Scalar:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -LARGEST - 1 <= value <= LARGEST:
        return value  # TOML's integers have 64 bits; Python would read more and then refuse to print them
    if isinstance(value, float) and math.isfinite(value):
        return value  # NaN is not even equal to itself: every reload would see a change
    raise Mismatch("a string, a number, true or false")


def integer(minimum: int) -> Kind[int]:
    """An integer; `true` is none, although Python says so."""

    def convert(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= LARGEST:
            return value
        raise Mismatch(f"an integer of at least {minimum}")

    return of(convert, {"type": "integer", "minimum": minimum})


def one_of(values: Mapping[str, T]) -> Kind[T]:
    """One of a few words."""
    expected = "one of " + ", ".join(f'"{word}"' for word in values)

    def convert(value: object) -> T:
        if isinstance(value, str) and value in values:
            return values[value]
        raise Mismatch(expected)

    return of(convert, {"enum": list(values)})


def list_of(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    return Kind(
        lambda place: tuple(value for each in place.elements() for value in kind.accepted(each)),
        {"type": "array", "items": kind.json},
    )


def plain(place: Place) -> str:
    """The name of an entry as it is written."""
    return str(place.key)


def dashed(place: Place) -> str:
    """The name of a llama-server option, which has dashes on a command line."""
    return str(place.key).replace("_", "-")


def table_of(kind: Kind[T], named: Callable[[Place], str] = plain) -> Kind[dict[str, T]]:
    """A table whose keys are the user's; `named` checks one, or refuses it with a `Mismatch`."""

    def read(place: Place) -> dict[str, T]:
        table: dict[str, T] = {}
        for key, child in place.entries():
            try:
                name = named(child)
                if name in table:
                    raise Mismatch("one spelling of a key", f"`{name}` is there already")
            except Mismatch as mismatch:
                child.refuse(mismatch.expected, mismatch.hint, found=shown(key))
                name = key
            table.update((name, value) for value in kind.accepted(child))
        return table

    return Kind(read, {"type": "object", "additionalProperties": kind.json})


def record(keys: Mapping[str, Key], rest: Kind[object] | None = None) -> Kind[dict[str, object]]:
    """A table with keys of ours, spelled with underscores or dashes; any other key is a `rest` among `options`."""

    def read(place: Place) -> dict[str, object]:
        fields: dict[str, object] = {}
        options: dict[str, object] = {}
        seen: set[str] = set()
        for name, child in place.entries():
            own, option = name.replace("-", "_"), name.replace("_", "-")
            if option in seen:
                child.refuse("one spelling of a key", f"`{option}` is there already", found=name)
            elif own in keys:
                fields.update((own, value) for value in keys[own].kind.accepted(child))
            elif rest:
                options.update((option, value) for value in rest.accepted(child))
            else:
                _refuse_unknown(child, own, keys)
            seen.add(option)
        return fields | {"options": options} if rest else fields

    return Kind(read, _record_schema(keys, rest))


def _refuse_unknown(place: Place, name: str, keys: Mapping[str, Key]) -> None:
    table = f"[{place.parent.path}]" if place.parent and place.parent.path else "this file"
    meant = nearest(name, keys)
    hint = f"did you mean `{meant}`?" if meant else f"the keys are {', '.join(keys)}"
    place.refuse(f"a key of {table}", hint, found=str(place.key))


def _record_schema(keys: Mapping[str, Key], rest: Kind[object] | None) -> Schema:
    """Editors complete `properties`; the spelling with dashes is valid too, but not offered."""
    dashes = {f"^{name.replace('_', '-')}$": key.kind.json for name, key in keys.items() if "_" in name}
    return {
        "type": "object",
        "properties": {name: key.json for name, key in keys.items()},
        **({"patternProperties": dashes} if dashes else {}),
        "additionalProperties": rest.json if rest else False,
    }


def requiring(kind: Kind[dict[str, object]], *names: str) -> Kind[dict[str, object]]:
    """The same kind of table, with keys that must be there."""

    def read(place: Place) -> dict[str, object]:
        fields = kind.read(place)
        for name in names:
            child = place.at(name)
            if name not in fields and (child is place or getattr(child.written, "is_null", False)):
                there = ", ".join(place.written) if isinstance(place.written, dict) else ""
                place.refuse(f"the key `{name}`", found=there)
        return fields

    return Kind(read, {**kind.json, "required": list(names)})


def not_empty(kind: Kind[T]) -> Kind[T]:
    """The same kind of list or table, with something in it."""

    def read(place: Place) -> T:
        if isinstance(place.written, list | dict) and not place.written:
            raise Mismatch("at least one entry")
        return kind.read(place)

    least = "minProperties" if kind.json.get("type") == "object" else "minItems"
    return Kind(read, {**kind.json, least: 1})


def offering(kind: Kind[T], properties: Mapping[str, Schema]) -> Kind[T]:
    """The same kind, with keys that an editor may offer besides those we know."""
    known = kind.json.get("properties")
    offered = {**(known if isinstance(known, dict) else {}), **properties}
    return replace(kind, json={**kind.json, "properties": offered})


def refused(expected: str, hint: str) -> Kind[object]:
    """A key that has no place here, though it has one elsewhere."""

    def read(place: Place) -> object:
        raise Mismatch(expected, hint)

    return Kind(read, {"not": {}})


def option_value(place: Place) -> Option:
    """A scalar, or a list of them for an option that is repeated."""
    if isinstance(place.written, list):
        return tuple(value for each in place.elements() for value in SCALAR.accepted(each))
    if isinstance(place.written, dict):
        raise Mismatch("a string, a number, true, false or a list of them")
    return scalar(place.value)


def json_value(place: Place) -> Json:
    """Anything a request's JSON body may hold."""
    if isinstance(place.written, list):
        return LIST_OF_JSON.read(place)
    if isinstance(place.written, dict):
        return TABLE_OF_JSON.read(place)
    return scalar(place.value)


def command(place: Place) -> tuple[str, ...]:
    """A command line, split the way a shell does but run without one; variables never split a word."""
    parts = _split(place.written) if isinstance(place.written, str) else place.written
    if not isinstance(parts, list) or not parts:
        raise Mismatch("a command, as a string or a list of strings")
    return STRINGS.read(replace(place, written=parts))


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text.replace("\\\n", ""))
    except ValueError:
        raise Mismatch("a command whose quotes are closed") from None


STRING = of(string, {"type": "string"})
FILLED = of(filled, {"type": "string", "minLength": 1})
BOOLEAN = of(boolean, {"type": "boolean"})
SCALAR = of(scalar, {"type": ["string", "number", "boolean"]})
STRINGS = list_of(STRING)
OPTION: Kind[Option] = Kind(option_value, {"$ref": "#/$defs/option"})
JSON: Kind[Json] = Kind(json_value, {})
LIST_OF_JSON = list_of(JSON)
TABLE_OF_JSON = table_of(JSON)
COMMAND = Kind(command, {"anyOf": [{"type": "string"}, STRINGS.json]})
