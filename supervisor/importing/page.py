"""A config file to be written: its tables, its keys, and the comments that go with them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tomlkit
from tomlkit.items import String, StringType, Trivia

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tomlkit.items import Item

LONGEST_LINE = 100
"""Characters of a list or a table that stays on one line."""

_PLAIN = re.compile(r"[^'\x00-\x1f\x7f]*")
"""What may stand between single quotes."""


class Raw(str):
    """Text whose lines and backslashes stay as they are: a command of several lines."""

    __slots__ = ()


@dataclass(slots=True)
class Entry:
    """One key."""

    value: object
    above: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Section:
    """One table with a header of its own."""

    path: tuple[str, ...]
    entries: dict[str, Entry] = field(default_factory=dict)
    above: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, path: tuple[str, ...], values: Mapping[str, object]) -> Section:
        return cls(path, {key: Entry(value) for key, value in values.items()})


@dataclass(slots=True)
class Page:
    """The whole file."""

    above: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    below: list[str] = field(default_factory=list)

    def section(self, path: tuple[str, ...]) -> Section | None:
        return next((section for section in self.sections if section.path == path), None)

    def render(self) -> str:
        """The text of the file."""
        parts = ["".join(_lines(self.above)), *map(_rendered, self.sections), "".join(_lines(self.below))]
        return "\n".join(filter(None, parts))


def _rendered(section: Section) -> str:
    header = _header(section.path, "; ".join(section.beside))
    tables = {key: entry for key, entry in section.entries.items() if _is_long_table(entry.value)}
    keys = {key: entry for key, entry in section.entries.items() if key not in tables}
    body = "".join(_keyed(key, entry) for key, entry in keys.items())
    further = "".join(_table((*section.path, key), entry) for key, entry in tables.items())
    return "".join((*_lines(section.above), header, body, further, *_lines(section.below)))


def _table(path: tuple[str, ...], entry: Entry) -> str:
    """A key whose value is too long for one line, as a table of its own."""
    assert isinstance(entry.value, dict)
    body = "".join(_keyed(key, Entry(value)) for key, value in entry.value.items())
    return "".join(("\n", *_lines(entry.above), _header(path, "; ".join(entry.beside)), body))


def _header(path: tuple[str, ...], beside: str) -> str:
    return f"[{'.'.join(tomlkit.key(part).as_string() for part in path)}]{_beside(beside)}\n"


def _keyed(key: str, entry: Entry) -> str:
    value = f"{tomlkit.key(key).as_string()} = {item(entry.value).as_string()}"
    if isinstance(entry.value, Raw):
        return "".join((*_lines([*entry.above, *entry.beside]), value, "\n"))
    return "".join((*_lines(entry.above), value, _beside("; ".join(entry.beside)), "\n"))


def _lines(comments: Iterable[str]) -> Iterator[str]:
    return (f"{_comment(line)}\n" for line in comments)


def _beside(text: str) -> str:
    return f"  {_comment(text.strip())}" if text else ""


def _comment(text: str) -> str:
    """A line of it; rulers of `#` stay whole."""
    return f"#{text}" if text.startswith("#") else f"# {text}".rstrip()


def _is_long_table(value: object) -> bool:
    return isinstance(value, dict) and len(item(value).as_string()) > LONGEST_LINE


def item(value: object) -> Item:
    """A value as TOML has it: tables on one line, long lists on several, text as it would be typed."""
    if isinstance(value, Raw):
        return String(StringType.MLL, str(value), f"\n{value}", Trivia())
    if isinstance(value, str):
        is_odd = '"' in value or "\\" in value
        return tomlkit.string(value, literal=is_odd and _PLAIN.fullmatch(value) is not None)
    if isinstance(value, tuple | list):
        array = tomlkit.array()
        for each in value:
            array.append(item(each))
        return array.multiline(multiline=len(array.as_string()) > LONGEST_LINE)
    if isinstance(value, dict):
        pairs = (f"{tomlkit.key(key).as_string()} = {item(each).as_string()}" for key, each in value.items())
        return tomlkit.value(f"{{ {', '.join(pairs)} }}" if value else "{}")
    return tomlkit.item(value)
