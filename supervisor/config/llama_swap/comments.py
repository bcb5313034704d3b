"""The comments of a llama-swap file, each with the place it speaks of: YAML's own, and those in a command's lines.

YAML libraries drop comments. Here a `#` is one if no scalar of the parser's covers it, as the YAML rules have it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import yaml

from supervisor.config.llama_swap.document import protected
from supervisor.config.llama_swap.expansion import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Path = tuple[str, ...]
"""Keys from the root on; the elements of lists have the path of their list."""


@dataclass(frozen=True, slots=True)
class Comment:
    """One line of what somebody noted."""

    text: str
    """Without the `#` before it, and the space after that."""
    line: int
    """Counted from 1."""
    path: Path
    """What it speaks of: the key in the same line, or else the next one, unless that is further out."""
    is_below: bool = False
    """Whether it stands below all that `path` holds, as keys do that somebody has switched off."""
    is_beside: bool = False
    """Whether it ends the line of the key."""
    words: str = ""
    """The line of the command it stands above, if it stands in one."""


class _Span(NamedTuple):
    start: int
    end: int
    path: Path
    is_block: bool


class _Node(NamedTuple):
    line: int
    column: int
    path: Path


def comments_of(text: str) -> tuple[Comment, ...]:
    """Every comment of a text that is YAML, in its order."""
    spans, nodes = _walked(text)
    found = [*_outside(text, spans, nodes), *(each for span in spans for each in _in_command(text, span))]
    heading = _heading(text.splitlines())
    about_all = (replace(each, path=(), is_below=False) if each.line <= heading else each for each in found)
    return tuple(sorted(about_all, key=lambda comment: comment.line))


def _heading(lines: Sequence[str]) -> int:
    """How many lines at the top are about the whole file: what stands right above the first key is about that."""
    top = list(takewhile(lambda line: not line.strip() or line.startswith("#"), lines))
    blank = next((at for at in range(len(top), 0, -1) if not top[at - 1].strip()), None)
    return blank if blank is not None else len(top)


def _walked(text: str) -> tuple[list[_Span], list[_Node]]:
    """Where scalars lie, and where keys and the elements of lists begin."""
    spans: list[_Span] = []
    nodes: list[_Node] = []
    above: list[tuple[Path, bool]] = []
    """The paths of the collections we are in, and whether each is a mapping."""
    key: str | None = None
    for event in yaml.parse(protected(text), Loader=yaml.BaseLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            above.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        path, is_mapping = above[-1] if above else ((), False)
        is_key = is_mapping and key is None
        if is_key:
            key = event.value if isinstance(event, yaml.ScalarEvent) else "?"
        own = (*path, key) if key is not None else path
        if isinstance(event, yaml.ScalarEvent):
            spans.append(_Span(event.start_mark.index, event.end_mark.index, own, event.style in {"|", ">"}))
        if is_key or (above and not is_mapping):
            nodes.append(_Node(event.start_mark.line + 1, event.start_mark.column, own))
        if not is_key or not isinstance(event, yaml.ScalarEvent):
            key = None
        if isinstance(event, yaml.CollectionStartEvent):
            above.append((own, isinstance(event, yaml.MappingStartEvent)))
    return spans, nodes


def _outside(text: str, spans: list[_Span], nodes: list[_Node]) -> Iterator[Comment]:
    starts = [span.start for span in spans]
    place = 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        for column, character in enumerate(line):
            if character != "#" or (column and not line[column - 1].isspace()):
                continue
            at = bisect_right(starts, place + column) - 1
            span = spans[at] if at >= 0 else None
            if span is None or place + column >= span.end or _is_after_indicator(text, span, place + column):
                is_beside = bool(line[:column].strip())
                path, is_below = _owner(nodes, number, column, is_beside=is_beside)
                yield Comment(_text(line[column + 1 :]), number, path, is_below, is_beside)
                break
        place += len(line)


def _is_after_indicator(text: str, span: _Span, place: int) -> bool:
    """Whether a place is in the line of `|` or `>`, where a comment may follow."""
    return span.is_block and "\n" not in text[span.start : place]


def _owner(nodes: list[_Node], line: int, column: int, *, is_beside: bool) -> tuple[Path, bool]:
    """The path a comment speaks of, and whether it stands at the end of what that holds."""
    before = [node for node in nodes if node.line <= line]
    after = next((node for node in nodes if node.line > line), None)
    if is_beside and before:
        return before[-1].path, False
    if after is not None and (after.column >= column or not before):
        return after.path, False
    around = next((node for node in reversed(before) if node.column < column), None)
    return (around.path if around else ()), True


def _in_command(text: str, span: _Span) -> Iterator[Comment]:
    """The lines that llama-swap takes out of a command, or of a macro once it is part of one."""
    is_command = bool(span.path) and (span.path[-1] in COMMANDS or span.path[-2:-1] == ("macros",))
    if not is_command or not span.is_block:
        return
    first = text.count("\n", 0, span.start) + 1
    lines = text[span.start : span.end].split("\n")
    for number, line in enumerate(lines[1:], 1):
        if line.strip().startswith("#"):
            below = (each for each in lines[number + 1 :] if each.strip() and not each.strip().startswith("#"))
            yield Comment(_text(line.strip()[1:]), first + number, span.path, words=next(below, ""))


def _text(line: str) -> str:
    """Indented as it was: it may be YAML that somebody has switched off."""
    return line.removeprefix(" ").rstrip()
