"""`llama-supervise check` names what is wrong before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import SECOND_BUILD
from tests.failures.test_kinds import FAILS, Row, toml_of

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMAND = Path(sys.executable).parent / "llama-supervise"

TRIED = {
    "16-environment-options",
    "18-config_value-options",
    "18-config_syntax-options",
    "33-no_slots-options",
    "41-json_schema-options",
    "41-kwargs-options",
    "43-device-options",
    "49-buffer_type-options",
}
"""What the binary itself says of its arguments when it is asked only that."""

ROWS = tuple(row for row in FAILS if not row.said or row.id in TRIED)


@dataclass(frozen=True)
class Checked:
    """What one run of `check --json` said."""

    build: str
    exit_code: int
    models: Mapping[str, list[dict[str, Any]]]
    warnings: Mapping[str, list[dict[str, Any]]]


def check(folder: Path, config: str, build: str = "") -> Checked:
    (folder / "models.toml").write_text(config)
    command = [COMMAND, "check", "--json", "-c", folder / "models.toml"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(run.stdout)
    return Checked(build, run.returncode, found["models"], found["warnings"])


@pytest.fixture(scope="module", params=["wheel", "second"])
def checked(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    places: dict[str, object],
    wheel_binary: Path,
) -> Checked:
    """All broken models looked at in one go, beside a sound one."""
    if request.param == "second" and not SECOND_BUILD.exists():
        pytest.skip("no second build here")
    binary = SECOND_BUILD if request.param == "second" else wheel_binary
    rows = (*ROWS, Row("0-sound", "", options=""))
    config = "\n".join(toml_of(row, {**places, "binary": binary}) for row in rows)
    return check(tmp_path_factory.mktemp("check"), config, request.param)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_check_finds_it(checked: Checked, row: Row) -> None:
    """The same cause as a start would give, with a hint, and no false one beside it."""
    if row.build not in {"", checked.build}:
        pytest.skip(f"only the {row.build} build does this")

    (problem,) = checked.models[row.id]

    assert problem["cause"] == row.code
    assert problem["message"]
    assert problem["hint"]
    assert problem["permanent"] is (row.status == 500)


def test_problems_are_exit_code_2(checked: Checked) -> None:
    """Scripts can tell; a sound model is not accused for the sake of its neighbours."""
    assert checked.exit_code == 2
    assert checked.models["0-sound"] == []
    assert len({row.id.partition("-")[0] for row in ROWS}) >= 25


def test_warnings_alone_are_no_failure(tmp_path: Path, tiny: Path, binary: Path) -> None:
    """What runs otherwise than asked is told, with exit code 0."""
    config = f'[models.odd]\nbinary = "{binary}"\nmodel = "{tiny}/tiny-a.gguf"\nspec-draft-model = "{tiny}/tiny-b.gguf"'

    found = check(tmp_path, config)

    assert found.exit_code == 0
    assert [warning["code"] for warning in found.warnings["odd"]] == ["draft_unused"]
    assert found.models["odd"] == []


def test_every_problem_of_a_model_is_named(tmp_path: Path, tiny: Path, wheel_binary: Path) -> None:
    """Who mends the first does not meet the second afterwards."""
    config = f"""
    [models.bad]
    binary = "{wheel_binary}"
    model = "{tiny}/broken-empty.gguf"
    mmproj = "/nope/mm.gguf"
    ctx-size = "8k"
    ctx-sise = 1
    """

    found = check(tmp_path, config)

    assert {problem["cause"] for problem in found.models["bad"]} == {
        "bad_flag_value",
        "unknown_flag",
        "model_file_truncated",
        "mmproj_missing",
    }


def test_nothing_is_started(tmp_path: Path, tiny: Path) -> None:
    """What is no llama-server could do anything with our arguments: it is looked at, and not run."""
    program = tmp_path / "program.sh"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n')
    program.chmod(0o755)
    model = f"{tiny}/tiny-a.gguf"

    found = check(
        tmp_path, f'[models.a]\nbinary = "{program}"\nmodel = "{model}"\n[models.b]\ncmd = "{program} ${{PORT}}"'
    )

    assert found.exit_code == 0
    assert not (tmp_path / "calls").exists()


def test_a_check_is_quick(tmp_path: Path, tiny: Path, wheel_binary: Path) -> None:
    """A model that would take seconds to load is checked without them: its context alone would not fit anywhere."""
    config = f'[models.vast]\nbinary = "{wheel_binary}"\nmodel = "{tiny}/tiny-a.gguf"\nctx-size = 2000000000'

    assert check(tmp_path, config).exit_code == 0


@pytest.mark.parametrize("option", ["log-file", "lookup-cache-dynamic"])
def test_a_file_that_will_be_written_need_not_exist(tmp_path: Path, tiny: Path, binary: Path, option: str) -> None:
    """Only files that are read must be there."""
    config = f'[models.a]\nbinary = "{binary}"\nmodel = "{tiny}/tiny-a.gguf"\n{option} = "{tmp_path}/new"'

    assert check(tmp_path, config).models["a"] == []
