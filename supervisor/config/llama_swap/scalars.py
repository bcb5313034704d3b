"""The leaves of a YAML document: text that is a number, a truth or nothing only where a plain spelling says so.

The rules are those of Go's yaml.v3, which llama-swap reads with: unlike YAML 1.1, `yes` and `1:30` are text.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TypeAlias

Plain: TypeAlias = bool | int | float | str | None

_WORDS: dict[str, Plain] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_INTEGER = re.compile(
    r"(?P<sign>[-+]?)(?:0x(?P<x>[0-9a-fA-F_]+)|0b(?P<b>[01_]+)|0o?(?P<o>[0-7_]+)|(?P<d>0|[1-9][0-9_]*))"
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_BASES = {"x": 16, "b": 2, "o": 8, "d": 10}
LARGEST = 2**64 - 1
MOST_DIGITS = 100


class Key(str):
    """A key of a mapping, which knows where it stands."""

    __slots__ = ("mark",)

    mark: str

    def __new__(cls, text: str, mark: str = "") -> Key:
        key = super().__new__(cls, text)
        key.mark = mark
        return key


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf."""

    text: str
    is_plain: bool = True
    """Whether it was written without quotes, so that it may be more than text."""
    written: str = ""
    """What a message shows: the text with its variables and macros still in it."""
    mark: str = field(default="", compare=False)

    @property
    def value(self) -> Plain:
        return resolved(self.text) if self.is_plain else self.text

    @property
    def is_null(self) -> bool:
        return self.is_plain and _WORDS.get(self.text, "") is None

    def __str__(self) -> str:
        return self.written if self.is_plain else json.dumps(self.written, ensure_ascii=False)


def resolved(text: str) -> Plain:
    """What a plain spelling means."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > MOST_DIGITS:
        return text
    if match := _INTEGER.fullmatch(text):
        return _integer(match)
    return float(text) if _FLOAT.fullmatch(text) else text


def _integer(match: re.Match[str]) -> Plain:
    ((kind, digits),) = [(kind, match[kind]) for kind in _BASES if match[kind]]
    digits = digits.replace("_", "")
    if not digits:
        return match[0]
    number = int(match["sign"] + digits, _BASES[kind])
    return number if -LARGEST // 2 - 1 <= number <= LARGEST else float(number)
