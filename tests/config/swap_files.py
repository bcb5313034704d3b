"""Reading llama-swap files in tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.config.llama_swap.reader import parse, parse_all
from supervisor.config.problems import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Config, Model

BASE = Path("/srv")


def config(text: str, environ: Mapping[str, str] | None = None) -> Config:
    return parse(text, base=BASE, environ=environ or {})


def of_files(*texts: str) -> Config:
    """The config of several files, called a.yaml, b.yaml, …"""
    return parse_all(named(texts), base=BASE, environ={})


def named(texts: tuple[str, ...]) -> dict[str, str]:
    return {f"{letter}.yaml": text for letter, text in zip("abcdef", texts, strict=False)}


def model(lines: str = "", environ: Mapping[str, str] | None = None, *, top: str = "") -> Model:
    """The model `m` with a command and these lines."""
    return config(text_of(lines, top=top), environ).models["m"]


def text_of(lines: str = "", *, top: str = "") -> str:
    command = "" if "cmd:" in lines else "    cmd: serve ${PORT}\n"
    indented = "".join(f"    {line}\n" for line in lines.split("\n"))
    return f"{top}\nmodels:\n  m:\n{command}{indented}"


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigInvalid) as raised:
        config(text, environ)
    return [str(problem) for problem in raised.value.problems]


def problems_of_files(*texts: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as raised:
        of_files(*texts)
    return [str(problem) for problem in raised.value.problems]


def warnings(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    return [str(problem) for problem in config(text, environ).warnings]
