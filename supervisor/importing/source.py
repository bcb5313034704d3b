"""A llama-swap file to be imported, read so that variables and ports can be told from what stands around them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from supervisor.config.llama_swap.document import ENV, document
from supervisor.config.llama_swap.reader import config_of
from supervisor.config.llama_swap.scalars import Scalar
from supervisor.config.place import Sheet
from supervisor.config.problems import ConfigInvalid
from supervisor.importing.references import Marked, unmarked
from supervisor.importing.wrapped import unwrapped

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from supervisor.config.values import Config, Model
    from supervisor.llama.help_text import Catalogue

PORTS = range(20_000, 60_000, 500)
"""Where ports may begin while a file is read for us, so that they can be told from its own numbers."""
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Source:
    """The file, and what had to be looked up for it."""

    name: str
    """Of the file, as it is shown."""
    text: str
    config: Config
    """What it comes to, unwrapped."""
    environ: Mapping[str, str]
    catalogues: Mapping[str, Catalogue] = field(default_factory=dict)
    """By model, where its command starts a llama-server that is here."""
    base: Path | None = None
    """Where models.toml will be, if that is not where the relative paths of the source start."""


def marked(source: Source) -> tuple[Config, frozenset[str]]:
    """The config with marks for variables, as many as it can have, and for ports numbers nothing else has."""
    names = frozenset(ENV.findall(source.text)) & source.environ.keys()
    config = _read(source, names)
    if config is None:  # a number cannot be a mark, and some text must be of a certain kind
        names = frozenset(name for name in names if _read(source, {name}) is not None)
        config = _read(source, names)
    if config is None:
        names = frozenset()
        config = _read(source, names)
    assert config is not None  # it has been read before
    return config, names


def _read(source: Source, names: Collection[str]) -> Config | None:
    """The config with marks for these variables; None if it is not the same then."""
    environ = Marked(source.environ, names)
    sheet = Sheet(environ)
    try:
        tree = document(source.text, sheet)
        tree["startPort"] = Scalar(str(_start_port(source)))
        config = unwrapped(config_of(tree, sheet, source.config.base))
    except ConfigInvalid:
        return None
    if sheet.problems or list(config.models) != list(source.config.models):
        return None
    same = (_is_same(each, source.config.models[name], environ) for name, each in config.models.items())
    others = all(
        _unmarked(getattr(config, each), environ) == getattr(source.config, each)
        for each in ("peers", "selectors", "profiles")
    )
    keys = _unmarked(config.server.api_keys, environ) == source.config.server.api_keys
    return config if others and keys and all(same) else None


def _is_same(marked: Model, model: Model, environ: Marked) -> bool:
    """Whether nothing but marks and ports tells two readings apart."""
    ports = (marked.port, model.port) if marked.port is not None else None
    read: Model = _unmarked(marked, environ, ports)
    return replace(read, port=model.port) == model


def _unmarked(value: Any, environ: Marked, ports: tuple[int | None, int | None] | None = None) -> Any:
    """A value of a config with what its marks stand for, and another port in the place of one."""
    match value:
        case str():
            text = unmarked(value, environ.environ)
            return text if ports is None else text.replace(str(ports[0]), str(ports[1]))
        case tuple():
            return tuple(_unmarked(each, environ, ports) for each in value)
        case dict():
            return {_unmarked(key, environ, ports): _unmarked(each, environ, ports) for key, each in value.items()}
        case int() if ports is not None and value == ports[0]:
            return ports[1]
        case Enum():
            return value
        case _ if is_dataclass(value) and not isinstance(value, type):
            return replace(
                value, **{each.name: _unmarked(getattr(value, each.name), environ, ports) for each in fields(value)}
            )
        case _:
            return value


def _start_port(source: Source) -> int:
    texts = (source.text, *source.environ.values())
    numbers = {int(each) for text in texts for each in _NUMBER.findall(text) if len(each) < 6}
    count = len(source.config.models) + 1
    return next((start for start in PORTS if numbers.isdisjoint(range(start, start + count))), PORTS[0])
