"""How a load goes, in words: what is new, and nothing twice. Pure."""

from __future__ import annotations

from dataclasses import dataclass

SILENCE = 5.0
"""Seconds without news after which the time that has passed is news."""
AT_ONCE = 1.0
"""Seconds in which a model that is next is expected to be loading."""


@dataclass(frozen=True, slots=True)
class Situation:
    """How it stands with a model that somebody waits for."""

    ahead: int | None = None
    """How many models come before it; None: it is loading."""
    fraction: float | None = None
    """How much of it is read, from 0 to 1; None if its server does not say."""


class Narrator:
    """Says what is new, and nothing twice."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._last: Situation | None = None
        self._said_at = 0.0

    def news(self, now: Situation, elapsed: float) -> str:
        """The next words, empty if there is nothing to say; `elapsed` are seconds since the request came."""
        if self._last is None and now.ahead == 0 and elapsed < AT_ONCE:
            return ""  # most often it is being started already
        text = self._change(now) or (f" {elapsed:.0f} s" if elapsed - self._said_at >= SILENCE else "")
        if text:
            self._said_at = elapsed
        self._last = now
        return text

    def ready(self, elapsed: float) -> str:
        """The last words."""
        return f"{self._break()}{self._model} is ready after {elapsed:.1f} s\n\n"

    def _change(self, now: Situation) -> str:
        last = self._last
        if now == last:
            return ""
        if now.ahead is not None:
            return f"{self._break()}waiting for {self._model}: {_before(now.ahead)}"
        percent = "" if now.fraction is None else f" {now.fraction:.0%}"
        if last is None or last.ahead is not None:
            return f"{self._break()}loading {self._model}{percent}"
        return percent if last.fraction is None or percent != f" {last.fraction:.0%}" else ""

    def _break(self) -> str:
        return "" if self._last is None else "\n"


def _before(ahead: int) -> str:
    return "it is next" if ahead == 0 else f"{ahead} other {'model comes' if ahead == 1 else 'models come'} first"
