"""Every key of a llama-swap file with a mistake in it: the message leads to the very line."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from supervisor.config.llama_swap.reader import parse
from supervisor.config.llama_swap.schema import FILTERS, TABLES, TIMEOUTS
from supervisor.config.problems import ConfigInvalid, Problem
from tests.config.swap_files import BASE

KEYS = {**TABLES, "peers.NAME.filters.": FILTERS, "peers.NAME.timeouts.": TIMEOUTS}
PATHS = [f"{table}{key}" for table, keys in KEYS.items() for key in keys]
NEEDED = {
    "store": {"path": "a.db"},
    "models.NAME": {"cmd": "serve ${PORT}"},
    "peers.NAME": {"proxy": "http://far.example", "models": ["x"]},
    "selectors.NAME": {"strategy": "pin", "targets": ["m"]},
    "profiles.NAME": {"pins": {"a": "m"}},
    "routing.router.settings.groups.NAME": {"members": ["m"]},
    "routing.router.settings.matrix": {"sets": {"a": "m"}},
}
"""What else must be said where something of it is."""


def file_with(path: str, value: object, *, name: str = "") -> str:
    """A file that has this value at a path, on a line of its own; `name` is what the last key is called."""
    tree: dict[str, Any] = {"models": {"m": {"cmd": "serve ${PORT}"}}}
    steps = written(path).split(".")
    table = tree
    for index, step in enumerate(steps[:-1]):
        table = table.setdefault(step, {})
        for key, needed in NEEDED.get(".".join(path.split(".")[: index + 1]), {}).items():
            table.setdefault(key, needed)
    table.pop(steps[-1], None)
    table[name or steps[-1]] = value
    return "# the first line\n" + yaml.dump(tree, sort_keys=False)


def written(path: str) -> str:
    return path.replace("NAME", "m" if path.startswith("models") else "n")


def line_of(text: str, shown: str) -> str:
    (line,) = (number for number, line in enumerate(text.split("\n"), 1) if re.search(rf"^ *{shown}", line))
    return f"line {line}"


def found_in(text: str) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """The problems and the warnings."""
    try:
        return (), parse(text, base=BASE, environ={}).warnings
    except ConfigInvalid as invalid:
        return invalid.problems, invalid.warnings


@pytest.mark.parametrize("path", PATHS)
def test_a_value_of_the_wrong_type(path: str) -> None:
    """No key takes a list of lists: that is one problem, with its path, its line and what was expected."""
    text = file_with(path, "WRONG").replace("WRONG", "[[]]  # here")
    (first, *others), _ = found_in(text)
    key = written(path)

    assert first.path in {key, f"{key}[0]"}
    assert first.mark == line_of(text, r".*# here")
    assert first.expected
    assert others == []


@pytest.mark.parametrize("path", [path for path in PATHS if len(path.rpartition(".")[2]) > 3])
def test_a_key_that_is_misspelled(path: str) -> None:
    """It is a warning that names the key that was meant, also where something else stops the file."""
    key = path.rpartition(".")[2]
    text = file_with(path, None, name=f"{key}z")
    _, (warning, *others) = found_in(text)

    assert warning.path == f"{written(path)}z"
    assert warning.mark == line_of(text, f"{key}z:")
    assert warning.hint == f"did you mean `{key}`?"
    assert others == []
