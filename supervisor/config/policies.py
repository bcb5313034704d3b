"""Groups and matrices as a file says them, in `models.toml` and in a llama-swap file alike."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from supervisor.config.expressions import included, parsed
from supervisor.config.problems import Mismatch, nearest
from supervisor.config.routing import DEFAULT_GROUP, Group, Groups, Matrix

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from supervisor.config.expressions import Expression
    from supervisor.config.place import Place

Fields = dict[str, object]
_VAR = re.compile(r"[A-Za-z0-9.-]{1,32}")


def groups(place: Place, tables: Mapping[str, Fields], models: Collection[str]) -> Groups:
    """Groups by name as tables of `members` and flags; models in none are in one of their own."""
    taken: dict[str, str] = {}
    found: dict[str, Group] = {}
    for name, fields in tables.items():
        if name == DEFAULT_GROUP:
            place.at(name).refuse("another name", "the models without a group are in this one", found=name)
        members = cast("tuple[str, ...]", fields.get("members", ()))
        for index, member in enumerate(members):
            _check_member(place.at(name, "members", index), member, taken, models)
            taken.setdefault(member, name)
        found[name] = Group(**{**fields, "members": members})  # type: ignore[arg-type] # checked by `schema`
    rest = tuple(sorted(model for model in models if model not in taken))
    return Groups({**found, DEFAULT_GROUP: Group(rest)} if rest else found)


def _check_member(place: Place, member: str, taken: Mapping[str, str], models: Collection[str]) -> None:
    if member in taken:
        place.refuse("each model in one group", f"`{taken[member]}` has it already", found=member)
    elif member not in models:
        meant = nearest(member, models)
        place.refuse("the id of a model", f"did you mean `{meant}`?" if meant else "", found=member)


def matrix(place: Place, fields: Fields, models: Collection[str]) -> Matrix:
    """`sets` of expressions, in which a name is one of `vars` or a model, and `evict_costs` of models."""
    names = _names(place.at("vars"), cast("dict[str, str]", fields.get("vars", {})), models)
    costs: dict[str, int] = {}
    for name, cost in cast("dict[str, int]", fields.get("evict_costs", {})).items():
        if name in names:
            costs[names[name]] = cost
        else:
            place.at("evict_costs", name).refuse("a model or a var", found=name)
    return Matrix(_sets(place.at("sets"), cast("dict[str, str]", fields.get("sets", {})), names), costs)


def _names(place: Place, variables: Mapping[str, str], models: Collection[str]) -> dict[str, str]:
    """What a name in an expression stands for: a var, or else a model."""
    for name, model in variables.items():
        if not _VAR.fullmatch(name):
            place.at(name).refuse("a name of at most 32 letters, digits, `.` and `-`", found=name)
        if model not in models:
            place.at(name).refuse("the id of a model", found=model)
    return {**{model: model for model in models}, **variables}


def _sets(place: Place, texts: Mapping[str, str], names: Mapping[str, str]) -> dict[str, Expression]:
    """The sets, each after those it includes, in the order of the file otherwise."""
    expressions: dict[str, Expression] = {}
    for name, text in texts.items():
        try:
            expressions[name] = parsed(text, names.get)
        except Mismatch as mismatch:
            place.at(name).refuse(mismatch.expected, mismatch.hint)
    ordered: dict[str, Expression] = {}
    for name in expressions:
        _put(name, expressions, ordered, place, texts, above=())
    return ordered


def _put(
    name: str,
    expressions: Mapping[str, Expression],
    ordered: dict[str, Expression],
    place: Place,
    texts: Mapping[str, str],
    *,
    above: tuple[str, ...],
) -> None:
    if name in ordered:
        return
    for other in included(expressions[name]):
        if other in (*above, name):
            cycle = " → ".join((*above, name, other))
            place.at(name).refuse("sets that do not include themselves", cycle)
            continue
        if other not in texts:
            meant = nearest(other, texts)
            place.at(name).refuse("sets that exist", f"did you mean `+{meant}`?" if meant else "", found=f"+{other}")
        elif other in expressions:
            _put(other, expressions, ordered, place, texts, above=(*above, name))
    ordered[name] = expressions[name]
