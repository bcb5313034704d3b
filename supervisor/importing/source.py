"""A llama-swap file to be imported, read so that variables and ports can be told from what stands around them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.config.llama_swap.document import ENV, document
from supervisor.config.llama_swap.reader import config_of
from supervisor.config.llama_swap.scalars import Scalar
from supervisor.config.place import Sheet
from supervisor.config.problems import ConfigInvalid
from supervisor.importing.references import Marked, unmarked

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
    """What it comes to."""
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
        config = config_of(tree, sheet, source.config.base)
    except ConfigInvalid:
        return None
    if sheet.problems or list(config.models) != list(source.config.models):
        return None
    same = (_is_same(each, source.config.models[name], source.environ) for name, each in config.models.items())
    return config if all(same) else None


def _is_same(marked: Model, model: Model, environ: Mapping[str, str]) -> bool:
    """Whether nothing but marks and ports tells the words of two readings apart."""

    def true(word: str) -> str:
        word = unmarked(word, environ)
        return word if marked.port is None else word.replace(str(marked.port), str(model.port))

    pairs = ((marked.cmd, model.cmd), (marked.cmd_stop, model.cmd_stop), (marked.aliases, model.aliases))
    return all(tuple(map(true, first)) == second for first, second in pairs)


def _start_port(source: Source) -> int:
    texts = (source.text, *source.environ.values())
    numbers = {int(each) for text in texts for each in _NUMBER.findall(text) if len(each) < 6}
    count = len(source.config.models) + 1
    return next((start for start in PORTS if numbers.isdisjoint(range(start, start + count))), PORTS[0])
