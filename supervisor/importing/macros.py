"""The macros of a llama-swap file: what each stands for, and which models use it. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from supervisor.config.llama_swap.expansion import without_comments
from supervisor.config.llama_swap.macros import MACRO, Expander, defined
from supervisor.config.llama_swap.scalars import Scalar
from supervisor.config.place import Place, Sheet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from supervisor.config.llama_swap.document import Tree


def macros_of(tree: dict[str, Tree], environ: Mapping[str, str]) -> dict[str, str]:
    """The macros of the file, with those that they use replaced."""
    macros = defined(Place(tree, Sheet(environ)))
    return {name: Expander().scalar(each, macros).text for name, each in macros.items()}


def users_of(tree: dict[str, Tree], macros: Mapping[str, str]) -> dict[str, set[str]]:
    """The models that use each macro, by others too; `` is the rest of the file."""
    raw = tree.get("macros")
    inside = {name: set(MACRO.findall(str(_text(raw, name)))) for name in macros}
    users: dict[str, set[str]] = {name: set() for name in macros}
    models = tree.get("models")
    places: list[tuple[str, object]] = [
        ("", {key: each for key, each in tree.items() if key not in {"macros", "models"}})
    ]
    places += models.items() if isinstance(models, dict) else []
    for place, each in places:
        todo, done = set(_used(each)), set[str]()
        while todo:
            name = todo.pop()
            done.add(name)
            todo |= inside.get(name, set()) - done
        for name in done & users.keys():
            users[name].add(place)
    return users


def _text(tree: object, name: str) -> str:
    value = tree.get(name) if isinstance(tree, dict) else None
    return value.text if isinstance(value, Scalar) else ""


def _used(tree: object) -> Iterable[str]:
    if isinstance(tree, Scalar):
        return MACRO.findall(tree.text)
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    own = [name for key in tree for name in MACRO.findall(key)] if isinstance(tree, dict) else []
    return [*own, *(name for each in children for name in _used(each))]


def words_of(text: str) -> Sequence[str]:
    try:
        return shlex.split(without_comments(text).replace("\\\n", " "))
    except ValueError:
        return ()
