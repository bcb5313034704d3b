"""Our own log as lines of text: how a line looks, and how lines of any thread get to where they are kept."""

from __future__ import annotations

import logging
import threading
from datetime import datetime
from typing import TYPE_CHECKING

from supervisor.record.go_time import EXACT, LAYOUTS, format_time

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

OURS = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_LEVELS = {"WARNING": "WARN", "CRITICAL": "ERROR"}


class Stamp:
    """The time that a line begins with, in the layout of a name; nothing if no layout is called so."""

    def __init__(self, time_format: str) -> None:
        self._time_format = time_format
        self._is_empty = time_format.lower() not in LAYOUTS
        self._is_exact = time_format.lower() in EXACT
        self._last = (0, "")
        """The second that was asked for last, and its text: making one costs more than the rest of a line."""

    def at(self, when: float) -> str:
        """The time, and a space behind it."""
        if self._is_empty:
            return ""
        second, text = self._last
        if second != int(when) or self._is_exact:
            text = f"{format_time(self._time_format, datetime.fromtimestamp(when).astimezone())} "
            self._last = int(when), text
        return text


class LlamaSwapFormatter(logging.Formatter):
    """Lines as llama-swap writes them: `[LEVEL] message`, after the time if a layout for it is named."""

    def __init__(self, time_format: str) -> None:
        super().__init__()
        self._stamp = Stamp(time_format)

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = _LEVELS.get(record.levelname, record.levelname)
        return f"{self._stamp.at(record.created)}[{level}] {record.message}"


def formatter(time_format: str | None) -> logging.Formatter:
    """What makes a line of a record; None is our own format, any text llama-swap's."""
    return logging.Formatter(OURS) if time_format is None else LlamaSwapFormatter(time_format)


class Redacting(logging.Filter):
    """Takes secrets out of what is logged: values of the config stand in many a line, whole ones at level debug."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._redact = redact

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._redact(record.getMessage()), None
        return True


class LineHandler(logging.Handler):
    """Gives `write` each line of our log, always in the loop's thread: what other threads say comes a moment later."""

    def __init__(self, write: Callable[[str], None], loop: asyncio.AbstractEventLoop, form: logging.Formatter) -> None:
        super().__init__()
        self._write = write
        self._loop = loop
        self._thread = threading.get_ident()
        self.setFormatter(form)

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record).encode(errors="replace").decode()  # a path may have bytes that are no text
        lines = text.splitlines()
        if threading.get_ident() == self._thread:
            self._write_all(lines)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._write_all, lines)

    def _write_all(self, lines: list[str]) -> None:
        for line in lines:
            self._write(line)
