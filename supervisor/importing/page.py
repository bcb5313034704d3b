"""A config file to be written: its tables, its keys, and the comments that go with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import tomlkit
from tomlkit.items import String, StringType, Trivia

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tomlkit.items import Item

LONGEST_LINE = 100
"""Characters of a list that stays on one line."""


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
    body = tomlkit.document()
    for key, entry in section.entries.items():
        for line in entry.above:
            body.add(tomlkit.comment(line))
        value = item(entry.value)
        if entry.beside and not isinstance(entry.value, Raw):
            value.comment("; ".join(entry.beside))
        else:
            for line in entry.beside:
                body.add(tomlkit.comment(line))
        body.append(key, value)
    header = ".".join(tomlkit.key(part).as_string() for part in section.path)
    beside = f"  # {'; '.join(section.beside)}" if section.beside else ""
    return "".join((*_lines(section.above), f"[{header}]{beside}\n", tomlkit.dumps(body), *_lines(section.below)))


def _lines(comments: Iterable[str]) -> Iterator[str]:
    return (tomlkit.comment(line).as_string() for line in comments)


def item(value: object) -> Item:
    """A value as TOML has it: tables on one line, long lists on several."""
    if isinstance(value, Raw):
        return String(StringType.MLL, str(value), f"\n{value}", Trivia())
    if isinstance(value, tuple | list):
        array = tomlkit.array()
        for each in value:
            array.append(item(each))
        return array.multiline(multiline=len(array.as_string()) > LONGEST_LINE)
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        for key, each in value.items():
            table.append(key, item(each))
        return table
    return tomlkit.item(value)
