"""What a terminal gets of what we say: colours, tables, bars. Nobody else needs rich, which takes 50 ms to import."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Sequence
    from typing import TextIO

    from supervisor.parts import Column, Part


def write(stream: TextIO, parts: Sequence[Part]) -> None:
    """A line, broken where the terminal ends."""
    Console(file=stream, highlight=False).print(Text.assemble(*parts))


def table(stream: TextIO, columns: Sequence[Column], rows: Sequence[Sequence[Part]]) -> None:
    """Rows below their headings."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        justify, overflow = "right" if column.is_number else "left", "fold" if column.is_prose else "ellipsis"
        shown.add_column(column.heading, style=column.style, justify=justify, overflow=overflow)  # type: ignore[arg-type] # literals, either way
    for row in rows:
        shown.add_row(*(Text.assemble(cell) for cell in row))
    Console(file=stream, highlight=False).print(shown)


@contextlib.contextmanager
def progress_bar(stream: TextIO, description: str) -> Iterator[Callable[[float, str], None]]:
    """A bar that is told how far something is, and in which stage."""
    stage = TextColumn("{task.fields[stage]}")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), stage, TimeElapsedColumn())
    with Progress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task(description, total=1.0, stage="")
        yield lambda fraction, stage: bar.update(task, completed=fraction, stage=stage)


def log_handler(stream: TextIO) -> logging.Handler:
    """Writes our log with the time of day and coloured levels."""
    return RichHandler(console=Console(file=stream), show_path=False, markup=False, log_time_format="%X")
