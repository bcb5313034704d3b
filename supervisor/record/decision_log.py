"""The decision log: all that the planner hears and says, one JSON object per line, so that it can be said again.

A snapshot tells the whole fleet, each further line one step from there. There is one at the beginning of every file,
wherever lines are missing, and every so often: what is left of a log can be replayed from any of them.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec.json

from supervisor import __version__
from supervisor.fleet.essence import Essence
from supervisor.fleet.step import Step
from supervisor.fleet.values import Count, RunId
from supervisor.record.notation import Unreadable, plain, value_of
from supervisor.record.rotation import PAUSE, Attempts, add, numbered, put_aside, size_of
from supervisor.record.scribe import Lot, Scribe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.config.values import Config
    from supervisor.fleet.actions import Action
    from supervisor.fleet.events import Event
    from supervisor.fleet.values import Fleet

MOST_STEPS = 4096
"""What may wait to be written."""
STRETCH = 64 * 1024
"""Bytes of steps before another snapshot, unless one takes much of that itself."""
SNAPSHOTS_SHARE = 8
"""How many times as long as a snapshot the steps are that follow it."""
START = '{"now":'
"""What every line begins with, whatever has got between them."""
_SNAPSHOT = re.compile(r'\{"now":[^,]*,"at":')


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the planner knew at a moment."""

    now: float
    at: float
    """The same moment in seconds since the epoch."""
    follows: bool
    """Whether the line before is what happened before."""
    version: str
    """Whose planner it was."""
    fleet: Fleet


@dataclass(frozen=True, slots=True)
class Logged:
    """A step: how leases were counted, what happened, and what was to be done about it."""

    now: float
    counts: Mapping[RunId, Count]
    event: Event
    actions: tuple[Action, ...]
    noted: Any
    """The actions as they are written."""


class DecisionLog(Scribe[None, Step]):
    """The file that steps go to; they are put into words and written by its thread."""

    def __init__(
        self,
        path: Path,
        *,
        size: int,
        count: int,
        hide: Callable[[str], str] = str,
        pause: float = PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A file of `size` bytes is put aside; `count` of those are kept. `hide` takes secrets out of texts."""
        super().__init__("decision-log", most=MOST_STEPS)
        self._path = path
        self._size_of_file = size
        self._count = count
        self._hide = hide
        self._clock = clock
        self._attempts = Attempts(f"the decision log {path}", pause=pause, clock=clock)
        self._essence = Essence()
        self._follows = False
        self._since_snapshot = 0
        self._until_snapshot = 0

    def note(self, step: Step) -> None:
        """Write this step, soon."""
        self._give(None, step, 1)

    def _write(self, place: None, lot: Lot[Step]) -> None:
        for step in lot.items:
            self._follows = self._attempts.succeeds(lambda step=step: self._add(step))  # type: ignore[misc]
        if lot.lost:
            self._follows = False

    def _add(self, step: Step) -> None:
        """Each step by itself: between two writes, who decides has its turn."""
        line = self._line(step)
        is_due = not self._follows or self._since_snapshot >= self._until_snapshot
        head = self._snapshot(step) if is_due else b""
        at = size_of(self._path)
        if at and at + len(head) + len(line) > self._size_of_file:
            put_aside(self._path, self._count)
            at = 0
        head = head if at or head else self._snapshot(step)
        torn = b"\n" if at and not self._follows else b""  # whoever wrote before may not have come to the end of a line
        add(self._path, torn + head + line)
        if head:
            self._since_snapshot, self._until_snapshot = 0, max(STRETCH, SNAPSHOTS_SHARE * len(head))
        self._since_snapshot += len(line)

    def _snapshot(self, step: Step) -> bytes:
        return _encoded(
            {
                "now": step.now,
                "at": round(time.time() - (self._clock() - step.now), 3),
                "follows": self._follows,
                "version": __version__,
                "fleet": plain(self._essence.fleet(step.before), self._hide),
            }
        )

    def _line(self, step: Step) -> bytes:
        return _encoded(
            {
                "now": step.now,
                "counts": [[run.id, run.leases, run.used_at, run.gap] for run in step.before.runs],
                "event": plain(self._essence.event(step.event), self._hide),
                "actions": [plain(self._essence.action(action), self._hide) for action in step.actions],
            }
        )


def log_path(config: Config) -> Path | None:
    """Where the log of a service with this config is; None: it keeps none."""
    name = config.server.decision_log
    return None if name is None else config.base / Path(name).expanduser()


def last_part(path: Path, most: int = 4 * STRETCH) -> str:
    """The end of a log, from a snapshot on if there is one in it; raises `OSError`."""
    before = numbered(path, 1)
    text = (before.read_bytes() if before.exists() else b"") + path.read_bytes()
    lines = text[-most:].decode(errors="replace").splitlines()[len(text) > most :]
    snapshot = next((number for number, line in enumerate(lines) if _SNAPSHOT.match(line)), 0)
    return "\n".join(lines[snapshot:])


def _encoded(line: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def parsed(line: str | bytes) -> Snapshot | Logged:
    """What a line says; raises `Unreadable`."""
    try:
        told = msgspec.json.decode(line)
        if "fleet" in told:
            return Snapshot(told["now"], told["at"], told["follows"], told["version"], value_of(told["fleet"]))
        counts = {RunId(run): Count(*rest) for run, *rest in told["counts"]}
        return Logged(told["now"], counts, value_of(told["event"]), value_of(told["actions"]), told["actions"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as exc:
        raise Unreadable(f"this is no line of a decision log: {exc}") from exc
