"""Llama-servers that `env` starts: the variables it sets may as well stand beside the command. Pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.config.values import Config, Model


def unwrapped(config: Config) -> Config:
    """The config without `env NAME=VALUE …` before its llama-servers."""
    return replace(config, models={name: _unwrapped(model) for name, model in config.models.items()})


def is_wrapped(model: Model) -> bool:
    """Whether `env` starts a llama-server, and does nothing else than set variables."""
    words = model.cmd[len(_variables(model)) + 1 :]
    return PurePath(model.cmd[0]).name == "env" and bool(words) and PurePath(words[0]).name == "llama-server"


def _unwrapped(model: Model) -> Model:
    if not is_wrapped(model):
        return model
    variables = _variables(model)
    env = {**model.env, **dict(word.split("=", 1) for word in variables)}
    return replace(model, cmd=model.cmd[len(variables) + 1 :], shown_cmd="", env=env)


def _variables(model: Model) -> list[str]:
    return list(takewhile(lambda word: "=" in word and not word.startswith(("-", "=")), model.cmd[1:]))
