"""The cheapest permitted set of a matrix for a model that is wanted. Knows nothing of runs and queues.

A set permits more combinations than anybody can list, so each part of an expression tells its best ones only: one for
each way to hold the models that matter twice. Those are the wanted one, which must be in it, and models that occur on
both sides of an `&`, which must not be counted twice; ordinary files have none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from heapq import nlargest
from typing import TYPE_CHECKING, TypeAlias, assert_never

from supervisor.config.expressions import Either, Expression, Included, Single, Together

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.config.routing import Matrix

MOST_CHOICES = 512
"""Of more, in a file made for it, the cheapest are gone on with."""

Held: TypeAlias = "frozenset[str]"


@dataclass(frozen=True, slots=True)
class Choice:
    """One combination: what it saves from eviction, beside what is counted at the end."""

    saved: int
    place: int
    """Which one it is in the order in which an expression lists its combinations."""
    kept: frozenset[str] = frozenset()
    """The running models it holds."""

    def is_better_than(self, other: Choice | None) -> bool:
        return other is None or (self.saved, -self.place) > (other.saved, -other.place)


@dataclass(frozen=True, slots=True)
class Choices:
    """The best combinations of an expression, one for each part of the models that matter twice."""

    best: Mapping[Held, Choice]
    count: int
    """How many combinations there are, listed or not."""


NOTHING = Choices({frozenset(): Choice(0, 0)}, 1)


@dataclass
class Search:
    """One search for what may stay when `target` comes."""

    matrix: Matrix
    target: str
    running: frozenset[str]
    shared: frozenset[str]
    """`shared_models` of the matrix."""
    steps: int = 0
    """Choices looked at."""
    _known: dict[str, Choices] = field(default_factory=dict)

    def kept(self) -> frozenset[str]:
        """The running models that may stay, of equally good combinations those of the first; none if in no set."""
        best: Choice | None = None
        for name, expression in self.matrix.sets.items():
            self._known[name] = self._choices(expression)
            choice = self._best_with_target(self._known[name])
            if choice is not None and (best is None or choice.saved > best.saved):
                best = choice
        return frozenset() if best is None else best.kept

    def _best_with_target(self, choices: Choices) -> Choice | None:
        best: Choice | None = None
        for held, choice in choices.best.items():
            if self.target in held:
                whole = Choice(choice.saved + self._cost(held), choice.place, choice.kept)
                best = whole if whole.is_better_than(best) else best
        return best

    def _cost(self, models: Iterable[str]) -> int:
        """What it costs to evict those of these that run."""
        return sum(self.matrix.evict_costs.get(model, 1) for model in models if model in self.running)

    def _choices(self, expression: Expression) -> Choices:
        match expression:
            case Single(model):
                return self._single(model)
            case Included(name):
                return self._known.get(name, Choices({}, 0))
            case Either(parts):
                return self._either(parts)
            case Together(parts):
                return self._together(parts)
            case _:
                assert_never(expression)

    def _single(self, model: str) -> Choices:
        self.steps += 1
        kept = frozenset([model]) & self.running
        if model == self.target or (kept and model in self.shared):
            return Choices({frozenset([model]): Choice(0, 0, kept)}, 1)
        return Choices({frozenset(): Choice(self._cost(kept), 0, kept)}, 1) if kept else NOTHING

    def _either(self, parts: Iterable[Expression]) -> Choices:
        best: dict[Held, Choice] = {}
        count = 0
        for choices in map(self._choices, parts):
            for held, choice in choices.best.items():
                self._put(best, held, Choice(choice.saved, count + choice.place, choice.kept))
            count += choices.count
        return self._limited(best, count)

    def _together(self, parts: Iterable[Expression]) -> Choices:
        """The last part varies fastest, as if the product were written out."""
        whole = NOTHING
        for choices in map(self._choices, parts):
            best: dict[Held, Choice] = {}
            for held, one in whole.best.items():
                for also_held, other in choices.best.items():
                    place = one.place * choices.count + other.place
                    self._put(best, held | also_held, Choice(one.saved + other.saved, place, one.kept | other.kept))
            whole = self._limited(best, whole.count * choices.count)
        return whole

    def _put(self, best: dict[Held, Choice], held: Held, choice: Choice) -> None:
        self.steps += 1
        if choice.is_better_than(best.get(held)):
            best[held] = choice

    def _limited(self, best: dict[Held, Choice], count: int) -> Choices:
        if len(best) <= MOST_CHOICES:
            return Choices(best, count)
        cheapest = nlargest(
            MOST_CHOICES,
            best.items(),
            key=lambda entry: (self.target in entry[0], entry[1].saved + self._cost(entry[0]), -entry[1].place),
        )
        return Choices(dict(cheapest), count)


def shared_models(matrix: Matrix) -> frozenset[str]:
    """The models that may occur twice in one combination."""
    known: dict[str, Counter[str]] = {}
    for name, expression in matrix.sets.items():
        known[name] = _occurrences(expression, known)
    return frozenset(model for counts in known.values() for model, count in counts.items() if count > 1)


def _occurrences(expression: Expression, known: Mapping[str, Counter[str]]) -> Counter[str]:
    """How often each model occurs in one combination at most; more than twice is twice."""
    match expression:
        case Single(model):
            return Counter([model])
        case Included(name):
            return known.get(name, Counter())
        case Together(parts):
            total: Counter[str] = Counter()
            for part in parts:
                total.update(_occurrences(part, known))
            return Counter({model: min(count, 2) for model, count in total.items()})
        case Either(parts):
            most: Counter[str] = Counter()
            for part in parts:
                most |= _occurrences(part, known)
            return most
        case _:
            assert_never(expression)
