"""Configs of any shape: a config, or every problem with it in words; never anything else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from supervisor.config import loader, schema
from supervisor.config.llama_swap.schema import TABLES
from supervisor.config.problems import ConfigInvalid
from supervisor.fleet.names import Names
from tests.conftest import ROOT
from tests.fuzz.mutation import ODD, example, numbers

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.config.values import Config
    from tests.fuzz.mutation import Random

ENVIRON = {"X": "x", "HF_TOKEN": "hf_secret", "HOME": "/home/x"}
TOML = [(ROOT / "models.toml").read_bytes()]
YAML = [path.read_bytes() for path in sorted((ROOT / "tests" / "config" / "llama_swap").iterdir())]
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
TOML_KEYS = sorted(
    {*schema.SERVER, *schema.MODEL, *schema.PEER, *schema.SELECTOR, *schema.PROFILE, "ctx-size", "models", "x"}
)
YAML_KEYS = sorted(
    {name for table in TABLES.values() for name in table} | {"models", "groups", "hooks", "macros", "peers"}
)


WORDS = ("30m", "8GiB", "never", "99999999999h", "-1s", "127.0.0.1:0", "[::]:1", "a,b", "(?P<", "a" * 500)
VARIABLES = ("${PORT}", "llama-server --port ${PORT} -m 'x", "${env:X}", "${env:NONE}", "${x", "$$")


def value(random: Random, depth: int = 0) -> str:
    """A value as both formats write it."""
    match random.randrange(10 if depth < 4 else 7):
        case 0:
            return str(random.choice((0, 1, -1, 8080, 65536, 10**30, -(2**63), 2**64)))
        case 1:
            return random.choice(("1.5", "-0.0", "1e308", "inf", "nan", "-inf", ".inf", ".nan"))
        case 2:
            return random.choice(("true", "false", "null", "~", '""', "''", "yes"))
        case 3 | 4:
            return f'"{random.choice(WORDS)}"'
        case 5:
            text = random.choice(ODD).decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
            return f'"{text}"'
        case 6:
            return f'"{random.choice(VARIABLES)}"'
        case 7:
            return f"[{', '.join(value(random, depth + 1) for _ in range(random.randint(0, 3)))}]"
        case _:
            return ""


def toml(random: Random) -> bytes:
    """Tables and keys of ours with values that need not fit."""
    lines = []
    for _ in range(random.randint(1, 6)):
        name = random.choice(
            ("a", "b", '"a/b"', '""', '"é"', "a.variants.x", "a.env", "a.timeouts", "a.sampling", "a.set_params")
        )
        lines.append(
            random.choice(
                (
                    "[server]",
                    "[defaults]",
                    f"[models.{name}]",
                    f"[peers.{name}]",
                    f"[selectors.{name}]",
                    f"[profiles.{name}]",
                    f"[[models.{name}]]",
                )
            )
        )
        for key in random.sample(TOML_KEYS, random.randint(0, 4)):
            shown = (
                value(random)
                or "{ " + ", ".join(f"{each} = {value(random, 4)}" for each in random.sample(TOML_KEYS, 2)) + " }"
            )
            lines.append(f"{key} = {shown}")
    return "\n".join(lines).encode("utf-8", "replace")


def yaml(random: Random) -> bytes:
    """The same for llama-swap's file."""
    lines: list[str] = []

    def entries(depth: int) -> None:
        for key in random.sample(YAML_KEYS, random.randint(1, 4)):
            shown = value(random)
            lines.append(f"{'  ' * depth}{key}: {shown}")
            if not shown and depth < 5:
                entries(depth + 1)

    for _ in range(random.randint(1, 3)):
        lines.append(
            random.choice(
                (
                    "models:",
                    "groups:",
                    "matrix:",
                    "peers:",
                    "selectors:",
                    "profiles:",
                    "routing:",
                    "macros:",
                    "hooks:",
                    "x: &a",
                    "",
                )
            )
        )
        entries(1)
    return "\n".join(lines).encode("utf-8", "replace")


def loaded(path: Path) -> Config | ConfigInvalid:
    try:
        return loader.load(path, environ=ENVIRON)
    except ConfigInvalid as invalid:
        return invalid


@pytest.mark.parametrize("suffix", [".toml", ".yaml"])
def test_any_config(tmp_path: Path, suffix: str) -> None:
    """A file that is almost right, or is made of right keys and wrong values, is read or refused with its problems."""
    path = tmp_path / f"config{suffix}"
    samples, made = (TOML, toml) if suffix == ".toml" else (YAML, yaml)
    accepted = 0
    for number in numbers(400):
        with example(f"config{suffix}", number) as random:
            data = random.mutated(random.choice(samples)) if random.chance(0.5) else random.mutated(made(random), 1)
            path.write_bytes(data)
            read = loaded(path)
            if isinstance(read, ConfigInvalid):
                assert read.problems
                assert not any(CONTROL.search(str(problem)) for problem in read.problems)
                continue
            accepted += 1
            names = Names(read)
            for model in read.models:
                names.model(model)

    assert accepted > 10, "nearly nothing was a config: the changes are too coarse to find anything"
