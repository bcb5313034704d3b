"""Where which macros hold: the file's own everywhere, a model's within it; ports are handed out on the way."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from supervisor.config.llama_swap.macros import Expander, defined, refuse_unknown
from supervisor.config.llama_swap.scalars import Scalar
from supervisor.config.place import Place
from supervisor.config.problems import Mismatch

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from supervisor.config.llama_swap.document import Tree
    from supervisor.config.place import Sheet

COMMANDS = ("cmd", "cmdStop")
DEFAULT_PROXY = "http://localhost:${PORT}"
START_PORT = 5800
LARGEST_PORT = 65535


@dataclass(slots=True)
class Expansion:
    """A document without macros, and the ports its models were given."""

    tree: dict[str, Tree]
    ports: dict[str, int] = field(default_factory=dict)


def expanded(document: dict[str, Tree], sheet: Sheet, *, known: Container[str]) -> Expansion:
    """The document with its macros replaced and their definitions gone; only the `known` keys are checked for more."""
    root = Place(document, sheet)
    try:
        return _expanded(root, document, known)
    except Mismatch as mismatch:
        root.refuse(mismatch.expected, mismatch.hint, found="macros")
        return Expansion({})


def _expanded(root: Place, document: dict[str, Tree], known: Container[str]) -> Expansion:
    macros, expander = defined(root), Expander()
    tree = {key: expander.tree(each, macros) for key, each in document.items() if key not in {"macros", "models"}}
    place = replace(root, written=tree)
    for key in tree:
        if key in known:
            refuse_unknown(place.at(key), macros)
    expansion = Expansion(tree)
    key = next((key for key in document if key == "models"), "models")  # with its mark
    models = document.get(key)
    if isinstance(models, dict):
        port = _start_port(tree)
        done = {}
        for name in sorted(models):
            done[name], takes_port = _Model(root.at("models", name), macros, expander).expanded(port)
            if takes_port:
                expansion.ports[name] = port
                port += 1
        tree[key] = {name: done[name] for name in models}
    elif models is not None:
        tree[key] = models
    return expansion


def _start_port(tree: Mapping[str, Tree]) -> int:
    """Where ports begin; a wrong value is refused where it is read."""
    start = tree.get("startPort")
    value = start.value if isinstance(start, Scalar) else None
    return value if isinstance(value, int) and value >= 1 else START_PORT


class _Model:
    """One model on its way."""

    def __init__(self, place: Place, macros: Mapping[str, Scalar], expander: Expander) -> None:
        self._place = place
        self._expander = expander
        self._macros = {"MODEL_ID": Scalar(str(place.key), is_plain=False), **macros, **defined(place)}

    def expanded(self, port: int) -> tuple[Tree, bool]:
        """The model with its macros replaced, and whether it takes the port."""
        written = self._place.written
        if not isinstance(written, dict):
            return Scalar("") if isinstance(written, Scalar) and written.is_null else written, False  # type: ignore[return-value]
        tree = self._replaced(_prepared(written), self._macros)
        takes_port = "${PORT}" in _text(tree, "cmd")
        if takes_port:
            tree = self._replaced(tree, {"PORT": Scalar(str(self._checked(port)))})
        elif "${PORT}" in _text(tree, "proxy"):
            if _text(tree, "cmd").strip():  # else that is the problem
                self._place.at("cmd").refuse("`${PORT}` in `cmd`, for `proxy` uses it", "or name a port in `proxy`")
            del tree["proxy"]
        for key in tree:
            refuse_unknown(
                replace(self._place, written=tree).at(key), self._macros, allowed="PID" if key == "cmdStop" else ""
            )
        return tree, takes_port

    def _replaced(self, tree: dict[str, Tree], macros: Mapping[str, Scalar]) -> dict[str, Tree]:
        tree = {key: self._expander.tree(each, macros) for key, each in tree.items()}
        filters = tree.get("filters")
        names = filters.get("setParamsByID") if isinstance(filters, dict) else None
        if isinstance(filters, dict) and isinstance(names, dict):
            tree["filters"] = {**filters, "setParamsByID": self._named(names, macros)}
        return tree

    def _named(self, names: Mapping[str, Tree], macros: Mapping[str, Scalar]) -> dict[str, Tree]:
        """The entries of `setParamsByID`, the only keys in which macros hold."""
        result: dict[str, Tree] = {}
        for written, each in names.items():
            name = self._expander.key(written, macros)
            if name in result:
                place = self._place.at("filters", "setParamsByID")
                place.refuse("each name once", f"`{written}` stands for one that is there already", found=name)
            result[name] = each
        return result

    def _checked(self, port: int) -> int:
        if port > LARGEST_PORT:
            self._place.at("cmd").refuse(f"ports up to {LARGEST_PORT}", "lower `startPort`", found=str(port))
        return min(port, LARGEST_PORT)


def _prepared(written: Mapping[str, Tree]) -> dict[str, Tree]:
    """Without comments in commands, for what a macro in a comment stands for must not be run; `proxy` is there."""
    tree = {key: each for key, each in written.items() if key != "macros"}
    for key in COMMANDS:
        command = tree.get(key)
        if isinstance(command, Scalar):
            tree[key] = replace(command, text=without_comments(command.text))
    proxy = tree.get("proxy")
    if proxy is None or (isinstance(proxy, Scalar) and proxy.is_null):
        tree["proxy"] = Scalar(DEFAULT_PROXY, is_plain=False, written=DEFAULT_PROXY)
    return tree


def _text(tree: Mapping[str, Tree], key: str) -> str:
    value = tree.get(key)
    return value.text if isinstance(value, Scalar) and not value.is_null else ""


def without_comments(command: str) -> str:
    """A command without the lines that begin with `#`."""
    return "\n".join(line for line in command.split("\n") if not line.strip().startswith("#"))
