"""What people are told about models: the tables of `check` and `ps`, a failure, and what was decided."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.console import is_terminal, say, table, warn
from supervisor.fleet.reasons import size as memory_size
from supervisor.parts import Column

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from supervisor.parts import Part

STATE_STYLES = {
    "ready": "green",
    "busy": "bold green",
    "loading": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
    "failed": "bold red",
    "cold": "dim",
}
MODELS = (
    Column("model"),
    Column("size", is_number=True),
    Column("quantisation"),
    Column("context", is_number=True),
    Column("memory", is_number=True),
    Column("files"),
)
PROCESSES = (
    Column("model"),
    Column("state"),
    Column("pid", is_number=True),
    Column("memory", is_number=True),
    Column("requests"),
    Column("waiting"),
    Column("unload in"),
    Column("tokens/s"),
    Column("address"),
)
ROWS_SHOWN = 50
SMALL = 16_000_000
"""Bytes; mapped files of less are not named."""


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
    table(MODELS, rows)
    if len(models) > ROWS_SHOWN:
        say(f"… and {len(models) - ROWS_SHOWN} more; `llama-supervise check` shows all")


def _files(causes: Sequence[str]) -> Part:
    words = dict.fromkeys(cause.replace("_", " ") for cause in causes)
    return (", ".join(words), "red") if words else ("ok", "green")


def processes_table(models: Sequence[Mapping[str, Any]]) -> None:
    """What every model does right now."""
    table(PROCESSES, [_process_row(model, model["process"] or {}) for model in models])
    memory_of([model for model in models if model["process"]])
    for model in models:
        warn(model["id"], model["warnings"])


def memory_of(models: Sequence[Mapping[str, Any]], budget: Mapping[str, int] | None = None) -> None:
    """On a terminal, below a table, where the numbers in its column `memory` come from; elsewhere the rows say it."""
    for model in models if is_terminal(sys.stdout) else ():
        for line in _memory_lines(model, budget):
            say((f"{model['id']}: {line}", "dim"))


def _explained(model: Mapping[str, Any], budget: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """A cell more where no lines come below the table."""
    return () if is_terminal(sys.stdout) else ("; ".join(_memory_lines(model, budget)),)


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


def _process_row(model: Mapping[str, Any], process: Mapping[str, Any]) -> Sequence[Part]:
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
        (state, STATE_STYLES.get(model["state"], "")),
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
    say((failure["message"], "bold red"))
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
            say((f"{name}: ", "dim"), str(value))
    for title in ("evidence", "stderr_tail"):
        if failure.get(title):
            say((title.replace("_", " "), "dim"))
            for line in failure[title]:
                say(f"  {line}")


def decisions(rows: Sequence[Mapping[str, Any]]) -> None:
    """What was decided, oldest first."""
    say(("decisions", "dim"))
    for row in rows:
        at = time.strftime("%H:%M:%S", time.localtime(row["at"]))
        times = f" ({row['times']} times)" if row.get("times", 1) > 1 else ""
        say(f"  {at} ", (f"{row['kind']:8} ", "bold"), row["reason"], (times, "dim"))


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
