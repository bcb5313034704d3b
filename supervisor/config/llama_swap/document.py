"""From YAML text to dicts, lists and scalars that know their lines; environment variables are replaced on the way.

The only module that knows the YAML library. It takes the parser's events, not its objects: so a key that is there twice
is seen, nothing but plain values is ever made, and what aliases stand for is counted before it is walked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import yaml

from supervisor.config.llama_swap.scalars import Key, Scalar
from supervisor.config.place import CONTROL
from supervisor.config.problems import SHOWN_LENGTH, ConfigInvalid, Problem, path_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.config.place import Sheet

Tree: TypeAlias = "Scalar | list[Tree] | dict[str, Tree]"

MOST_VALUES = 100_000
"""Values of a document with every alias written out; ten lines of aliases of aliases can stand for billions."""
DEEPEST = 100

ENV = re.compile(r"\$\{env\.([a-zA-Z_][a-zA-Z0-9_]*)\}")
_TOKEN = re.compile("\ue000\ue000env\\.([a-zA-Z_][a-zA-Z0-9_]*)\ue001")
_TEXT_TAGS = ("tag:yaml.org,2002:str", "!")
_CORE = "tag:yaml.org,2002:"
# libyaml, of which Go's parser is a translation; the other one reads the same but is slower and not always stricter.
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def document(text: str, sheet: Sheet, *, source: str = "", loader: type[yaml.BaseLoader] = LOADER) -> dict[str, Tree]:
    """The mapping a text holds, with what is wrong with its entries noted on the sheet; empty text is an empty one.

    `source` names the file where there are several. Raises `ConfigInvalid` where the text is no YAML.
    """
    try:
        return _Builder(yaml.parse(protected(text), Loader=loader), sheet, source).mapping()
    except yaml.YAMLError as error:
        raise ConfigInvalid([_syntax_problem(text, error, source)]) from error
    except ValueError as error:
        raise ConfigInvalid([Problem(source or "config", "text in Unicode", hint=str(error))]) from error


def protected(text: str) -> str:
    """Braces end a plain scalar in `[${env.X}]`: variables become words of the same length."""
    return ENV.sub(lambda match: f"\ue000\ue000env.{match[1]}\ue001", text)


def _shown(text: str) -> str:
    return _TOKEN.sub(lambda match: f"${{env.{match[1]}}}", text)


def _syntax_problem(text: str, error: yaml.YAMLError, source: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    if mark is None:
        return Problem(source or "config", "YAML", hint=str(reason))
    lines = text.splitlines() or [""]
    found = CONTROL.sub("�", lines[min(mark.line, len(lines) - 1)].strip())[:SHOWN_LENGTH]
    return Problem(
        f"{source} line {mark.line + 1}, column {mark.column + 1}".strip(), "YAML", found, _shown(str(reason))
    )


class _Builder:
    """Builds the tree of a text's first document."""

    def __init__(self, events: Iterator[yaml.Event], sheet: Sheet, source: str) -> None:
        self._events = events
        self._sheet = sheet
        self._source = source
        self._anchors: dict[str, tuple[Tree, int]] = {}
        """What an anchor names, and how many values that is."""
        self._count = 0

    def mapping(self) -> dict[str, Tree]:
        """The root, which must be a mapping."""
        event = next(self._events)
        while isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return {}
        tree = self._tree(event, "", 0)
        if isinstance(tree, Scalar) and tree.is_null:
            return {}
        if not isinstance(tree, dict):
            self._refuse("config", event, "a mapping with keys such as `models`")
            return {}
        return tree

    def _tree(self, event: yaml.Event, path: str, depth: int) -> Tree:
        if depth > DEEPEST:
            raise ConfigInvalid(
                [Problem(path, "mappings and lists that are less deeply nested", mark=self._mark(event))]
            )
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path)
        before = self._count
        self._add(1, path, event)
        tree: Tree
        if isinstance(event, yaml.MappingStartEvent):
            tree = self._entries(path, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            tree = self._elements(path, depth)
        else:
            tree = self._scalar(event, path)
        if event.anchor:
            self._anchors[event.anchor] = tree, self._count - before
        return tree

    def _alias(self, event: yaml.AliasEvent, path: str) -> Tree:
        if event.anchor not in self._anchors:
            self._refuse(path, event, "an anchor that is complete before its alias", f"*{event.anchor}")
            return Scalar("", mark=self._mark(event))
        tree, count = self._anchors[event.anchor]
        self._add(count, path, event)
        return tree

    def _add(self, count: int, path: str, event: yaml.Event) -> None:
        self._count += count
        if self._count > MOST_VALUES:
            hint = "aliases of aliases multiply"
            raise ConfigInvalid([Problem(path, f"at most {MOST_VALUES} values", hint=hint, mark=self._mark(event))])

    def _elements(self, path: str, depth: int) -> list[Tree]:
        elements: list[Tree] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            elements.append(self._tree(event, path_of(path, len(elements)), depth + 1))
        return elements

    def _entries(self, path: str, depth: int) -> dict[str, Tree]:
        entries: dict[str, Tree] = {}
        merged: list[Tree] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style:
                merged.append(self._merge(path_of(path, "<<"), depth))
                continue
            key = self._key(event, path, depth)
            place = path_of(path, key)
            value_event = next(self._events)
            if key in entries:
                self._refuse_again(place, event, next(there for there in entries if there == key))
            entries[key] = self._tree(value_event, place, depth + 1)
        for each in merged:
            _merge_into(entries, each)
        return entries

    def _merge(self, path: str, depth: int) -> Tree:
        event = next(self._events)
        tree = self._tree(event, path, depth + 1)
        if not all(isinstance(each, dict) for each in (tree if isinstance(tree, list) else [tree])):
            self._refuse(path, event, "a mapping, or a list of mappings")
        return tree

    def _key(self, event: yaml.Event, path: str, depth: int) -> Key:
        tree = self._tree(event, path_of(path, "?"), depth + 1)
        if isinstance(tree, Scalar):
            return Key(tree.text, self._mark(event))
        self._refuse(path or "config", event, "text as a key")
        return Key("?", self._mark(event))

    def _scalar(self, event: yaml.ScalarEvent, path: str) -> Scalar:
        text, is_plain = event.value, _is_plain(event)
        written = _shown(text)
        if _TOKEN.search(text):
            text = _TOKEN.sub(lambda match: self._variable(match[1], event, path), text)
            text = text.strip(" \t") if not event.style else text
        if _is_unsayable(text):
            self._refuse(path, event, "text without NUL characters and halves of characters", written)
            text = ""
        return Scalar(text, is_plain, written, self._mark(event))

    def _variable(self, name: str, event: yaml.ScalarEvent, path: str) -> str:
        """What stands in for a variable: as in llama-swap, quotes and backslashes as double quotes need them."""
        value = self._sheet.environ.get(name)
        if value is None:
            self._refuse(path, event, f"the environment variable `{name}` to be set", _shown(event.value))
            return ""
        if any(character in value for character in "\n\r\0"):
            self._refuse(path, event, f"the environment variable `{name}` to be one line", _shown(event.value))
            return ""
        return value if event.style == '"' else value.replace("\\", "\\\\").replace('"', '\\"')

    def _refuse(self, path: str, event: yaml.Event, expected: str, found: str = "") -> None:
        self._sheet.problems.append(Problem(path or "config", expected, found[:SHOWN_LENGTH], mark=self._mark(event)))

    def _refuse_again(self, path: str, event: yaml.Event, there: str) -> None:
        hint = f"it is on {getattr(there, 'mark', '')} already"
        self._sheet.problems.append(Problem(path, "each key once", str(there), hint, self._mark(event)))

    def _mark(self, event: yaml.Event) -> str:
        return f"{self._source} line {event.start_mark.line + 1}".strip()


def _merge_into(entries: dict[str, Tree], tree: Tree) -> None:
    """Put what `<<` names under what is there: what is said first holds."""
    for each in tree if isinstance(tree, list) else [tree]:
        if isinstance(each, dict):
            entries.update({key: value for key, value in each.items() if key not in entries})


def _is_plain(event: yaml.ScalarEvent) -> bool:
    """Whether the text may be more than text: not if quoted or tagged as such."""
    if event.tag is None:
        return not event.style
    return bool(event.tag.startswith(_CORE)) and event.tag not in _TEXT_TAGS


def _is_unsayable(text: str) -> bool:
    """Whether no argv, no environment and no JSON can carry the text."""
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)
