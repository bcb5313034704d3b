"""Environment variables that stay references: read with a mark in the place of each value, written as `${env:NAME}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_BEGIN, _END = "\ue010", "\ue011"
"""Of the private use area: no text has them by chance."""
_MARK = re.compile(f"{_BEGIN}([^{_END}]*){_END}")
_LITERAL = re.compile(r"\$\{env:")


@dataclass(frozen=True, slots=True)
class Marked(Mapping[str, str]):
    """An environment in which some variables have a mark for a value."""

    environ: Mapping[str, str]
    names: Collection[str]

    def __getitem__(self, name: str) -> str:
        value = self.environ[name]  # one that is not set stays so
        return f"{_BEGIN}{name}{_END}" if name in self.names else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.environ)

    def __len__(self) -> int:
        return len(self.environ)


def written(value: object) -> object:
    """A value as models.toml writes it: marks are references, and what would be one by chance is none."""
    if isinstance(value, str):
        text = _MARK.sub(lambda match: f"${{env:{match[1]}}}", _LITERAL.sub("$${env:", value))
        return type(value)(text)
    if isinstance(value, tuple | list):
        return [written(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): written(each) for key, each in value.items()}
    return value


def unmarked(text: str, environ: Mapping[str, str]) -> str:
    """The text with its values."""
    return _MARK.sub(lambda match: environ[match[1]], text)


def has_mark(text: str) -> bool:
    return _BEGIN in text
