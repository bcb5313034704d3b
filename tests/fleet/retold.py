"""Logged steps as a test of the planner: a dialogue on the stage of scene.py, written as Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isinf
from typing import TYPE_CHECKING

from supervisor.fleet.actions import Grant, Refuse, Spawn, Tell, Terminate
from supervisor.fleet.events import BecameReady, Exited, Released
from supervisor.fleet.queue import Queue
from supervisor.record.notation import is_default

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.fleet.values import Fleet, RunId
    from supervisor.record.decision_log import Logged


def retold(steps: Sequence[tuple[Fleet, Logged]]) -> str:
    """A module with one test: the fleet before the first step, and then what was said, step by step."""
    writer = _Writer()
    body = list(writer.dialogue(steps))
    stage = f"    scene = Scene({writer.literal(steps[0][0])}, now={steps[0][1].now!r})"
    used = sorted((*writer.used.items(), ("tests.fleet.scene", {"Scene"})))
    names = (f"from {module} import {', '.join(sorted(names))}" for module, names in used)
    return "\n".join(
        (
            '"""What a decision log tells."""\n',
            "from __future__ import annotations\n",
            *names,
            "\n\ndef test_what_was_logged() -> None:",
            '    """Say here what should have happened, and put the steps right."""',
            stage,
            "",
            *body,
        )
    )


class _Writer:
    def __init__(self) -> None:
        self.used: dict[str, set[str]] = {}
        """Names to import, by their module."""

    def dialogue(self, steps: Sequence[tuple[Fleet, Logged]]) -> Iterator[str]:
        models: dict[RunId, str] = {}
        for before, logged in steps:
            models |= {run.id: run.model.id for run in before.runs}
            for run in before.runs:
                count = logged.counts.get(run.id)
                if count is not None and count != (run.leases, run.used_at, run.gap):
                    use = f"{count.leases}, used_at={count.used_at!r}, gap={count.gap!r}"
                    yield f"    scene.counted({run.model.id!r}, {use})"
            told = [action.decision.reason for action in logged.actions if isinstance(action, Tell)]
            yield from (f"    # {line}" for reason in told for line in reason.splitlines())
            said = [self.named(action, models) for action in logged.actions if not isinstance(action, Tell)]
            yield f"    scene.when({self.named(logged.event, models)}, at={logged.now!r}).then({', '.join(said)})"

    def named(self, value: object, models: dict[RunId, str]) -> str:
        """An event or an action as the stage has it: runs go by their models, refusals by their kind."""
        match value:
            case Spawn(run):
                models[run.id] = run.model.id
                return f"{self.name(Spawn)}({run.model.id!r})"
            case Grant(ticket, run):
                return f"{self.name(Grant)}({ticket}, {models[run]!r})"
            case Refuse(ticket, error):
                return f"{self.name(Refuse)}({ticket}, {self.name(type(error))})"
            case Terminate(run) | BecameReady(run) | Released(run):
                return f"{self.name(type(value))}({models.get(run, run)!r})"
            case Exited(run, failure, jitter):
                return f"{self.name(Exited)}({models.get(run, run)!r}, {self.literal(failure)}, {jitter!r})"
            case _:
                return self.literal(value)

    def literal(self, value: object) -> str:
        """The value as Python writes it, without what is as by default."""
        match value:
            case float() if isinf(value):
                self.used.setdefault("math", set()).add("inf")
                return "inf" if value > 0 else "-inf"
            case Enum():
                return f"{self.name(type(value))}.{value.name}"
            case type():
                return self.name(value)
            case Queue():
                return f"{self.name(Queue)}({self.literal(list(value))})"
            case list() | tuple():
                inner = ", ".join(map(self.literal, value))
                return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
            case frozenset():
                return f"frozenset({{{', '.join(map(self.literal, sorted(value)))}}})" if value else "frozenset()"
            case Mapping():
                return f"{{{', '.join(f'{self.literal(key)}: {self.literal(each)}' for key, each in value.items())}}}"
            case _ if is_dataclass(value):
                told = [
                    (each.name, getattr(value, each.name))
                    for each in fields(value)
                    if not is_default(each, getattr(value, each.name))
                ]
                return f"{self.name(type(value))}({', '.join(f'{name}={self.literal(each)}' for name, each in told)})"
            case None | bool() | int() | float() | str():
                return repr(value)
            case _:
                self.used.setdefault("pathlib", set()).add("Path")
                return f"Path({str(value)!r})"

    def name(self, kind: type) -> str:
        self.used.setdefault(kind.__module__, set()).add(kind.__name__)
        return kind.__name__
