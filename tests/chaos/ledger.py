"""What became of every request, and whether an error told the truth: what was broken, and when, stands beside it."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

SLACK = 20.0
"""Seconds after which a fault is no excuse any more: a start that failed then has had its time to end."""
KILLS = frozenset({"kill -9", "kill -SEGV", "kill -STOP"})
CAUSES: dict[str, frozenset[str]] = {
    "model_crashed": KILLS,
    "killed_by_signal": KILLS,
    "segmentation_fault": KILLS,
    "stalled": KILLS,
    "load_timeout": KILLS,
    "unknown": KILLS,
    "oom_killed": KILLS,
    "model_file_missing": frozenset({"delete a model"}),
    "model_unloaded": frozenset({"unload", "reload"}),
    "upstream_unreachable": KILLS | {"unload"},
    "shutting_down": frozenset({"SIGTERM"}),
}
"""The faults of ours that may be behind an error, by its code or the cause of its failure; no other error is true."""


class Fault(NamedTuple):
    kind: str
    model: str
    """Empty: all of them."""
    at: float


@dataclass
class Ledger:
    """The account of a whole run."""

    sent: int = 0
    right: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    cut: int = 0
    """Requests that our own `kill -9` of the supervisor, or its end, has cut."""
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    orphans: dict[int, str] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Other promises, such as an exit code of 0."""
    done: Counter[str] = field(default_factory=Counter)
    """Faults."""
    _faults: deque[Fault] = field(default_factory=lambda: deque(maxlen=2000))

    def fault(self, kind: str, model: str = "") -> None:
        """Something is about to be broken."""
        self.done[kind] += 1
        self.still(kind, model)

    def still(self, kind: str, model: str = "") -> None:
        """It goes on being broken until now."""
        self._faults.append(Fault(kind, model, time.monotonic()))

    def is_true(self, code: str, model: str, since: float) -> bool:
        """Whether something of ours may have led to this error of a request that was sent then."""
        kinds = CAUSES.get(code, frozenset())
        return any(
            fault.kind in kinds and fault.model in {"", model} and fault.at >= since - SLACK for fault in self._faults
        )

    @property
    def is_clean(self) -> bool:
        """Whether nothing happened that must not."""
        return not (self.lost or self.wrong or self.orphans or self.leaks or self.broken) and bool(self.right)

    def __str__(self) -> str:
        rows = [
            ("requests sent", self.sent, ""),
            ("answered correctly", self.right.total(), _listed(self.right)),
            ("answered with a true error", self.errors.total(), _listed(self.errors)),
            ("cancelled by the client", self.cancelled, ""),
            ("cut by the supervisor's own end", self.cut, ""),
            ("lost without an answer", len(self.lost), "must be 0"),
            ("answered wrongly", len(self.wrong), "must be 0"),
            ("orphans", len(self.orphans), "must be 0"),
            ("leaks", len(self.leaks), "must be 0"),
            ("other promises broken", len(self.broken), "must be 0"),
        ]
        lines = [f"{name:32} {count:7}  {note}".rstrip() for name, count, note in rows]
        faults = f"{'faults':32} {self.done.total():7}  {_listed(self.done)}"
        findings = [*self.lost, *self.wrong, *self.orphans.values(), *self.leaks, *self.broken]
        return "\n".join([faults, *lines, *(f"  {finding}" for finding in findings[:40])])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
