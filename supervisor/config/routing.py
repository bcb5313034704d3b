"""Which models may be loaded together: groups of models, or a matrix of permitted sets. Loading is done elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.config.expressions import Expression, covered

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_GROUP = "(default)"
"""The group of every model that is in no other."""


@dataclass(frozen=True, slots=True)
class Group:
    """Models that are swapped together."""

    members: tuple[str, ...]
    swap: bool = True
    """Whether loading a member unloads the others."""
    exclusive: bool = True
    """Whether loading a member unloads the models of other groups."""
    persistent: bool = False
    """Whether other groups leave its members loaded."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Every model in just one group."""

    groups: Mapping[str, Group]

    def of(self, model: str) -> str | None:
        """The name of a model's group."""
        return next((name for name, group in self.groups.items() if model in group.members), None)

    def can_coexist(self, models: frozenset[str]) -> bool:
        """Whether these models may all be loaded at once."""
        names = {self.of(model) for model in models}
        return len(models) < 2 or (len(names) == 1 and all(name and not self.groups[name].swap for name in names))


@dataclass(frozen=True, slots=True)
class Matrix:
    """Sets of models that may be loaded together, and every part of such a set."""

    sets: Mapping[str, Expression]
    """By name, each after those that it includes; of two equally good ones the first is taken."""
    evict_costs: Mapping[str, int] = field(default_factory=dict)
    """What unloading a model costs relative to the others; 1 where nothing is said."""

    def can_coexist(self, models: frozenset[str]) -> bool:
        """Whether these models may all be loaded at once."""
        return any(models in combinations for combinations in covered(self.sets, models).values())
