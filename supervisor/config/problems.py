"""What is wrong with a config file: every problem with its path, reported at once.

Knows how a problem is worded and how a value is shown. What is right, and where the file came from, is not known here.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
SHOWN_LENGTH = 60
SHOWN_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to change in the file before it can be used."""

    path: str
    """The key, such as `models.qwen.ttl`, or a place in the text, such as `line 3, column 5`."""
    expected: str
    found: str = ""
    hint: str = ""
    mark: str = ""
    """Where that stands in the text, such as `line 3`, if the path does not say so."""

    def __str__(self) -> str:
        mark = f" ({self.mark})" if self.mark else ""
        found = f", found `{self.found}`" if self.found else ""
        hint = f"; hint: {self.hint}" if self.hint else ""
        return f"{self.path}{mark}: expected {self.expected}{found}{hint}"


class Mismatch(ValueError):
    """Raised when a value is not what was expected; becomes a `Problem` where its place is known."""

    def __init__(self, expected: str, hint: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.hint = hint


class ConfigInvalid(Exception):
    """Raised when a config file cannot be used; it names every problem, not only the first."""

    def __init__(
        self, problems: Sequence[Problem], *, source: Path | None = None, warnings: Sequence[Problem] = ()
    ) -> None:
        self.problems = tuple(problems)
        self.source = source
        """The file, where there is one."""
        self.warnings = tuple(warnings)
        """What is odd besides: a key that is missing may stand there misspelled."""
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n  ".join((f"{source or 'config'}: {count}", *map(str, self.problems))))

    def of(self, source: Path | None) -> ConfigInvalid:
        """The same, of a file."""
        return ConfigInvalid(self.problems, source=source, warnings=self.warnings)


def path_of(parent: str, key: str | int) -> str:
    """The path of a key or list index, quoted where TOML would quote it."""
    if isinstance(key, int):
        return f"{parent}[{key}]"
    name = key if BARE_KEY.fullmatch(key) else shown(key)
    return f"{parent}.{name}" if parent else name


def shown(value: object) -> str:
    """The value as TOML writes it, on one line and shortened."""
    text = _written(value, SHOWN_DEPTH)
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 1] + "…"


def _written(value: object, depth: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value[:SHOWN_LENGTH], ensure_ascii=False)
    if isinstance(value, int) and value.bit_length() > SHOWN_LENGTH * 4:
        return "a very large number"  # str() refuses more than 4300 digits
    if isinstance(value, list | dict) and depth == 0:
        return "…"
    # No more than can be shown: a list of a million entries must not become a string of megabytes first.
    if isinstance(value, list):
        entries = (_written(entry, depth - 1) for entry in itertools.islice(value, SHOWN_LENGTH))
        return f"[{', '.join(entries)}]"
    if isinstance(value, dict):
        pairs = itertools.islice(value.items(), SHOWN_LENGTH)
        return "{ " + ", ".join(f"{path_of('', key)} = {_written(entry, depth - 1)}" for key, entry in pairs) + " }"
    return str(value)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, if one is close enough."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)
