"""Preflight must not stand in the way of what would run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.config.toml import parse
from supervisor.llama.command import Surroundings
from supervisor.llama.preflight import Inspector

pytestmark = pytest.mark.anyio


async def causes(text: str, base: Path, **environ: str) -> list[str]:
    """The problems of the model `m`."""
    config = parse(text, base=base, environ={})
    around = Surroundings(base, Path("/nonexistent"), {**os.environ, **environ}, base)
    inspector = Inspector(around, cache_dir=None)
    found = await inspector.examine(config.models["m"])
    return [problem.cause for problem in found.problems]


@pytest.mark.parametrize(
    "options",
    [
        'log-file = "new.log"',
        'lookup-cache-dynamic = "new.bin"',
        'chat-template-kwargs = "{\\"a\\": 1}"',
        "n-gpu-layers = 99",
        'n-gpu-layers = "auto"',
        'flash-attn = true\ncache-type-k = "q4_0"',
        'alias = ["a", "b"]',
        "mmproj = false",
        'api-key = "secret"',
    ],
)
async def test_options_that_run_are_let_through(tiny: Path, tmp_path: Path, options: str) -> None:
    """What llama-server takes is no problem."""
    assert await causes(f'[models.m]\nmodel = "{tiny}/tiny-a.gguf"\n{options}\n', tmp_path) == []


@pytest.mark.parametrize(
    "model",
    [
        'model = "later.gguf"\nmodel-url = "https://example.org/m.gguf"',
        'hf-repo = "someone/something"',
        'docker-repo = "ai/gemma3"',
    ],
)
async def test_models_that_are_downloaded_are_not_missing(tmp_path: Path, model: str) -> None:
    """A file that llama-server fetches itself need not be there."""
    assert await causes(f"[models.m]\n{model}\n", tmp_path) == []


async def test_a_download_is_announced_until_it_is_there(tmp_path: Path) -> None:
    """A model that is fetched at its first load carries a warning; one in the cache does not."""
    config = parse('[models.m]\nhf-repo = "someone/something:Q4_K_M"\n', base=tmp_path, environ={})
    around = Surroundings(tmp_path, tmp_path, {"PATH": "", "HF_HOME": str(tmp_path / "hf")}, tmp_path)
    inspector = Inspector(around, cache_dir=None)

    before = await inspector.inspect(config.models["m"])
    fake_download(tmp_path / "hf" / "hub" / "models--someone--something" / "snapshots" / "abc")
    after = await inspector.inspect(config.models["m"])

    assert [warning.code for warning in before.warnings] == ["not_downloaded"]
    assert after.warnings == ()


def fake_download(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "something-Q4_K_M.gguf").touch()


async def test_a_comma_may_be_part_of_a_name(tiny: Path, tmp_path: Path) -> None:
    """Only options that take a list are split at commas."""
    (tmp_path / "a,b.gguf").symlink_to(tiny / "tiny-a.gguf")

    assert await causes('[models.m]\nmodel = "a,b.gguf"\n', tmp_path) == []


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program in a directory that is not on PATH."""
    path = tmp_path / "bin" / "my-server"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


async def test_a_command_is_looked_for_on_its_own_path(program: Path, tmp_path: Path) -> None:
    """`env.PATH` of a model counts for its `cmd`."""
    command = '[models.m]\ncmd = "my-server ${PORT}"\n'

    assert await causes(command, tmp_path) == ["binary_not_found"]
    assert await causes(f'{command}env = {{ PATH = "{program.parent}" }}\n', tmp_path) == []


async def test_a_missing_part_of_a_split_model_is_named(tiny: Path, tmp_path: Path) -> None:
    """Each part of a split model is looked at."""
    (tmp_path / "tiny-split-00001-of-00002.gguf").symlink_to(tiny / "tiny-split-00001-of-00002.gguf")

    assert await causes('[models.m]\nmodel = "tiny-split-00001-of-00002.gguf"\n', tmp_path) == ["model_file_missing"]
