"""Which models a llama-swap file lets be loaded together: groups or a matrix, in the old place or the new one."""

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


def routing(root: Place, file: Mapping[str, object], models: Collection[str]) -> Groups | Matrix:
    """The one way of routing that holds; groups where nothing is said."""
    place, settings, use = _settings(root, file)
    if use == "matrix":
        return _matrix(place.at("matrix"), cast("Fields", settings["matrix"]), models)
    return _groups(place.at("groups"), cast("dict[str, Fields]", settings.get("groups", {})), models)


def _settings(root: Place, file: Mapping[str, object]) -> tuple[Place, Fields, str]:
    """Where groups and matrix are said, what is said, and which of them holds."""
    old = {key: file[key] for key in ("groups", "matrix") if key in file and (file[key] or key == "matrix")}
    router = cast("Fields", cast("Fields", file.get("routing", {})).get("router", {}))
    settings = cast("Fields", router.get("settings", {}))
    if old and (router.get("use") or settings.get("groups") or "matrix" in settings):
        hint = "move the old keys into `routing.router.settings`"
        root.at(next(iter(old))).refuse("either `groups` or `matrix`, or `routing.router`", hint, found=", ".join(old))
    if old:
        if len(old) > 1:
            root.at("matrix").refuse("either `groups` or `matrix`", found="both")
        return root, old, next(iter(old))
    place = root.at("routing", "router", "settings")
    use = str(router.get("use", "group"))
    if use == "matrix" and "matrix" not in settings:
        root.at("routing", "router", "use").refuse("a matrix in `routing.router.settings.matrix`", found="matrix")
        use = "group"
    return place, settings, use


def _groups(place: Place, tables: Mapping[str, Fields], models: Collection[str]) -> Groups:
    taken: dict[str, str] = {}
    groups: dict[str, Group] = {}
    for name, fields in tables.items():
        if name == DEFAULT_GROUP:
            place.at(name).refuse("another name", "the models without a group are in this one", found=name)
        members = cast("tuple[str, ...]", fields.get("members", ()))
        for index, member in enumerate(members):
            _check_member(place.at(name, "members", index), member, taken, models)
            taken.setdefault(member, name)
        groups[name] = Group(**{**fields, "members": members})  # type: ignore[arg-type] # checked by `schema`
    rest = tuple(sorted(model for model in models if model not in taken))
    return Groups({**groups, DEFAULT_GROUP: Group(rest)} if rest else groups)


def _check_member(place: Place, member: str, taken: Mapping[str, str], models: Collection[str]) -> None:
    if member in taken:
        place.refuse("each model in one group", f"`{taken[member]}` has it already", found=member)
    elif member not in models:
        meant = nearest(member, models)
        place.refuse("the id of a model", f"did you mean `{meant}`?" if meant else "", found=member)


def _matrix(place: Place, fields: Fields, models: Collection[str]) -> Matrix:
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
