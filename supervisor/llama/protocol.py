"""What a llama-server says on stdout in child mode, in all three dialects there were.

Source: spec llama-server.md, sections 2.2 and 2.5.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "cmd_child_to_router:"
SWITCH = "LLAMA_SERVER_ROUTER_PORT"
"""The environment variable whose mere presence turns child mode on."""


_SPEED = re.compile(r"(?>.*?\beval time\b).*?(\d+(?:\.\d+)?) tokens per second")


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage of loading and how much of it is done, 0 to 1."""

    stage: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Ready:
    """The child serves; `model` is what it says of itself (n_ctx, n_params, size, …)."""

    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sleeping:
    """The child freed its weights by itself; the next request makes it load again."""


Message: TypeAlias = Progress | Ready | Sleeping


def parse(line: str) -> Message | None:
    """The message in one line of stdout; None for anything else, and for messages we do not know."""
    if not line.startswith(PREFIX):
        return None
    kind, _, text = line.removeprefix(PREFIX).strip().partition(":")
    match kind:
        case "state":
            return _state(_object(text))
        case "ready":
            return Ready()
        case "sleep":
            return Sleeping()
        case "info":
            return Ready(_object(text))
        case _:
            return None


def generation_speed(line: str) -> float | None:
    """Tokens per second of an answer, from the timing line llama-server logs after it."""
    if "tokens per second" not in line or "prompt eval" in line:
        return None
    match = _SPEED.match(line)
    return float(match[1]) if match else None


def _state(message: Mapping[str, Any]) -> Message | None:
    payload = message.get("payload")
    payload = payload if isinstance(payload, dict) else {}
    match message.get("state"):
        case "loading":
            return _progress(payload)
        case "ready":
            return Ready(payload)
        case "sleeping":
            return Sleeping()
        case _:
            return None


def _progress(payload: Mapping[str, Any]) -> Progress:
    stage, value = payload.get("current", payload.get("stage", "")), payload.get("value", 0.0)
    fraction = min(max(value, 0.0), 1.0) if isinstance(value, int | float) and value == value else 0.0  # noqa: PLR0124
    return Progress(str(stage), float(fraction))


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
