"""The units of systemd that come with the package, and how one becomes that of a certain machine. Writes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

NAME = "llama-supervise.service"
FOLDER = Path(__file__).parent / "units"
SYSTEM, USER = FOLDER / "system.service", FOLDER / "user.service"
MARK = "Written by `llama-supervise service install"
"""Stands in every unit of ours; a file without it is somebody else's."""
MODPROBE = "/usr/bin/nvidia-modprobe"
HOMES = (Path("/home"), Path("/root"))

_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+")


def rendered(template: str, command: Sequence[str], *, groups: Collection[str], has_modprobe: bool) -> str:
    """A unit that runs this command; of the groups it asks for those that there are."""
    return "".join(_lines(template, command, groups, has_modprobe=has_modprobe))


def _lines(template: str, command: Sequence[str], groups: Collection[str], *, has_modprobe: bool) -> Iterator[str]:
    for line in template.splitlines(keepends=True):
        key, _, value = line.partition("=")
        match key:
            case "ExecStart":
                yield f"ExecStart={' '.join(map(quoted, command))}\n"
            case "ExecStartPre" if not has_modprobe:
                continue
            case "SupplementaryGroups":
                if known := [group for group in value.split() if group in groups]:
                    yield f"SupplementaryGroups={' '.join(known)}\n"
            case _:
                yield line


def groups_in(template: str) -> list[str]:
    """The groups that a unit asks for."""
    return [
        group for value in re.findall(r"^SupplementaryGroups=(.*)$", template, re.MULTILINE) for group in value.split()
    ]


def quoted(word: str) -> str:
    """A word of a command line as systemd reads it (systemd.service(5), Command lines)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return word if _PLAIN.fullmatch(word) else f'"{escaped}"'


def out_of_reach(paths: Iterable[Path]) -> list[Path]:
    """Those below a home directory, which a user made for the service can seldom enter."""
    return sorted({path for path in paths if any(path.is_relative_to(home) for home in HOMES)})
