"""What people see: tables, reports and bars with rich on a terminal, plain lines everywhere else."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from supervisor import systemd
from supervisor.fleet.reasons import size as memory_size
from supervisor.record import own_log
from supervisor.record.json_log import JsonFormatter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from supervisor.config.problems import Problem

STATE_STYLES = {
    "ready": "green",
    "busy": "bold green",
    "loading": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "failed": "bold red",
    "cold": "dim",
}
ROWS_SHOWN = 50
SMALL = 16_000_000
"""Bytes; mapped files of less are not named."""

logger = logging.getLogger("supervisor.console")

_speaks_json = False
"""Whether what is written has to be JSON, because a program reads it."""

console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
errors = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def set_up_logging(
    level: str, time_format: str | None = None, *, as_json: bool = False, redact: Callable[[str], str] = str
) -> None:
    """Our log on stderr: coloured for people, one plain line each for the journal, one object each for programs.

    With llama-swap's lines, the service writes those of our log to stdout, if at all; other libraries' stay here.
    """
    handler: logging.Handler
    if sys.stderr.isatty() and time_format is None and not as_json:
        handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False, log_time_format="%X")
        handler.setFormatter(own_log.LineFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_formatter(time_format, as_json=as_json))
    if time_format is not None and not as_json:
        handler.addFilter(_is_foreign)
    handler.addFilter(own_log.Redacting(redact))
    global _speaks_json  # noqa: PLW0603 - stdout and stderr are there once, too
    _speaks_json = as_json
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("supervisor").setLevel(level.upper())
    logging.getLogger("uvicorn.error").addFilter(_is_news)


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


def table(headings: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
    """A table on a terminal; elsewhere one line per row, its cells separated by tabs."""
    if not console.is_terminal:
        for row in rows:
            print("\t".join(str(cell) for cell in row))  # rich would turn the tabs into spaces
        return
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        shown.add_column(heading, justify="right" if heading in {"size", "memory", "context", "pid"} else "left")
    for row in rows:
        shown.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console.print(shown)


def models_table(models: Sequence[Mapping[str, Any]], budget: Mapping[str, int] | None = None) -> None:
    """The models of a config: what they are, and whether their files are all right."""
    rows = [
        (
            model["id"],
            size(model["size_bytes"]),
            model["quantisation"] or "",
            str(model["context"] or ""),
            _taken(model.get("memory")),
            *_explained(model, budget),
            _files(model["problems"]),
        )
        for model in models[:ROWS_SHOWN]
    ]
    table(("model", "size", "quantisation", "context", "memory", "files"), rows)
    if len(models) > ROWS_SHOWN:
        console.print(f"… and {len(models) - ROWS_SHOWN} more; `llama-supervise check` shows all")


def _files(causes: Sequence[str]) -> Text:
    words = dict.fromkeys(cause.replace("_", " ") for cause in causes)
    return Text(", ".join(words), "red") if words else Text("ok", "green")


def processes_table(models: Sequence[Mapping[str, Any]]) -> None:
    """What every model does right now."""
    table(
        ("model", "state", "pid", "memory", "requests", "waiting", "unload in", "tokens/s", "address"),
        [_process_row(model, model["process"] or {}) for model in models],
    )
    memory_of([model for model in models if model["process"]])
    for model in models:
        warn(model["id"], model["warnings"])


def memory_of(models: Sequence[Mapping[str, Any]], budget: Mapping[str, int] | None = None) -> None:
    """On a terminal, below a table, where the numbers in its column `memory` come from; elsewhere the rows say it."""
    for model in models if console.is_terminal else ():
        for line in _memory_lines(model, budget):
            console.print(Text(f"{model['id']}: {line}", "dim"))


def _explained(model: Mapping[str, Any], budget: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """A cell more where no lines come below the table."""
    return () if console.is_terminal else ("; ".join(_memory_lines(model, budget)),)


def _memory_lines(model: Mapping[str, Any], budget: Mapping[str, int] | None) -> Iterator[str]:
    """For each device that a model takes memory of: how much, of how much, and where the number comes from."""
    memory = model.get("memory") or {"devices": {}}
    for device, taken in memory["devices"].items():
        parts = ", ".join(_parts([part for part in memory["parts"] if part["device"] == device]))
        of = f" of {memory_size(budget[device])}" if budget and device in budget else ""
        word = "measured" if memory["source"] == "measured" else "estimated"
        yield f"{memory_size(taken)}{of} on {device}, {word}: {parts}"


def _parts(parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The parts of what is taken of one device; programs and libraries in one."""
    small = [part for part in parts if part["label"] == "mapped" and part["bytes"] < SMALL]
    for part in parts:
        if part not in small:
            yield " ".join(filter(None, (part["label"], Path(part["file"]).name, memory_size(part["bytes"]))))
    if small:
        yield f"programs and libraries {memory_size(sum(part['bytes'] for part in small))}"


