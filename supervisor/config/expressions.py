"""Expressions over models: `a & (b | c)` is a with b, or a with c; `+name` is what another expression says.

A tree says what may be loaded together without listing the combinations, of which there may be more than atoms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

from supervisor.config.problems import Mismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEEPEST = 100
MOST_COMBINATIONS = 512
_TOKEN = re.compile(r"\s*(?:([&|()])|([^\s&|()]+))\s*")


@dataclass(frozen=True, slots=True)
class Single:
    """One model."""

    model: str


@dataclass(frozen=True, slots=True)
class Included:
    """What the expression of that name says."""

    name: str


@dataclass(frozen=True, slots=True)
class Together:
    """All of its parts at once."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of its parts."""

    parts: tuple[Expression, ...]


Expression: TypeAlias = Single | Included | Together | Either
Combinations: TypeAlias = frozenset[frozenset[str]]


def parsed(text: str, model: Callable[[str], str | None]) -> Expression:
    """The tree of an expression; `model` tells what a name in it stands for. `Mismatch` where it is none."""
    return _Parser(text, model).whole()


class _Parser:
    """Recursive descent: `either = both ("|" both)*`, `both = atom ("&" atom)*`."""

    def __init__(self, text: str, model: Callable[[str], str | None]) -> None:
        self._tokens = [match[1] or match[2] for match in _TOKEN.finditer(text)]
        self._model = model
        self._at = 0
        self._depth = 0

    def whole(self) -> Expression:
        expression = self._either()
        if self._next:
            raise Mismatch("`&` or `|` between models", f"`{self._next}` follows without one")
        return expression

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _either(self) -> Expression:
        parts = [self._both()]
        while self._next == "|":
            self._take()
            parts.append(self._both())
        return Either(tuple(parts)) if len(parts) > 1 else parts[0]

    def _both(self) -> Expression:
        parts = [self._atom()]
        while self._next == "&":
            self._take()
            parts.append(self._atom())
        return Together(tuple(parts)) if len(parts) > 1 else parts[0]

    def _atom(self) -> Expression:
        if self._next in {"", "&", "|", ")"}:
            raise Mismatch(
                "a model on both sides of `&` and `|`", "the expression ends early" if not self._next else ""
            )
        token = self._take()
        if token == "(":
            return self._bracketed()
        if token.startswith("+"):
            return Included(token[1:])
        found = self._model(token)
        if found is None:
            raise Mismatch("models and vars that exist", f"`{token}` is neither")
        return Single(found)

    def _bracketed(self) -> Expression:
        self._depth += 1
        if self._depth > DEEPEST:
            raise Mismatch("brackets that are less deeply nested")
        inner = self._either()
        if self._next != ")":
            raise Mismatch("brackets that are closed")
        self._take()
        self._depth -= 1
        return inner


def included(expression: Expression) -> Iterator[str]:
    """The names of the expressions that one includes."""
    match expression:
        case Single():
            return
        case Included(name):
            yield name
        case Together(parts) | Either(parts):
            for part in parts:
                yield from included(part)
        case _:
            assert_never(expression)


def singles(expression: Expression) -> Iterator[str]:
    """The models that one names."""
    match expression:
        case Single(model):
            yield model
        case Included():
            return
        case Together(parts) | Either(parts):
            for part in parts:
                yield from singles(part)
        case _:
            assert_never(expression)


def covered(sets: Mapping[str, Expression], wanted: frozenset[str]) -> dict[str, Combinations]:
    """Which of the wanted models each set may hold at once; `sets` has each one after those that it includes."""
    known: dict[str, Combinations] = {}
    for name, expression in sets.items():
        known[name] = _combinations(expression, wanted, known)
    return known


def _combinations(expression: Expression, wanted: frozenset[str], known: Mapping[str, Combinations]) -> Combinations:
    match expression:
        case Single(model):
            return frozenset([frozenset([model]) & wanted])
        case Included(name):
            return known.get(name, frozenset())
        case Either(parts):
            return _largest({each for part in parts for each in _combinations(part, wanted, known)})
        case Together(parts):
            result: Combinations = frozenset([frozenset()])
            for part in parts:
                right = _combinations(part, wanted, known)
                result = _largest({one | other for one in result for other in right})
            return result
        case _:
            assert_never(expression)


def _largest(found: set[frozenset[str]]) -> Combinations:
    """Without those that are part of another; who wants very many models gets an answer about fewer of them."""
    kept: list[frozenset[str]] = []
    for each in sorted(found, key=len, reverse=True)[:MOST_COMBINATIONS]:
        if not any(each < other for other in kept):
            kept.append(each)
    return frozenset(kept)
