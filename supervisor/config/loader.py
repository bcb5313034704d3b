"""The one file of this room that reads from disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.config import key_files, toml
from supervisor.config.problems import ConfigInvalid, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Config

YAML = (".yaml", ".yml")


def load(path: Path, *, environ: Mapping[str, str]) -> Config:
    """The config in a file, by its suffix llama-swap's or ours; `ConfigInvalid` names the file in any case."""
    if path.suffix in YAML:
        return load_yaml(path, environ=environ)
    try:
        return key_files.with_keys(toml.parse(text_of(path), base=path.absolute().parent, environ=environ))
    except ConfigInvalid as invalid:
        raise invalid.of(path) from invalid


def load_yaml(path: Path | None, *, folder: Path | None = None, environ: Mapping[str, str]) -> Config:
    """The config in llama-swap's file, in every such file of a folder, or in both.

    Relative paths in it start from the working directory, as they do in llama-swap.
    """
    from supervisor.config.llama_swap import reader  # with a YAML parser that nobody else needs

    source = path or folder
    try:
        paths = _paths(path, folder)
        texts = {str(each) if len(paths) > 1 else "": text_of(each) for each in paths}
        return _checked(reader.parse_all(texts, base=Path.cwd(), environ=environ))
    except ConfigInvalid as invalid:
        raise invalid.of(source) from invalid


def _paths(path: Path | None, folder: Path | None) -> list[Path]:
    """The file first, then those of the folder in the order of their names."""
    found = _yaml_files(folder) if folder else []
    if path and any(each.absolute() == path.absolute() for each in found):
        raise ConfigInvalid([Problem(str(path), "a config outside of the config folder", hint="remove it from one")])
    paths = [*([path] if path else []), *found]
    if not paths:
        raise ConfigInvalid([Problem(str(folder or "config"), "a file with a name that ends in .yaml or .yml")])
    return paths


def _yaml_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(YAML) and not path.is_dir())
    except OSError as error:
        raise ConfigInvalid([_unreadable(folder, "a folder", error)]) from error


def _checked(config: Config) -> Config:
    """The config, if its store is a file or may become one."""
    if config.server.store is None:
        return config
    store = config.base / config.server.store
    if store.is_dir() or not os.access(store if store.exists() else store.parent, os.W_OK):
        raise ConfigInvalid([Problem("store.path", "a file that can be written", config.server.store)])
    return config


def text_of(path: Path) -> str:
    """The text of a file; raises `ConfigInvalid` where it cannot be read or is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigInvalid([_unreadable(path, "a file", error)]) from error
    try:
        return content.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigInvalid([_encoding_problem(content, error.start)]) from error


def _unreadable(path: Path, what: str, error: OSError) -> Problem:
    return Problem(str(path), f"{what} that can be read", error.strerror or str(error))


def _encoding_problem(content: bytes, at: int) -> Problem:
    line_start = content.rfind(b"\n", 0, at) + 1
    line = content.count(b"\n", 0, at) + 1
    place = f"line {line}, column {at - line_start + 1}"
    return Problem(place, "text in UTF-8", f"0x{content[at]:02x}", "save the file with the encoding UTF-8")
