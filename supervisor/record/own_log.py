"""Our own log as lines of text: how a line looks, and how lines of any thread get to where they are kept."""

from __future__ import annotations

import logging
import re
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any

from supervisor.record.go_time import EXACT, LAYOUTS, format_time
from supervisor.record.json_log import FACTS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

OURS = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
IN_JOURNAL = "%(name)s: %(message)s"
"""The journal knows the rest itself."""
_LEVELS = {"WARNING": "WARN", "CRITICAL": "ERROR"}
_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE = re.compile(f"[{_CONTROLS}]")
_UNSAFE_IN_A_LINE = re.compile(f"[\n{_CONTROLS}]")


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


class LineFormatter(logging.Formatter):
    """One line for each message, whatever names and paths a client has made part of it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record) + _request(record)

    def formatException(self, ei: Any) -> str:
        return _UNSAFE.sub(_escaped, super().formatException(ei))


def one_line(text: str) -> str:
    """The text with line ends, what steers a terminal and what is no text written as Python escapes."""
    return _UNSAFE_IN_A_LINE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class LlamaSwapFormatter(LineFormatter):
    """Lines as llama-swap writes them: `[LEVEL] message`, after the time if a layout for it is named."""

    def __init__(self, time_format: str) -> None:
        super().__init__()
        self._stamp = Stamp(time_format)

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = _LEVELS.get(record.levelname, record.levelname)
        return f"{self._stamp.at(record.created)}[{level}] {one_line(record.message)}{_request(record)}"


def _request(record: logging.LogRecord) -> str:
    """The request a line concerns, at its end."""
    request_id = getattr(record, "request_id", None)
    return f" (request {request_id})" if request_id else ""


class JournalFormatter(logging.Formatter):
    """Lines of another format, each behind the priority that the journal takes from there (sd-daemon(3))."""

    def __init__(self, form: logging.Formatter) -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        priority = f"<{_priority(record.levelno)}>"
        return "\n".join(priority + line for line in self._form.format(record).splitlines() or [""])


def _priority(level: int) -> int:
    """A level as syslog(3) counts it."""
    steps = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
    return next((priority for least, priority in steps if level >= least), 7)


def formatter(time_format: str | None) -> logging.Formatter:
    """What makes a line of a record; None is our own format, any text llama-swap's."""
    return LineFormatter(OURS) if time_format is None else LlamaSwapFormatter(time_format)


class Redacting(logging.Filter):
    """Takes secrets out of what is logged: values of the config stand in many a line, whole ones at level debug."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._redact = redact

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._redact(record.getMessage()), None
        for name in FACTS:
            if isinstance(fact := record.__dict__.get(name), str):
                record.__dict__[name] = self._redact(fact)
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = self._redact(_PLAIN.formatException(record.exc_info))
        return True


_PLAIN = LineFormatter()


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
