"""Our own log as lines."""

from __future__ import annotations

import asyncio
import logging
import re
import sys

import anyio.to_thread
import pytest

from supervisor.record.json_log import JsonFormatter
from supervisor.record.own_log import LineHandler, Redacting, Stamp, formatter

pytestmark = pytest.mark.anyio


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("supervisor.pool", level, "", 0, message, None, None)


@pytest.mark.parametrize(
    ("level", "word"),
    [(logging.DEBUG, "DEBUG"), (logging.INFO, "INFO"), (logging.WARNING, "WARN"), (logging.ERROR, "ERROR")],
)
def test_llama_swap_line(level: int, word: str) -> None:
    """Without a layout for the time, a line is its level and message."""
    assert formatter("").format(record("hello", level)) == f"[{word}] hello"


def test_llama_swap_line_with_time() -> None:
    """With one, the time comes first."""
    line = formatter("rfc3339").format(record("hello"))

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d) \[INFO\] hello", line)


@pytest.mark.parametrize(("layout", "are_equal"), [("kitchen", True), ("rfc3339", True), ("stampmilli", False)])
def test_stamps(layout: str, *, are_equal: bool) -> None:
    """A layout shows as much of the time as it says, and never an old one."""
    stamp = Stamp(layout)
    first = stamp.at(1_000_000_000.1)

    assert first.endswith(" ")
    assert (stamp.at(1_000_000_000.9) == first) is are_equal
    assert stamp.at(1_000_000_060.1) != first
    assert stamp.at(1_000_000_000.1) == first


def test_our_line() -> None:
    """Our own format has time, level, logger and message."""
    line = formatter(None).format(record("hello"))

    assert re.fullmatch(r"[\d-]{10} [\d:,]{12} INFO    supervisor\.pool: hello", line)


async def test_lines() -> None:
    """A message is one line of the log, whatever is in it; what comes with it, such as a traceback, has its own."""
    lines: list[str] = []
    handler = LineHandler(lines.append, asyncio.get_running_loop(), formatter(""))
    broken = record("one\ntwo \udcff")
    broken.exc_text = "Traceback:\n  \udcff"
    handler.handle(broken)

    assert lines == [r"[INFO] one\ntwo \udcff", "Traceback:", "  ?"]


async def test_secrets() -> None:
    """A secret in a line is replaced, wherever it came from."""
    lines: list[str] = []
    handler = LineHandler(lines.append, asyncio.get_running_loop(), formatter(""))
    handler.addFilter(Redacting(lambda text: text.replace("sk-1234", "[redacted]")))
    said = logging.LogRecord("supervisor.pool", logging.INFO, "", 0, "%s of %r", ("sk-1234", ["sk-1234"]), None)
    handler.handle(said)

    assert lines == ["[INFO] [redacted] of ['[redacted]']"]


def test_secrets_beside_the_words() -> None:
    """Nor does it stand in a fact or a traceback, in lines for people and in those for programs."""
    try:
        raise ValueError("sk-1234 is no key")
    except ValueError:
        said = logging.LogRecord("supervisor.pool", logging.ERROR, "", 0, "bug", (), sys.exc_info())
    said.path = "/sk-1234"
    Redacting(lambda text: text.replace("sk-1234", "[redacted]")).filter(said)

    for text in (JsonFormatter().format(said), formatter("").format(said)):
        assert "sk-1234" not in text
        assert "ValueError: [redacted] is no key" in text
    assert '"path": "/[redacted]"' in JsonFormatter().format(said)


async def test_other_threads() -> None:
    """What another thread logs is written in the loop's."""
    lines: list[str] = []
    handler = LineHandler(lines.append, asyncio.get_running_loop(), formatter(""))
    await anyio.to_thread.run_sync(handler.handle, record("from afar"))
    await anyio.lowlevel.checkpoint()

    assert lines == ["[INFO] from afar"]
