"""What people see: tables, reports and bars with rich on a terminal, plain lines everywhere else."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from supervisor.record import own_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

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

console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
errors = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def set_up_logging(level: str, time_format: str | None = None, *, redact: Callable[[str], str] = str) -> None:
    """Our log on stderr: coloured for people, one plain line each for the journal.

    With llama-swap's lines, the service writes those of our log to stdout, if at all; other libraries' stay here.
    """
    handler: logging.Handler
    if sys.stderr.isatty() and time_format is None:
        handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False, log_time_format="%X")
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(own_log.formatter(time_format))
    if time_format is not None:
        handler.addFilter(_is_foreign)
    handler.addFilter(own_log.Redacting(redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("supervisor").setLevel(level.upper())
    logging.getLogger("uvicorn.error").addFilter(_is_news)


def _is_foreign(record: logging.LogRecord) -> bool:
    return not record.name.startswith("supervisor")


def _is_news(record: logging.LogRecord) -> bool:
    """Cutting an answer on purpose is logged where it happens; uvicorn's word for it would puzzle people."""
    return "without completing response" not in record.getMessage()


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


def models_table(models: Sequence[Mapping[str, Any]]) -> None:
    """The models of a config: what they are, and whether their files are all right."""
    rows = [
        (
            model["id"],
            size(model["size_bytes"]),
            model["quantisation"] or "",
            str(model["context"] or ""),
            _files(model["problems"]),
        )
        for model in models[:ROWS_SHOWN]
    ]
    table(("model", "size", "quantisation", "context", "files"), rows)
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
    for model in models:
        warn(model["id"], model["warnings"])


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
        size(process.get("memory_bytes")),
        str(process.get("requests", "")),
        str(model["waiting"] or ""),
        "pinned" if model["pinned"] else duration(left) if left is not None else "",
        f"{speed:.1f}" if speed else "",
        process.get("endpoint") or "",
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


def caution(message: str, hint: str = "") -> None:
    """A warning of a command."""
    errors.print(Text.assemble(("warning: ", "bold yellow"), message))
    if hint:
        errors.print(Text.assemble(("hint: ", "bold"), hint))


def complain(message: str, hint: str = "") -> None:
    """An error of a command."""
    errors.print(Text.assemble(("error: ", "bold red"), message))
    if hint:
        errors.print(Text.assemble(("hint: ", "bold"), hint))


def size(count: int | None) -> str:
    """Bytes for people."""
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