def _taken(memory: Mapping[str, Any] | None) -> str:
    """On all devices; with a tilde what is not measured."""
    if memory is None:
        return ""
    sign = "" if memory["source"] == "measured" else "~"
    return " + ".join(
        f"{sign}{memory_size(taken)}{'' if device == 'host' else f' {device}'}"
        for device, taken in memory["devices"].items()
    )


def _process_row(model: Mapping[str, Any], process: Mapping[str, Any]) -> Sequence[str | Text]:
    state = model["state"]
    if state == "failed":
        state = f"failed: {(model['cause'] or '').replace('_', ' ')}"
    progress = model["status"].get("progress")
    if progress:
        state = f"{state} {progress['value']:.0%}"
    left = process.get("unload_in_seconds")
    speed = process.get("tokens_per_second")
    return (
        model["id"],
        Text(state, STATE_STYLES.get(model["state"], "")),
        str(process.get("pid") or ""),
        _taken(model.get("memory")) or memory_size(process.get("memory_bytes") or 0),
        str(process.get("requests", "")),
        str(model["waiting"] or ""),
        "pinned" if model["pinned"] else duration(left) if left is not None else "",
        f"{speed:.1f}" if speed else "",
        process.get("endpoint") or "",
        *_explained(model),
    )


def report(failure: Mapping[str, Any]) -> None:
    """A failure report for people."""
    console.print(Text(failure["message"], "bold red"))
    facts = {
        "hint": failure.get("hint"),
        "cause": failure.get("cause"),
        "when": f"{failure.get('at')}, while {failure.get('phase')}",
        "exit code": failure.get("exit_code"),
        "signal": failure.get("signal"),
        "binary": " ".join(str(part) for part in (failure.get("binary") or {}).values() if part),
        "command": " ".join(failure.get("command") or ()),
    }
    for name, value in facts.items():
        if value not in (None, ""):
            console.print(Text.assemble((f"{name}: ", "dim"), str(value)))
    for title in ("evidence", "stderr_tail"):
        if failure.get(title):
            console.print(Text(title.replace("_", " "), "dim"))
            for line in failure[title]:
                console.print(Text(f"  {line}"))


def decisions(rows: Sequence[Mapping[str, Any]]) -> None:
    """What was decided, oldest first."""
    console.print(Text("decisions", "dim"))
    for row in rows:
        at = time.strftime("%H:%M:%S", time.localtime(row["at"]))
        times = f" ({row['times']} times)" if row.get("times", 1) > 1 else ""
        console.print(Text.assemble(f"  {at} ", (f"{row['kind']:8} ", "bold"), row["reason"], (times, "dim")))


def problems_table(rows: Sequence[tuple[str, str, str]]) -> None:
    """What is wrong where, and what to do: a table on a terminal, else two lines each."""
    if not errors.is_terminal:
        for where, problem, hint in rows:
            complain(f"{where}: {problem}", hint)
        return
    shown = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    for heading, style in (("where", "bold"), ("problem", "red"), ("hint", "")):
        shown.add_column(heading, style=style, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    errors.print(shown)


def warn(name: str, warnings: Sequence[Mapping[str, str]]) -> None:
    """What runs otherwise than it was meant to."""
    for warning in warnings:
        caution(f"{name}: {warning['message']}", warning["hint"])


def odd(problems: Iterable[Problem]) -> None:
    """What is odd about a config that can be used all the same."""
    for problem in problems:
        caution(str(replace(problem, hint="")), problem.hint)


def tell(message: str) -> None:
    """What a command has to say beside its output."""
    errors.print(Text(message))


def caution(message: str, hint: str = "") -> None:
    """A warning of a command; of a service whose log is for programs, a line of that."""
    if _speaks_json:
        logger.warning("%s", f"{message}; hint: {hint}" if hint else message)
        return
    errors.print(Text.assemble(("warning: ", "bold yellow"), message))
    if hint:
        errors.print(Text.assemble(("hint: ", "bold"), hint))


def complain(message: str, hint: str = "") -> None:
    """An error of a command, or as `caution`."""
    if _speaks_json:
        logger.error("%s", f"{message}; hint: {hint}" if hint else message)
        return
    errors.print(Text.assemble(("error: ", "bold red"), message))
    if hint:
        errors.print(Text.assemble(("hint: ", "bold"), hint))


def size(count: int | None) -> str:
    """Bytes of a file, as those are told where they come from."""
    if count is None:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"
