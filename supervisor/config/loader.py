"""The one file of this room that reads from disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.config.problems import ConfigInvalid, Problem
from supervisor.config.toml import parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from supervisor.config.values import Config


def load(path: Path, *, environ: Mapping[str, str]) -> Config:
    """The config in a file; `ConfigInvalid` names the file, whatever is wrong with it."""
    try:
        return parse(_text(path), base=path.absolute().parent, environ=environ)
    except ConfigInvalid as invalid:
        raise ConfigInvalid(invalid.problems, source=path) from invalid


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigInvalid([Problem(str(path), "a file that can be read", error.strerror or str(error))]) from error
    try:
        return content.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigInvalid([_encoding_problem(content, error.start)]) from error


def _encoding_problem(content: bytes, at: int) -> Problem:
    line_start = content.rfind(b"\n", 0, at) + 1
    line = content.count(b"\n", 0, at) + 1
    place = f"line {line}, column {at - line_start + 1}"
    return Problem(place, "text in UTF-8", f"0x{content[at]:02x}", "save the file with the encoding UTF-8")
