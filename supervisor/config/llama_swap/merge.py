"""Several documents as one: how `-config` and the files of `-config-dir` add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.config.llama_swap.scalars import Scalar
from supervisor.config.problems import Problem, path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config.llama_swap.document import Tree
    from supervisor.config.place import Sheet

IDENTITIES = frozenset(
    {
        "models",
        "groups",
        "profiles",
        "selectors",
        "peers",
        "matrix",
        "routing.router.settings.groups",
        "routing.router.settings.matrix",
    }
)
"""Mappings whose entries are things of their own, each to be said in one file."""


def merged(documents: Sequence[dict[str, Tree]], sheet: Sheet) -> dict[str, Tree]:
    """Mappings merge, lists add up, a scalar may be repeated but not changed, null yields; conflicts are noted."""
    result: dict[str, Tree] = {}
    for document in documents:
        result = _mappings(result, document, "", sheet)
    return result


def _mappings(first: dict[str, Tree], second: dict[str, Tree], path: str, sheet: Sheet) -> dict[str, Tree]:
    result = dict(first)
    for key, value in second.items():
        place = path_of(path, key)
        if key not in first:
            result[key] = value
        elif path in IDENTITIES:
            _refuse(place, key, f"each entry of `{path}` in one file", sheet)
        else:
            result[key] = _values(first[key], value, place, key, sheet)
    return result


def _values(first: Tree, second: Tree, path: str, key: str, sheet: Sheet) -> Tree:
    if _is_null(second):
        return first
    if _is_null(first):
        return second
    if isinstance(first, dict) and isinstance(second, dict):
        return _mappings(first, second, path, sheet)
    if isinstance(first, list) and isinstance(second, list):
        return [*first, *second]
    if isinstance(first, Scalar) and isinstance(second, Scalar):
        if (first.text, type(first.value)) != (second.text, type(second.value)):
            _refuse(path, key, "the value that another file gives", sheet)
        return first
    _refuse(path, key, "the same kind of value in every file", sheet)
    return first


def _is_null(tree: Tree) -> bool:
    return isinstance(tree, Scalar) and tree.is_null


def _refuse(path: str, key: str, expected: str, sheet: Sheet) -> None:
    sheet.problems.append(Problem(path, expected, str(key), mark=getattr(key, "mark", "")))
