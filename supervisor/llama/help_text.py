"""What a llama-server's `--help` says about its options: a pure parser and the catalogue it makes.

Binaries differ from month to month in the options they take, so nothing here lists options; the text is the truth.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_HEAD = re.compile(r"(?P<names>--?[A-Za-z][^\s,]*(?:,\s+-[^\s,]+)*)(?P<rest>\s.*)?", re.DOTALL)
_ENV = re.compile(r"\(env: (\w+)\)")
_BULLET = re.compile(r"- ([^\s:]+)(?: \(default\))?:")
_DEFAULT = re.compile(r"\(default: ([\w+.-]+)\)")
_ALLOWED = re.compile(r"allowed values: ([\w+.-]+(?:, [\w+.-]+)*)")
_ALTERNATIVES = re.compile(r"\{([\w,+-]+)\}|[\[<](\w+(?:\|\w+)+)[\]>]|([a-z][\w-]*(?:,[a-z][\w-]*)+)")
_SEPARATED_BY = re.compile(r"separated by '(\S)'")
_SIMILAR = 0.7
_HELP_LENGTH = 400


@dataclass(frozen=True, slots=True)
class Flag:
    """One option: all its spellings, and what may follow it."""

    spellings: tuple[str, ...]
    """As typed, dashes included; those that switch something off are in `negatives`."""
    negatives: tuple[str, ...] = ()
    hint: str = ""
    """The placeholder of the value, such as `N` or `{none,layer,row}`; empty for a bare flag."""
    env: str | None = None
    choices: tuple[str, ...] = ()
    """Every allowed value, where the help enumerates them."""
    separator: str | None = None
    """What joins several values into one argument; None if the option is repeated instead."""
    help: str = ""
    deprecated: bool = False
    removed: bool = False
    """Whether the binary names the option only to refuse it."""

    @property
    def is_bare(self) -> bool:
        return not self.hint

    @property
    def arity(self) -> int:
        """How many arguments follow the option."""
        return len(self.hint.split()) if re.fullmatch(r"[A-Z]+(?: [A-Z]+)*", self.hint) else int(bool(self.hint))

    @property
    def longs(self) -> tuple[str, ...]:
        return tuple(name for name in self.spellings if name.startswith("--"))


@dataclass(frozen=True)
class Catalogue:
    """All options of one binary."""

    flags: tuple[Flag, ...] = ()
    version: str = ""

    def __repr__(self) -> str:
        return f"<Catalogue [{len(self.flags)} options] {self.version or 'of unknown version'}>"

    def spelling(self, name: str) -> str | None:
        """The argument a config key stands for: `ctx_size` is `--ctx-size`, `c` is `-c`."""
        name = name.replace("_", "-")
        return next((typed for typed in (f"--{name}", f"-{name}") if typed in self._by_spelling), None)

    def find(self, name: str) -> Flag | None:
        """The option of a config key, which may be a long, short or negative name without dashes."""
        typed = self.spelling(name)
        return None if typed is None else self._by_spelling[typed]

    def nearest(self, name: str) -> str | None:
        """The long name, without dashes, that looks most like this one; None if nothing does."""
        name = name.replace("_", "-").strip("-").lower()
        return next(iter(difflib.get_close_matches(name, self._names, n=1, cutoff=_SIMILAR)), None)

    @cached_property
    def _by_spelling(self) -> Mapping[str, Flag]:
        return {typed: flag for flag in self.flags for typed in flag.spellings}

    @cached_property
    def _names(self) -> Sequence[str]:
        return [typed.removeprefix("--") for flag in self.flags if not flag.removed for typed in flag.longs]


def parse_help(text: str, *, version: str = "") -> Catalogue:
    """Read a `--help` text; lines that are no option's are skipped, so no text is an error."""
    return Catalogue(tuple(_flag(head, body) for head, body in _entries(text)), version)


def _entries(text: str) -> Iterator[tuple[re.Match[str], list[str]]]:
    """Every line that begins an option, with the lines of help below it."""
    head: re.Match[str] | None = None
    body: list[str] = []
    for line in text.split("\n"):
        if not line or line[0].isspace():
            body.append(line.strip())
            continue
        if head:
            yield head, body
        head, body = _HEAD.fullmatch(line), []
    if head:
        yield head, body


def _flag(head: re.Match[str], body: list[str]) -> Flag:
    names = tuple(re.split(r",\s+", head["names"]))
    # A hint stands one space behind the last name; the help at least two, for it is a column of its own.
    hint, _, first = (head["rest"] or "")[1:].partition("  ")
    lines = [line for line in (first.strip(), *body) if line]
    text = " ".join(line for line in lines if not _ENV.fullmatch(line))
    hint = hint.strip()
    return Flag(
        spellings=names,
        negatives=() if hint else _negatives(names),
        hint=hint,
        env=next((found[1] for line in lines if (found := _ENV.fullmatch(line))), None),
        choices=_choices(hint, lines, text),
        separator=_separator(hint, text),
        help=text[:_HELP_LENGTH],
        deprecated=text.startswith("DEPRECATED") or "(DEPRECATED)" in text,
        removed="argument has been removed" in text,
    )


def _negatives(names: tuple[str, ...]) -> tuple[str, ...]:
    """The spellings that switch off: from the first `--no-` on, with the short ones right before it (`-nkvo`)."""
    start = next((at for at, name in enumerate(names) if at and name.startswith("--no-")), None)
    if start is None:
        return ()
    while start > 1 and not names[start - 1].startswith("--"):
        start -= 1
    return names[start:]


def _choices(hint: str, lines: list[str], text: str) -> tuple[str, ...]:
    if found := _ALTERNATIVES.fullmatch(hint):
        return tuple(re.split(r"[,|]", found[1] or found[2] or found[3]))
    if found := _ALLOWED.search(text):
        return tuple(found[1].split(", "))
    bullets = [found[1] for line in lines if (found := _BULLET.match(line))]
    # `reasoning-format` has a default that is not among its bullets.
    if len(bullets) < 2 or not re.fullmatch(r"[A-Z_]{2,}", hint):
        return ()
    return tuple(dict.fromkeys([*bullets, *_DEFAULT.findall(text)]))


def _separator(hint: str, text: str) -> str | None:
    if said := _SEPARATED_BY.search(text):
        return said[1]
    is_list = ("," in hint and not hint.startswith("{")) or (hint and "comma-separated" in text)
    return "," if is_list else None
