"""From what a child left behind to the true reason it failed. Reads no file, starts nothing."""

from __future__ import annotations

import re
import signal
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from supervisor.errors import Failure
from supervisor.llama.causes import ANY_SIGNAL, CATALOGUE, LOAD_TIMEOUT, SIGNALS, TRANSIENT_RETRY_AFTER, UNKNOWN, Cause

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EVIDENCE_LINES = 5
TAIL_LINES = 40

_ERROR_LINE = re.compile(r"^[\d.]+ E |\b(?:error|failed|fatal)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What went wrong, in words, and what to do about it."""

    cause: str
    message: str
    hint: str
    evidence: tuple[str, ...] = ()
    permanent: bool = True

    @classmethod
    def of(cls, cause: Cause, facts: Mapping[str, object], evidence: Sequence[str] = ()) -> Diagnosis:
        """The row of the catalogue with its templates filled."""
        known = {name: "" if value is None else value for name, value in facts.items()}
        return cls(
            cause.code, cause.message.format(**known), cause.hint.format(**known), tuple(evidence), cause.permanent
        )


@dataclass(frozen=True, slots=True)
class End:
    """How a child ended that should not have ended."""

    phase: str
    """`spawning`, `loading` or `serving`."""
    lines: tuple[str, ...]
    """What it printed on stderr, cleaned."""
    returncode: int | None = None
    """As subprocess gives it: negative for a signal."""
    elapsed: float | None = None
    silent_for: float | None = None
    """Seconds without a sign of life after which we gave up on its loading."""

    @property
    def signal_name(self) -> str | None:
        if self.returncode is None or self.returncode >= 0:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"


def diagnose(end: End) -> Diagnosis:
    """The reason of this end: the first line the catalogue knows, else what the exit itself says."""
    lines = _collapsed(end.lines)
    if end.silent_for is not None:
        return Diagnosis.of(LOAD_TIMEOUT, {"seconds": end.silent_for}, lines[-EVIDENCE_LINES:])
    if end.phase != "serving" and (known := _first_known(lines)):
        return known
    if end.signal_name is not None:
        cause = SIGNALS.get(end.signal_name, ANY_SIGNAL)
        return Diagnosis.of(cause, {"signal": end.signal_name}, _error_lines(lines))
    return Diagnosis.of(UNKNOWN, {"code": end.returncode}, _error_lines(lines) or lines[-EVIDENCE_LINES:])


def report(
    model: str,
    diagnosis: Diagnosis,
    *,
    end: End | None = None,
    command: Sequence[str] = (),
    binary: Mapping[str, str | None] | None = None,
) -> Failure:
    """The one report of a failure that every face of the service shows."""
    phase = "preparing" if end is None else end.phase
    happened = {"preparing": "cannot start", "serving": "stopped while serving"}.get(phase, "could not start")
    return Failure(
        id=uuid.uuid4().hex[:12],
        model=model,
        cause=diagnosis.cause,
        message=f"{model} {happened}: {diagnosis.message}",
        hint=diagnosis.hint,
        phase=phase,
        at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        exit_code=end.returncode if end and end.signal_name is None else None,
        signal=end.signal_name if end else None,
        elapsed_seconds=round(end.elapsed, 3) if end and end.elapsed is not None else None,
        evidence=diagnosis.evidence,
        stderr_tail=end.lines[-TAIL_LINES:] if end else (),
        command=tuple(command),
        binary=dict(binary) if binary else None,
        permanent=diagnosis.permanent,
        retry_after_seconds=None if diagnosis.permanent else TRANSIENT_RETRY_AFTER,
    )


def match_line(line: str) -> Diagnosis | None:
    """What the catalogue says of one line."""
    for cause in CATALOGUE:
        for pattern in cause.patterns:
            if match := pattern.search(line):
                return Diagnosis.of(cause, match.groupdict(), (line,))
    return None


def _first_known(lines: Sequence[str]) -> Diagnosis | None:
    return next((known for line in lines if (known := match_line(line))), None)


def _error_lines(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if _ERROR_LINE.search(line)][:EVIDENCE_LINES]


def _collapsed(lines: Sequence[str]) -> list[str]:
    """Every line once: with fit on, a loader prints each error twice."""
    return list(dict.fromkeys(line for line in lines if line))
