"""Where our own log goes besides its rings and files: stderr, in the form that whoever reads it there wants."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from supervisor import console, systemd
from supervisor.record import own_log
from supervisor.record.json_log import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Callable


def set_up_logging(
    level: str, time_format: str | None = None, *, as_json: bool = False, redact: Callable[[str], str] = str
) -> None:
    """Our log on stderr: coloured for people, one plain line each for the journal, one object each for programs.

    With llama-swap's lines, the service writes those of our log to stdout, if at all; other libraries' stay here.
    """
    handler = _handler(time_format, as_json=as_json)
    if time_format is not None and not as_json:
        handler.addFilter(_is_foreign)
    handler.addFilter(own_log.Redacting(redact))
    console.speak_json(wanted=as_json)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("supervisor").setLevel(level.upper())
    logging.getLogger("uvicorn.error").addFilter(_is_news)


def _handler(time_format: str | None, *, as_json: bool) -> logging.Handler:
    if sys.stderr.isatty() and time_format is None and not as_json:
        from supervisor import terminal

        handler = terminal.log_handler(sys.stderr)
        handler.setFormatter(own_log.LineFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_formatter(time_format, as_json=as_json))
    return handler


def _formatter(time_format: str | None, *, as_json: bool) -> logging.Formatter:
    goes_to_journal = systemd.is_journal(os.environ, os.fstat(sys.stderr.fileno()))
    if as_json:
        return own_log.JournalFormatter(JsonFormatter()) if goes_to_journal else JsonFormatter()
    if goes_to_journal and time_format is None:
        return own_log.JournalFormatter(own_log.LineFormatter(own_log.IN_JOURNAL))
    return own_log.formatter(time_format)


def _is_foreign(record: logging.LogRecord) -> bool:
    return not record.name.startswith("supervisor")


def _is_news(record: logging.LogRecord) -> bool:
    """Cutting an answer on purpose is logged where it happens; uvicorn's words for it would puzzle people."""
    message = record.getMessage()
    return "without completing response" not in message and "without completing handshake" not in message
