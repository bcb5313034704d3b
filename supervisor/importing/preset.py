"""A preset file of llama.cpp's router as a page of models.toml, read as the router reads it. Pure.

What that reading is was found by running it (spec: llama-server.md, section 1.5): keys are names of options without
dashes or of their variables, `[*]` holds for all, a comment begins even within a value, a section that comes again
replaces the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.config.options import SAMPLING
from supervisor.config.problems import ConfigInvalid, Problem
from supervisor.importing.arguments import key_of
from supervisor.importing.draft import Draft, Note
from supervisor.importing.page import Entry, Page, Section
from supervisor.importing.preset_text import VERSION, Part, read
from supervisor.importing.references import written
from supervisor.llama.arguments import Argument
from supervisor.llama.command import PATHS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from supervisor.config.values import Option
    from supervisor.importing.preset_text import Line
    from supervisor.llama.help_text import Catalogue, Flag

EVERY = "*"
OF_ROUTERS = {
    "stop-timeout": "a llama-server of ours leaves at once when it is told to",
    "dedup-cache-models": "there is no list of downloaded models",
}
"""Keys that no llama-server gets, and why they are not needed."""
AT_START = "load-on-startup"
TAKEN_AWAY = frozenset(
    (
        *("ssl-key-file", "ssl-cert-file", "api-key", "api-key-file", "host", "port"),
        *("models-dir", "models-max", "models-preset", "models-autoload"),
    )
)
"""Options of the router's own, which it takes out of presets or says itself."""
ROUTERS_MOST = 4
"""Models a router has loaded at most, unless `--models-max` says otherwise."""
MODEL_KEYS = frozenset({"model", "hf-repo", "docker-repo", "model-url"})

