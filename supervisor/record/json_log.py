"""Our log for programs: one JSON object per line, whatever has happened.

`time` (RFC 3339, UTC), `level`, `logger` and `message` are always there; `model`, `run`, `request_id`, `key` and others
of `FACTS` where they are known; `exception` is a traceback.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

FACTS = ("model", "run", "pid", "request_id", "key", "address", "method", "path", "status", "bytes", "seconds")
"""What a record may know beside its message, given as `extra`."""


class JsonFormatter(logging.Formatter):
    """Records as JSON objects."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {name: record.__dict__[name] for name in FACTS if record.__dict__.get(name) is not None}
        entry = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **facts,
        }
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = record.exc_text or self.formatException(record.exc_info)
        return _json(entry)


def child_line(text: str, *, run: int, stream: str, at: float) -> str:
    """A line that a child has printed, in the same form."""
    return _json({"time": _time(at), "level": "info", "logger": "child", "message": text, "run": run, "stream": stream})


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(entry: dict[str, object]) -> str:
    text = json.dumps(entry, ensure_ascii=False, default=str)
    return text.encode(errors="replace").decode()  # a path may have bytes that are no text
