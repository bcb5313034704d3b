"""Realistic files of other tools, written for a machine that can run them, and what importing them printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import DEADLINE
from tests.llamaswap.children import CHILD, free_ports

FOLDER = Path(__file__).parent
SWAP_FILES = sorted(path.stem for path in (FOLDER / "llama_swap").iterdir())
PRESETS = sorted(path.stem for path in (FOLDER / "presets").iterdir())
SECRETS = {
    "HF_TOKEN": "hf_of-the-family",
    "HOUSE_KEY": "sk-house-0123456789",
    "CHILD_KEY": "sk-child-0123456789",
    "CELLAR_KEY": "sk-cellar-0123456789",
}
COMMENT = re.compile(r"(?:^|(?<=\s))[#;]\s+(.+)$", re.MULTILINE)
DOCKER = f"""#!/bin/sh
# `docker run --name NAME -p PORT:8000` is a child that `docker stop NAME` ends.
here=$(dirname "$0")
[ "$1" = stop ] && exec kill "$(cat "$here/$2.pid")"
while [ $# -gt 0 ]; do case "$1" in --name) name=$2;; *:8000) port="${{1%:8000}}";; esac; shift; done
echo $$ > "$here/$name.pid"
exec {sys.executable} {CHILD} --speaks --port "$port"
"""


@dataclass(frozen=True)
class Place:
    """A folder with a source in it, and the environment it needs."""

    folder: Path
    source: Path
    env: dict[str, str]

    def run(self, *arguments: str | Path, check: bool = False) -> subprocess.CompletedProcess[str]:
        """`llama-supervise` with these arguments, in this folder."""
        return subprocess.run(
            [Path(sys.executable).parent / "llama-supervise", *arguments],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**os.environ, **self.env},
            timeout=DEADLINE,
            check=check,
        )


def place(folder: Path, name: str, *, tiny: Path, binary: Path) -> Place:
    """The file of this name in a folder, with what is on this machine put in."""
    source = folder / Path(name).name
    text = (FOLDER / name).read_text("utf-8")
    known = {
        "<llama-server>": str(binary),
        "<tiny>": str(tiny),
        "<child>": f"{sys.executable} {CHILD} --port ${{PORT}}",
        "<port>": str(free_ports()),
    }
    for word, value in known.items():
        text = text.replace(word, value)
    source.write_text(text, "utf-8")
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o755)
    env = {**SECRETS, "MODEL_DIR": str(tiny), "PATH": f"{programs}:{os.environ['PATH']}"}
    return Place(folder, source, env)


def comments_in(text: str) -> list[str]:
    """What follows ` # ` or ` ; `; these files have such a thing nowhere else."""
    return [match.strip() for match in COMMENT.findall(text)]
