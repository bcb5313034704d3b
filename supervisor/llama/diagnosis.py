"""From what a child left behind to the true reason it failed. Reads no file, starts nothing."""

from __future__ import annotations

import re
import signal
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from supervisor.errors import Failure
from supervisor.llama.causes import CATALOGUE, CAUSES, TRANSIENT_RETRY_AFTER, Cause

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

EVIDENCE_LINES = 5
TAIL_LINES = 40
QUICK = 10.0
"""Seconds; a refusal to start comes within a few hundredths."""
LONGEST_CHAIN = 3
"""Labels before a message: `llama_model_load: error loading model: unable to …`."""
LAST_WORDS = 50
"""Lines of a child that has served for long which may be about its end."""

_NOT_ITS_OWN = re.compile(r"^[\d.]+ [DIW] |got exception|parsing grammar")
"""News and warnings, and errors that quote a request."""
_LEVEL = re.compile(r"[\d.]+ E ")
_LABEL = re.compile(r"[^{}\"']{1,80}?: +")
_ERROR_LINE = re.compile(r"^[\d.]+ E |\b(?:error|failed|fatal|assert)\b", re.IGNORECASE)


class _Facts(dict[str, object]):
    """Facts for a template; one that no pattern found reads as nothing."""

    def __missing__(self, key: str) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What went wrong, in words, and what to do about it."""

    cause: str
    message: str
    hint: str
    evidence: tuple[str, ...] = ()
    permanent: bool = True


def found(
    code: str, /, *, message: str = "", hint: str = "", evidence: Sequence[str] = (), **facts: object
) -> Diagnosis:
    """A row of the catalogue as a diagnosis; better words than its own may be given where more is known."""
    cause = CAUSES[code]
    known = _Facts({name: fact for name, fact in facts.items() if fact is not None})
    return Diagnosis(
        code,
        message or cause.message.format_map(known),
        hint or cause.hint.format_map(known),
        tuple(evidence),
        cause.permanent,
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
    gave_up: str | None = None
    """Why we ended it ourselves: the code of a cause."""
    gave_up_facts: Mapping[str, object] = field(default_factory=dict)
    """What that cause's words need to be filled."""
    was_out_of_memory: bool | None = None
    """Whether the kernel's OOM killer was at work meanwhile; None when that cannot be known."""

    @property
    def is_mute(self) -> bool:
        """Whether it refused to start and its reason was lost: some builds lose their last lines now and then."""
        failed = self.phase == "loading" and self.returncode == 1 and self.gave_up is None
        was_quick = self.elapsed is None or self.elapsed < QUICK
        return failed and was_quick and not any(_ERROR_LINE.search(line) for line in self.lines)

    @property
    def signal_name(self) -> str | None:
        if self.returncode is None or self.returncode >= 0:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"


def diagnose(end: End) -> Diagnosis:
    """The reason of this end: what we did, else what the child said, else what the exit itself says."""
    lines = _collapsed(end.lines[-LAST_WORDS:] if end.phase == "serving" else end.lines)
    if end.gave_up is not None:
        return found(end.gave_up, evidence=lines[-EVIDENCE_LINES:], **end.gave_up_facts)  # type: ignore[arg-type]
    evidence = _error_lines(lines) or lines[-EVIDENCE_LINES:]
    if end.signal_name == "SIGKILL" and end.was_out_of_memory:
        return found("oom_killed", evidence=evidence)
    if known := first_known(lines, serving=end.phase == "serving"):
        return known
    match end.signal_name:
        case None:
            return found("unknown", code=end.returncode, evidence=evidence)
        case "SIGILL":
            return found("illegal_instruction", evidence=evidence)
        case "SIGBUS":
            return found("bus_error", evidence=evidence)
        case "SIGKILL":
            return found("killed_by_signal", signal="SIGKILL", hint=_killed_hint(end), evidence=evidence)
        case name:
            return found("killed_by_signal", signal=name, evidence=evidence)


def first_known(lines: Sequence[str], *, serving: bool = False) -> Diagnosis | None:
    """What the first line in the catalogue says, or a later one that outranks it."""
    best: tuple[Cause, re.Match[str]] | None = None
    for line in lines:
        matched = _match(line, serving=serving)
        if matched and (best is None or best[0].code in matched[0].outranks):
            best = matched
    if best is None:
        return None
    cause, match = best
    return found(cause.code, **match.groupdict(), evidence=(match.string,))


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


def _match(line: str, *, serving: bool) -> tuple[Cause, re.Match[str]] | None:
    """What one line says.

    A serving child also logs what its clients wrote, so there only a whole error message of its own counts: one that
    begins where the message begins.
    """
    if not serving:
        return _first((pattern.search(line), cause) for cause in CATALOGUE for pattern in cause.patterns)
    if _NOT_ITS_OWN.search(line):
        return None
    places = _beginnings(line)
    return _first(
        (pattern.match(line, begin), cause)
        for cause in CATALOGUE
        if cause.serving
        for pattern in cause.patterns
        for begin in places
    )


def _first(tries: Iterable[tuple[re.Match[str] | None, Cause]]) -> tuple[Cause, re.Match[str]] | None:
    return next(((cause, match) for match, cause in tries if match), None)


def _beginnings(line: str) -> list[int]:
    """Where a message may begin: after the level, the function that speaks, and words such as `error:`."""
    level = _LEVEL.match(line)
    places = [level.end() if level else 0]
    while len(places) <= LONGEST_CHAIN and (label := _LABEL.match(line, places[-1])):
        places.append(label.end())
    return places


def _killed_hint(end: End) -> str:
    if end.was_out_of_memory is None:
        return "if nobody killed it, the system had run out of memory: look for `oom` in `dmesg`"
    return "somebody killed it: the kernel's OOM killer was not at work"


def _error_lines(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if _ERROR_LINE.search(line)][:EVIDENCE_LINES]


def _collapsed(lines: Sequence[str]) -> list[str]:
    """Every line once: with fit on, a loader prints each error twice."""
    return list(dict.fromkeys(line for line in lines if line))
