"""Macros: what `${NAME}` stands for, and how it is replaced in values. Where which macros hold is said in `expansion`.

Of several macros the last one defined is replaced first, so that a macro may use those defined before it. A value that
is a macro and nothing else takes its type too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from supervisor.config.llama_swap.scalars import Key, Scalar
from supervisor.config.problems import Mismatch, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.config.llama_swap.document import Tree
    from supervisor.config.place import Place

MACRO = re.compile(r"\$\{([a-zA-Z0-9_-]+)\}")
NAME = re.compile(r"[a-zA-Z0-9_-]{1,63}")
RESERVED = ("PID", "PORT", "MODEL_ID")
MOST_TEXT = 16 * 1024**2
"""Characters that macros may add to a file; a few dozen macros of macros can stand for more than there is memory."""


@dataclass(slots=True)
class Expander:
    """Replaces macros as long as the result stays of a sane size; `Mismatch` when it does not."""

    left: int = MOST_TEXT

    def tree(self, tree: Tree, macros: Mapping[str, Scalar]) -> Tree:
        """The same with every macro replaced, in values but not in keys."""
        if isinstance(tree, dict):
            return {key: self.tree(value, macros) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.tree(each, macros) for each in tree]
        return self.scalar(tree, macros)

    def scalar(self, scalar: Scalar, macros: Mapping[str, Scalar]) -> Scalar:
        if "${" not in scalar.text:
            return scalar
        for name, macro in reversed(list(macros.items())):
            if scalar.text == f"${{{name}}}":
                self._spend(len(macro.text))
                scalar = replace(scalar, text=macro.text, is_plain=macro.is_plain)
            elif f"${{{name}}}" in scalar.text:
                scalar = replace(scalar, text=self._replaced(scalar.text, name, macro), is_plain=False)
        return scalar

    def key(self, key: str, macros: Mapping[str, Scalar]) -> Key:
        return Key(self.scalar(Scalar(key, is_plain=False), macros).text, getattr(key, "mark", ""))

    def _replaced(self, text: str, name: str, macro: Scalar) -> str:
        reference = f"${{{name}}}"
        self._spend(text.count(reference) * len(macro.text))
        return text.replace(reference, macro.text)

    def _spend(self, characters: int) -> None:
        self.left -= characters
        if self.left < 0:
            raise Mismatch(f"macros that stand for at most {MOST_TEXT} characters", "macros of macros multiply")


def defined(place: Place) -> dict[str, Scalar]:
    """The macros that the mapping at a place defines, in their order."""
    tree = place.written.get("macros") if isinstance(place.written, dict) else None
    if tree is None or (isinstance(tree, Scalar) and tree.is_null):
        return {}
    macros = place.at("macros")
    if not isinstance(tree, dict):
        macros.refuse("a mapping of names to values")
        return {}
    return {str(name): value for name, value in tree.items() if _is_macro(macros.at(name), name, value)}


def _is_macro(place: Place, name: str, value: Tree) -> bool:
    if not NAME.fullmatch(name):
        place.refuse("a name of at most 63 letters, digits, `_` and `-`", found=name)
    elif name in RESERVED:
        place.refuse("a name that is not reserved", f"{', '.join(RESERVED)} are", found=name)
    elif not isinstance(value, Scalar) or value.is_null:
        place.refuse("text, a number, true or false")
    elif f"${{{name}}}" in value.text:
        place.refuse("a macro that does not use itself")
    else:
        return True
    return False


def refuse_unknown(place: Place, macros: Iterable[str], *, allowed: str = "") -> None:
    """Note every macro that is still there; `allowed` is the one that is replaced later."""
    if isinstance(place.written, dict):
        for key, child in place.entries():
            if place.key == "setParamsByID":  # the only keys in which macros are replaced
                _refuse_all(child, key, macros, allowed)
            refuse_unknown(child, macros, allowed=allowed)
    elif isinstance(place.written, list):
        for child in place.elements():
            refuse_unknown(child, macros, allowed=allowed)
    elif isinstance(place.written, Scalar):
        _refuse_all(place, place.written.text, macros, allowed)


def _refuse_all(place: Place, text: str, macros: Iterable[str], allowed: str) -> None:
    for name in dict.fromkeys(MACRO.findall(text)):
        if name != allowed:
            _refuse_one(place, name, macros)


def _refuse_one(place: Place, name: str, macros: Iterable[str]) -> None:
    hint = {
        "PORT": "`${PORT}` is a port only in a model whose `cmd` uses it",
        "PID": "`${PID}` is known only in `cmdStop`",
        "MODEL_ID": "`${MODEL_ID}` is known only in a model",
    }.get(name, "")
    if not hint and name in macros:
        hint = "a macro may use only those defined before it"
    elif not hint and (meant := nearest(name, macros)):
        hint = f"did you mean `${{{meant}}}`?"
    place.refuse("macros that are defined", hint, found=f"${{{name}}}")