_TRUE = frozenset({"on", "enabled", "true", "1"})
_FALSE = frozenset({"off", "disabled", "false", "0"})


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset file and what it is read with."""

    name: str
    text: str
    catalogue: Catalogue
    """Of the llama-server that will run the models."""
    home: Path
    """Where its relative paths start."""
    base: Path | None = None
    """Where models.toml will be, if that is elsewhere."""


def draft(preset: Preset) -> Draft:
    """The page; raises `ConfigInvalid` where the router would not start, with everything that is wrong."""
    return _Import(preset).draft()


class _Import:
    def __init__(self, preset: Preset) -> None:
        self._preset = preset
        self._notes: list[Note] = []
        self._problems: list[Problem] = []
        self._of_starts: list[str] = []
        """What is noted where a model is to be loaded at the start."""

    def draft(self) -> Draft:
        text = read(self._preset.text)
        self._notes += text.notes
        self._problems += text.problems
        page = Page(above=text.heading, below=text.below)
        most = Entry(ROUTERS_MOST, beside=["as a router's --models-max, unless it was told another"])
        page.sections.append(server := Section(("server",), {"max_loaded": most}))
        words: dict[str, tuple[str, ...]] = {}
        at_start: list[str] = []
        every = next((part for part in text.parts if part.name == EVERY), Part(EVERY))
        shared = dict(self._options(every))
        if every.lines or every.above:
            page.sections.append(self._section(("defaults",), every))
        for part in text.parts:
            if part.name == EVERY:
                continue
            name, own = canonical(part.name), dict(self._options(part))
            both = {**shared, **own}
            if MODEL_KEYS.isdisjoint(key_of(each) for each in both.values()):
                self._notes.append(Note(f"[{part.name}]", "names no model, and is left out"))
                page.below += [f"[{part.name}], which names no model:", *part.as_comments()]
                continue
            page.sections.append(self._section(("models", name), part))
            words[name] = tuple(word for each in both.values() for word in router_words(each))
            said = [line.value in _TRUE for line in (*every.lines, *part.lines) if line.key == AT_START]
            if said and said[-1]:
                at_start.append(name)
        if at_start:
            server.entries["preload"] = Entry(at_start, above=self._of_starts)
        else:
            page.below += self._of_starts
        if self._problems:
            raise ConfigInvalid(list(dict.fromkeys(self._problems)))
        return Draft(page, self._notes, words)

    # Options.

    def _options(self, part: Part) -> Iterator[tuple[str, Argument]]:
        """The options of a section that its child gets, by their keys."""
        for line in part.lines:
            argument = self._argument(line)
            if argument is not None and argument.key not in TAKEN_AWAY and argument.key != "alias":
                yield key_of(argument), argument

    def _argument(self, line: Line) -> Argument | None:
        if line.key in OF_ROUTERS or line.key in {VERSION, AT_START}:
            return None
        flag, typed = _find(self._preset.catalogue, line.key)
        if flag is None:
            near = self._preset.catalogue.nearest(line.key)
            hint = f"did you mean `{near}`?" if near else ""
            self._problems.append(Problem(f"line {line.number}", "an option of this llama-server", line.key, hint))
            return None
        if not flag.is_bare:
            return Argument(typed, flag, (line.value,))
        if line.value not in _TRUE | _FALSE:
            self._problems.append(Problem(f"line {line.number}", "true or false", line.value))
        is_on = (line.value in _TRUE) != (typed in flag.negatives)
        names = [name for name in flag.spellings if (name in flag.negatives) != is_on]
        return Argument(names[-1] if names else "", flag)

    def _section(self, path: tuple[str, ...], part: Part) -> Section:
        section = Section(path, above=list(part.above), beside=[part.beside] if part.beside is not None else [])
        if path[0] == "models" and path[1] != part.name:
            section.entries["aliases"] = Entry([part.name])
        for line in part.lines:
            self._put(section, part, line)
        sampling = section.entries.pop("sampling", None)
        if sampling is not None:
            section.entries["sampling"] = sampling
        return section

    def _put(self, section: Section, part: Part, line: Line) -> None:
        argument = self._argument(line)
        if line.key == VERSION:
            section.below += line.notes
        elif line.key == AT_START and line.value in _TRUE:
            self._of_starts += line.notes
        elif argument is None or argument.key in TAKEN_AWAY or (argument.key == "alias" and part.name == EVERY):
            self._leave(section, line, "" if argument is None else argument.key)
        else:
            entry = self._entry(section, part, argument, line.value)
            entry.above += line.above
            entry.beside += [line.beside] if line.beside is not None else []

    def _leave(self, section: Section, line: Line, key: str) -> None:
        """A line that has no place stays as a comment."""
        reason = "is a name, and models cannot share one" if key == "alias" else "is the router's to say"
        if line.key != AT_START:
            self._notes.append(Note(f"line {line.number}, {line.key}", OF_ROUTERS.get(line.key, reason)))
        shown = f"{line.key} = {'…' if 'key' in line.key else line.value}"
        section.below += [*line.above, shown, *([line.beside] if line.beside is not None else [])]

    def _entry(self, section: Section, part: Part, argument: Argument, text: str) -> Entry:
        key, value = key_of(argument), self._value(argument)
        if key == "alias":
            names = [part.name, *(name.strip() for name in text.split(","))]
            others = dict.fromkeys(name for name in names if name and name != section.path[-1])
            return _replaced(section, "aliases", list(others))
        if key not in SAMPLING:
            return _replaced(section, key, written(value))
        entry = section.entries.setdefault("sampling", Entry({}))
        assert isinstance(entry.value, dict)
        entry.value[key] = value
        return entry

    def _value(self, argument: Argument) -> Option:
        flag = argument.flag
        assert flag is not None
        if flag.is_bare:
            return bool(argument.typed) and argument.typed not in flag.negatives
        value = argument.option
        (text,) = argument.values
        if argument.key in PATHS and self._preset.base is not None and not text.startswith(("/", "~")):
            return str(self._preset.home / text)
        is_same = isinstance(value, str) or str(value) == text or flag.hint == "N"
        return value if is_same and not isinstance(value, bool) else text


def _replaced(section: Section, key: str, value: object) -> Entry:
    """The last word on a key holds; what is noted at the others stays."""
    before = section.entries.pop(key, Entry(None))
    entry = section.entries[key] = Entry(value, before.above, before.beside)
    return entry


def canonical(name: str) -> str:
    """A name as the router has it: the tag behind its last colon in capitals."""
    head, colon, tag = name.rpartition(":")
    return f"{head}:{tag.upper()}" if colon else name


def router_words(argument: Argument) -> tuple[str, ...]:
    """What the router's child gets for it: the last of an option's names, and its value."""
    flag = argument.flag
    assert flag is not None
    if flag.is_bare:
        return (argument.typed,) if argument.typed else ()
    return flag.spellings[-1], *argument.values


def _find(catalogue: Catalogue, key: str) -> tuple[Flag | None, str]:
    """The option a key names, and how it was typed; underscores are none of a preset's."""
    by_variable: Mapping[str, Flag] = {flag.env: flag for flag in catalogue.flags if flag.env}
    if key in by_variable:
        return by_variable[key], by_variable[key].spellings[0]
    flag, typed = (catalogue.find(key), catalogue.spelling(key)) if "_" not in key else (None, None)
    return flag, typed or ""
