"""The text of a preset file as llama.cpp's router reads it: sections, keys, and what each comment speaks of. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.config.problems import Problem
from supervisor.importing.draft import Note

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "version"
"""A key of the format, not of models."""
UNNAMED = "default"
"""What stands before the first section is a model of this name."""

_HEADER = re.compile(r"\s*\[([^\]]*)\]\s*(?:[;#](.*))?")
_PAIR = re.compile(r"\s*([^=\s]+)\s*=\s*(.*)")
_VALUE = re.compile(r"([^;#]*)(?:[;#](.*))?")


@dataclass(slots=True)
class Line:
    """One key of a section."""

    number: int
    key: str
    value: str
    above: list[str]
    beside: str | None

    @property
    def notes(self) -> list[str]:
        """What is noted at it."""
        return [*self.above, *([self.beside] if self.beside is not None else [])]


@dataclass(slots=True)
class Part:
    """One section."""

    name: str
    lines: list[Line] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    beside: str | None = None

    def as_comments(self) -> list[str]:
        """All of it where it has no place, with its own comments."""
        lines = [*self.above]
        for line in self.lines:
            shown = "…" if "key" in line.key else line.value
            lines += [*line.above, f"{line.key} = {shown}" + (f" ; {line.beside}" if line.beside is not None else "")]
        return lines


@dataclass(frozen=True, slots=True)
class Text:
    """A whole file."""

    heading: list[str]
    """The comments at the top."""
    parts: list[Part]
    below: list[str]
    """The comments at the end."""
    notes: list[Note]
    problems: list[Problem]


def read(text: str) -> Text:
    """Its sections in their order, the comments around them, and what is odd."""
    notes, problems = list[Note](), list[Problem]()
    parts: dict[str, Part] = {UNNAMED: Part(UNNAMED)}
    part, waiting = parts[UNNAMED], list[str]()
    heading, has_begun = list[str](), False
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            heading, waiting = (heading, waiting) if has_begun else ([*heading, *waiting], [])
        elif line.strip()[0] in ";#":
            waiting.append(line.strip()[1:].strip())
        elif header := _HEADER.fullmatch(line):
            name, beside = header[1].strip(), header[2]
            if name in parts and parts[name].lines:
                notes.append(Note(f"[{name}]", f"is there again in line {number}, which replaces the first"))
                waiting = [*parts[name].as_comments(), *waiting]
            part = Part(name, above=waiting, beside=beside and beside.strip())
            parts.pop(name, None)
            parts[name], waiting, has_begun = part, [], True
        elif pair := _PAIR.fullmatch(line):
            value = _VALUE.match(pair[2])
            assert value is not None
            beside = value[2]
            part.lines.append(Line(number, pair[1], value[1].strip(), waiting, beside and beside.strip()))
            notes += _cut(part.lines[-1], pair[2])
            waiting, has_begun = [], True
        else:
            problems.append(Problem(f"line {number}", "`key = value`, a [section] or a comment", line.strip()))
    if all(line.key == VERSION for line in parts[UNNAMED].lines):
        unnamed = parts.pop(UNNAMED)
        heading = [*heading, *unnamed.above, *(note for line in unnamed.lines for note in line.notes)]
    return Text(heading, list(parts.values()), waiting, notes, problems)


def _cut(line: Line, written_value: str) -> Iterator[Note]:
    """What a router takes for a comment, though its author hardly meant it."""
    if line.beside is not None and line.value and not written_value[len(line.value) :].startswith((" ", "\t")):
        message = f"the router takes what follows `{line.value}` for a comment, and so does this"
        yield Note(f"line {line.number}", message)
