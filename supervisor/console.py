"""What commands say to people: with colours and aligned on a terminal, plain lines everywhere else.

What is said of models and their failures is put into words elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.parts import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TextIO

    from supervisor.config.problems import Problem
    from supervisor.parts import Part

logger = logging.getLogger("supervisor.console")

_speaks_json = False
"""Whether what is written has to be JSON, because a program reads it."""


PROBLEMS = (Column("where", style="bold"), Column("problem", is_prose=True, style="red"), Column("hint", is_prose=True))


def speak_json(*, wanted: bool) -> None:
    """Complain from now on in a log that programs read, or again to people."""
    global _speaks_json  # noqa: PLW0603 - stdout and stderr are there once, too
    _speaks_json = wanted


def is_terminal(stream: TextIO) -> bool:
    """Whether a person sees what is written there, or wants it as if."""
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR"))


def say(*parts: Part) -> None:
    """A line of a command's output."""
    _write(sys.stdout, parts)


def tell(*parts: Part) -> None:
    """What a command has to say beside its output."""
    _write(sys.stderr, parts)


def _write(stream: TextIO, parts: Sequence[Part]) -> None:
    if is_terminal(stream):
        from supervisor import terminal

        terminal.write(stream, parts)
    else:
        print("".join(map(_plain, parts)), file=stream, flush=True)


def _plain(part: Part) -> str:
    return part if isinstance(part, str) else part[0]


def table(columns: Sequence[Column], rows: Sequence[Sequence[Part]]) -> None:
    """A table on a terminal; elsewhere one line per row, its cells separated by tabs."""
    if is_terminal(sys.stdout):
        from supervisor import terminal

        terminal.table(sys.stdout, columns, rows)
    else:
        for row in rows:
            print("\t".join(map(_plain, row)), flush=True)


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float, str], None]]:
    """A bar on a terminal that is told how far something is, and in which stage; elsewhere nothing."""
    if is_terminal(sys.stdout):
        from supervisor import terminal

        with terminal.progress_bar(sys.stdout, description) as tell_progress:
            yield tell_progress
    else:
        yield lambda fraction, stage: None


def problems_table(rows: Sequence[tuple[str, str, str]]) -> None:
    """What is wrong where, and what to do: a table on a terminal, else two lines each."""
    if is_terminal(sys.stderr):
        from supervisor import terminal

        terminal.table(sys.stderr, PROBLEMS, rows)
    else:
        for where, problem, hint in rows:
            complain(f"{where}: {problem}", hint)


def warn(name: str, warnings: Sequence[Mapping[str, str]]) -> None:
    """What runs otherwise than it was meant to."""
    for warning in warnings:
        caution(f"{name}: {warning['message']}", warning["hint"])


def odd(problems: Iterable[Problem]) -> None:
    """What is odd about a config that can be used all the same."""
    for problem in problems:
        caution(str(replace(problem, hint="")), problem.hint)


def caution(message: str, hint: str = "") -> None:
    """A warning of a command; of a service whose log is for programs, a line of that."""
    _remark(logging.WARNING, ("warning: ", "bold yellow"), message, hint)


def complain(message: str, hint: str = "") -> None:
    """An error of a command, or as `caution`."""
    _remark(logging.ERROR, ("error: ", "bold red"), message, hint)


def _remark(level: int, sign: Part, message: str, hint: str) -> None:
    if _speaks_json:
        logger.log(level, "%s", f"{message}; hint: {hint}" if hint else message)
        return
    tell(sign, message)
    if hint:
        tell(("hint: ", "bold"), hint)
