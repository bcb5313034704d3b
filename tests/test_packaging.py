"""What the wheel carries: everything that the program reads at run time, and nothing that is not its own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = ROOT / "supervisor"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as it is built for everybody, here without fetching the build's own packages."""
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_has_every_file(wheel: Path) -> None:
    """Every file of the package is in the wheel, those that are no code too: schema, units."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("supervisor/")}
    files = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    assert names == files
    needed = {"config/models.schema.json", "units/system.service", "units/user.service"}
    assert {f"supervisor/{name}" for name in needed} <= names


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """It is for any Linux, brings the command, its licence, and neither tests nor scripts."""
    with zipfile.ZipFile(wheel) as archive:
        others = {name.split("/", 1)[1] for name in archive.namelist() if not name.startswith("supervisor/")}
        (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        commands = archive.read(points).decode()

    assert wheel.name.endswith("-py3-none-any.whl")
    assert others == {"METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD"}
    assert "llama-supervise = supervisor.cli:main" in commands
