"""A place in a config file: its path, the value written there, and the sheet that problems are noted on.

Replaces `${env:NAME}` in the value that is read, never in the one a problem shows: secrets stay out of messages.
Which values are right is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from supervisor.config.problems import Mismatch, Problem, path_of, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VARIABLE = re.compile(r"(\$?)\$\{env:([^}]*)\}")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
NAME_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Sheet:
    """What reading one file needs and gathers."""

    environ: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    """What is odd but does not stop the file."""
    names: dict[str, Place] = field(default_factory=dict)
    """Model ids, aliases and variants, one namespace, each with the place that took it."""


@dataclass(frozen=True, slots=True)
class Place:
    """One value of the file, and how to get to those inside it."""

    written: object
    """As tomllib gives it, `${env:NAME}` still in it; in a YAML file the leaves are scalars with their marks."""
    sheet: Sheet
    parent: Place | None = None
    key: str | int = ""

    @property
    def path(self) -> str:
        return path_of(self.parent.path, self.key) if self.parent else ""

    @property
    def mark(self) -> str:
        """Where it stands in the text, such as `line 3`, as far as values and keys carry that."""
        own = getattr(self.written, "mark", "") or self._mark_of_key
        return own or (self.parent.mark if self.parent else "")

    @property
    def _mark_of_key(self) -> str:
        """That of the table's own key. The one in a path has none, and is not worth a search before anybody asks."""
        table = self.parent.written if self.parent else None
        keys = table if isinstance(table, dict) else ()
        return next((getattr(key, "mark", "") for key in keys if key == self.key), "")

    @property
    def value(self) -> object:
        """What is written, with variables replaced if it is a string; `Mismatch` when one is not set."""
        return expanded(self.written, self.sheet.environ) if isinstance(self.written, str) else self.written

    def entries(self) -> Iterator[tuple[str, Place]]:
        """The keys of a table with their places."""
        if not isinstance(self.written, dict):
            raise Mismatch("a table")
        for key, value in self.written.items():
            yield key, Place(value, self.sheet, self, key)

    def elements(self) -> Iterator[Place]:
        """The places of a list."""
        if not isinstance(self.written, list):
            raise Mismatch("a list")
        for index, value in enumerate(self.written):
            yield Place(value, self.sheet, self, index)

    def child(self, key: str) -> Place:
        """The place of a key that is there, however it spells its dashes."""
        table = cast("dict[str, object]", self.written)
        name = _spelled(key, table)
        assert name is not None
        return Place(table[name], self.sheet, self, name)

    def at(self, *keys: str | int) -> Place:
        """The place that a path leads to; as far as it can be followed."""
        place = self
        for key in keys:
            if isinstance(key, int) and isinstance(place.written, list) and key < len(place.written):
                place = Place(place.written[key], place.sheet, place, key)
            elif isinstance(key, str) and isinstance(place.written, dict):
                name = _spelled(key, place.written)
                if name is None:
                    return place
                place = Place(place.written[name], place.sheet, place, name)
            else:
                return place
        return place

    def refuse(self, expected: str, hint: str = "", *, found: str | None = None) -> None:
        """Note a problem with this value."""
        self.sheet.problems.append(self._problem(expected, hint, found))

    def warn(self, expected: str, hint: str = "", *, found: str | None = None) -> None:
        """Note something odd about this value."""
        self.sheet.warnings.append(self._problem(expected, hint, found))

    def _problem(self, expected: str, hint: str, found: str | None) -> Problem:
        found = shown(self.written) if found is None else found
        return Problem(self.path or "config", expected, found, hint, self.mark)

    def take_name(self, name: str) -> str:
        """Take a name that requests may use; each may be taken once."""
        if not name:
            raise Mismatch("a name that is not empty")
        if CONTROL.search(name):
            raise Mismatch("a name without control characters")
        if len(name) > NAME_LENGTH:
            raise Mismatch(f"a name of at most {NAME_LENGTH} characters")
        if name in self.sheet.names:
            raise Mismatch("a name that nothing else has", f"`{self.sheet.names[name].path}` has it already")
        self.sheet.names[name] = self
        return name


def _spelled(key: str, table: Mapping[str, object]) -> str | None:
    """The key with the dashes that it has in the table."""
    if key in table:
        return key
    return next((name for name in table if name.replace("_", "-") == key.replace("_", "-")), None)


def expanded(text: str, environ: Mapping[str, str]) -> str:
    """The text with every `${env:NAME}` replaced; `$${env:NAME}` stands for itself."""
    if "\0" in text:
        raise Mismatch("text without NUL characters")  # no argv and no environment can carry one
    if "${env:" not in text:
        return text
    return VARIABLE.sub(lambda match: match[0][1:] if match[1] else _looked_up(match[2], environ), text)


def _looked_up(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise Mismatch(f"the environment variable `{name}` to be set", "`$${env:NAME}` keeps the text as it is")
    return environ[name]
