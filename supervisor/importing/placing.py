"""Where the comments of a llama-swap file belong on a page of models.toml. Pure.

Every comment finds a place: at the key that says the same now, else at the table, else at the end under its old name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.config.llama_swap.schema import TABLES
from supervisor.importing.arguments import key_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from supervisor.config.llama_swap.comments import Comment, Path
    from supervisor.importing.page import Entry, Page, Section
    from supervisor.llama.help_text import Catalogue

COMMAND = ("cmd", "model", "hf-repo", "model-url", "docker-repo")
"""Keys of which one begins what was a command."""


@dataclass(slots=True)
class Homes:
    """What is known of the way from a key of the source to one of the page."""

    catalogues: Mapping[str, Catalogue] = field(default_factory=dict)
    """Of the models' binaries, for options named in a command's comments."""
    macros: dict[str, set[str]] = field(default_factory=dict)
    """The models that use each macro."""
    from_macros: dict[str, list[str]] = field(default_factory=dict)
    """The options in each macro."""


def place_comments(page: Page, comments: Iterable[Comment], homes: Homes, *, source: str) -> None:
    """Put every comment where it belongs."""
    homeless: dict[str, list[str]] = {}
    heading = 0
    for comment in comments:
        section, entry = _home(page, comment, homes)
        if entry is not None:
            (entry.beside if comment.is_beside else entry.above).append(comment.text)
        elif section is not None and comment.is_below and comment.path == section.path:
            section.below.append(comment.text)
        elif section is not None and comment.is_beside and comment.path != section.path:
            section.above.append(f"{comment.path[-1]}: {comment.text}")  # its key is elsewhere now
        elif section is not None:
            (section.beside if comment.is_beside else section.above).append(comment.text)
        elif not comment.path and not comment.is_below:
            page.above += ["", comment.text] if heading and comment.line > heading + 1 else [comment.text]
            heading = comment.line
        else:
            homeless.setdefault(".".join(comment.path), []).append(comment.text)
    for path, texts in homeless.items():
        where = f"Noted at `{path}` in {source}, which has no place here" if path else f"Noted at the end of {source}"
        page.below += [f"{where}:", *(f"  {text}" for text in texts)]


def _home(page: Page, comment: Comment, homes: Homes) -> tuple[Section | None, Entry | None]:
    match comment.path:
        case ("macros", macro, *_):
            return _home_of_macro(page, macro, comment, homes)
        case ("models", name, "cmd") if (section := page.section(("models", name))) is not None:
            return section, _in_command(page, section, comment, homes.catalogues.get(name))
        case ("models" | "peers" | "selectors" | "profiles" as kind, name, *rest):
            return _in_section(page.section((kind, name)), f"{kind}.NAME.", rest)
        case ("models" | "peers" | "selectors" | "profiles" as kind,):
            first = next((section for section in page.sections if section.path[0] == kind), None)
            return (None, None) if comment.is_below else (first, None)
        case ("groups", name, *rest) | ("routing", "router", "settings", "groups", name, *rest):
            section = page.section(("groups", name))
            return section, section.entries.get(rest[0]) if section is not None and rest else None
        case ("groups", *_) | ("routing", "router", "settings", "groups"):
            return next((section for section in page.sections if section.path[0] == "groups"), None), None
        case ("matrix", *rest) | ("routing", "router", "settings", "matrix", *rest):
            section = page.section(("matrix",))
            return section, section.entries.get(rest[0]) if section is not None and rest else None
        case ("hooks", *_) if (server := page.section(("server",))) is not None:
            return server, server.entries.get("preload")
        case ("routing", "scheduler", "settings", "fifo", "priority", name):
            section = page.section(("models", name))
            return section, section.entries.get("priority") if section is not None else None
        case path:
            return _at_top(page, path)


def _home_of_macro(page: Page, macro: str, comment: Comment, homes: Homes) -> tuple[Section | None, Entry | None]:
    defaults = page.section(("defaults",))
    users = homes.macros.get(macro, set())
    first = next(
        (section for section in page.sections if section.path[0] == "models" and section.path[1] in users), None
    )
    if first is not None and (entry := _of_option(page, first, comment, homes.catalogues.get(first.path[1]))):
        return first, entry
    for section in (defaults, first):
        for key in homes.from_macros.get(macro, ()):
            if section is not None and (entry := _entry(section, key)) is not None:
                return section, entry
    return first, None


def _in_command(page: Page, section: Section, comment: Comment, catalogue: Catalogue | None) -> Entry | None:
    """The key of the option that a comment within a command stands above, else the first of what it has become."""
    entry = _of_option(page, section, comment, catalogue)
    return entry or next((section.entries[key] for key in COMMAND if key in section.entries), None)


def _of_option(page: Page, section: Section, comment: Comment, catalogue: Catalogue | None) -> Entry | None:
    word = next((word for word in comment.words.split() if word.startswith("-")), None)
    key = key_named(catalogue, word) if word and catalogue else None
    defaults = page.section(("defaults",))
    if key is not None and "cmd" not in section.entries:
        for each in (section, defaults):
            if each is not None and (entry := _entry(each, key)) is not None:
                return entry
    return None


def _entry(section: Section, key: str) -> Entry | None:
    sampling = section.entries.get("sampling")
    if key in section.entries:
        return section.entries[key]
    return sampling if sampling is not None and isinstance(sampling.value, dict) and key in sampling.value else None


def _in_section(section: Section | None, table: str, keys: Sequence[str]) -> tuple[Section | None, Entry | None]:
    return (section, _named(section, table + ".".join(keys))) if section is not None else (None, None)


def _at_top(page: Page, path: Path) -> tuple[Section | None, Entry | None]:
    """A key of the file itself, which may have become one of `[server]` or `[defaults]`."""
    for section in (page.section(("server",)), page.section(("defaults",))):
        if section is not None and (entry := _named(section, ".".join(path))) is not None:
            return section, entry
    return None, None


def _named(section: Section, path: str) -> Entry | None:
    """The key that says what one of llama-swap's says, by the tables of its reader.

    A part stands for its whole, and the first key of a table for the table.
    """
    for prefix, keys in TABLES.items():
        if path.startswith(prefix):
            known = [key for name, key in keys.items() if name == path.removeprefix(prefix).split(".")[0]]
        else:
            known = list(keys.values()) if prefix.startswith(f"{path}.") else []
        for name in (name for key in known for name in key.toml.split(",")):
            key = name.rpartition("]")[2].strip().split(".")[0]
            if key in section.entries:
                return section.entries[key]
    return None
