"""Writing `models.toml` so that a person's comments, order and spelling stay as they are.

What is written is not checked here; `toml.parse` does that with the result.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING

import tomlkit
from tomlkit.items import InlineTable

from supervisor.config.problems import ConfigInvalid, Problem
from supervisor.config.toml import document

if TYPE_CHECKING:
    from tomlkit.items import Item, Table

SECTIONS = ("server", "defaults")
GROUPS = ("models", "variants", "peers", "selectors", "profiles")
"""Tables of tables, each with a header of its own; any other table goes on one line."""


def render(config: Mapping[str, object]) -> str:
    """The text of a config given as its tables."""
    text = tomlkit.document()
    _update(text, config)
    return tomlkit.dumps(text)


def set_model(text: str, name: str, table: Mapping[str, object]) -> str:
    """The text with the keys of one model set; None removes a key, and keys not given stay."""
    before = document(text)
    models = before.get("models")
    there = models.get(name) if isinstance(models, dict) else None
    spelled = {key.replace("_", "-"): key for key in there} if isinstance(there, dict) else {}
    change = {"models": {name: {spelled.get(key.replace("_", "-"), key): table[key] for key in table}}}
    parsed = tomlkit.parse(text)
    _update(parsed, change)
    return _checked(tomlkit.dumps(parsed), _changed(before, change))


def _checked(text: str, meant: Mapping[str, object]) -> str:
    """tomlkit misplaces keys beside dotted keys such as `models.a.ttl = 1`; a file must not be lost to that."""
    if document(text) != meant:
        raise ConfigInvalid([Problem("models", "each model under a header of its own", hint="write [models.NAME]")])
    return text


def _changed(table: Mapping[str, object], change: Mapping[str, object]) -> dict[str, object]:
    """The plain tables an edit must come to."""
    result = dict(table)
    for key, value in change.items():
        there = result.pop(key, None)
        if isinstance(value, Mapping):
            result[key] = _changed(there if isinstance(there, dict) else {}, value)
        elif value is not None:
            result[key] = list(value) if isinstance(value, tuple) else value
    return result


def _update(container: MutableMapping[str, object], values: Mapping[str, object], inside: str = "") -> None:
    for key, value in values.items():
        there = container.get(key)
        if value is None:
            container.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(there, MutableMapping):
            _update(there, value, key)
        elif isinstance(container, InlineTable):
            container[key] = _on_one_line(value)
        else:
            container[key] = _item(key, value, inside)


def _item(key: str, value: object, inside: str = "") -> Item:
    if isinstance(value, Mapping) and (inside in GROUPS or key in SECTIONS):
        return _section(value)
    if isinstance(value, Mapping) and key in GROUPS:
        return _group(value)
    return _on_one_line(value)


def _group(tables: Mapping[str, object]) -> Table:
    group = tomlkit.table(is_super_table=True)
    for name, each in tables.items():
        group.append(name, _section(each) if isinstance(each, Mapping) else _on_one_line(each))
    return group


def _section(values: Mapping[str, object]) -> Table:
    section = tomlkit.table()
    for key, value in values.items():
        if value is not None:
            section.append(key, _item(key, value))
    return section


def _on_one_line(value: object) -> Item:
    if not isinstance(value, Mapping):
        return tomlkit.item(value)
    table = tomlkit.inline_table()
    for key, each in value.items():
        table.append(key, _on_one_line(each))
    return table
