"""A folder of GGUF files as a page of models.toml, by the rules of llama.cpp's `--models-dir`. Pure: names are given.

Found by running it (spec: llama-server.md, section 1.6).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.importing.draft import Draft, Note
from supervisor.importing.page import Entry, Page, Section
from supervisor.importing.preset import ROUTERS_MOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import PurePath

DRAFTS = ("mtp-", "dspark-", "dflash-")
"""What the names of draft models begin with."""
SUFFIX = ".gguf"
_FIRST_PART = re.compile(r".*-00001-of-\d+\.gguf")


def draft(folder: PurePath, entries: Mapping[str, Sequence[str] | None]) -> Draft:
    """The page of a folder's entries: names of files with None, those of folders with the names of their files."""
    page = Page(
        sections=[Section(("server",), {"max_loaded": Entry(ROUTERS_MOST, beside=["as a router's --models-max"])})]
    )
    drafted = Draft(page)
    words: dict[str, tuple[str, ...]] = {}
    for name, inside in sorted(entries.items()):
        found = _alone(folder, name) if inside is None else _together(folder / name, inside)
        if found is None:
            if inside is not None:
                drafted.notes.append(Note(f"{name}/", "has no model in it"))
            continue
        model = name.removesuffix(SUFFIX) if inside is None else name
        if model in words:
            drafted.notes.append(Note(name, f"has the name of another: `{model}`; left out"))
            continue
        words[model] = tuple(word for key, path in found.items() for word in (f"--{key}", str(path)))
        page.sections.append(Section.of(("models", model), {key: str(path) for key, path in found.items()}))
        drafted.notes += _others(name, inside or (), found)
    drafted.words = words
    return drafted


def _alone(folder: PurePath, name: str) -> dict[str, PurePath] | None:
    is_model = name.endswith(SUFFIX) and "mmproj" not in name and not name.startswith(DRAFTS)
    return {"model": folder / name} if is_model else None


def _together(folder: PurePath, names: Sequence[str]) -> dict[str, PurePath] | None:
    files = sorted(name for name in names if name.endswith(SUFFIX))
    projectors = [name for name in files if "mmproj" in name]
    drafts = [name for name in files if name.startswith(DRAFTS) and name not in projectors]
    models = [name for name in files if name not in {*projectors, *drafts}]
    first = next((name for name in models if _FIRST_PART.fullmatch(name)), next(iter(models), None))
    if first is None:
        return None
    further = {"mmproj": projectors, "model-draft": drafts}
    return {"model": folder / first, **{key: folder / found[0] for key, found in further.items() if found}}


def _others(name: str, inside: Sequence[str], found: Mapping[str, PurePath]) -> list[Note]:
    """Files of a folder that nothing uses, parts of a split model left aside."""
    used = {path.name for path in found.values()}
    rest = [each for each in sorted(inside) if each.endswith(SUFFIX) and each not in used and "-of-" not in each]
    return [Note(f"{name}/{each}", "is not used: a folder is one model") for each in rest]
