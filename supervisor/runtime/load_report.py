"""What the phases of a start cost, by when the child said what."""

from __future__ import annotations

from dataclasses import dataclass

GIGA = 1e9


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Seconds of each phase; None where the child does not tell it from the one before."""

    seconds: float
    spawn: float | None = None
    """Until the child's first word."""
    prepare: float | None = None
    """Metadata and vocabulary, and fitting to the memory there is."""
    read: float | None = None
    """Reading or mapping the weights, and bringing them to their devices."""
    warm_up: float | None = None
    """Context, cache and first evaluation."""
    size: int | None = None
    """Bytes of the weights."""
    prefetched: int = 0
    """Bytes that we read into the page cache ahead of the child."""
    prefetch_seconds: float = 0.0
    is_fitted: bool | None = None
    """False if fitting was left out, as known to change nothing; None where that is not our doing."""

    @property
    def _phases(self) -> tuple[tuple[str, float | None], ...]:
        return (("spawn", self.spawn), ("prepare", self.prepare), ("read", self.read), ("warm_up", self.warm_up))

    @property
    def read_speed(self) -> float | None:
        """Bytes per second of the child's own reading."""
        return self.size / self.read if self.size and self.read else None

    def as_json(self) -> dict[str, object]:
        """As `/status` shows it; seconds, bytes, and GB/s."""
        speed = self.read_speed
        return {
            "seconds": round(self.seconds, 3),
            "phases": {name: None if value is None else round(value, 3) for name, value in self._phases},
            "fitted": self.is_fitted,
            "bytes": self.size,
            "read_gb_per_second": None if speed is None else round(speed / GIGA, 2),
            "prefetched_bytes": self.prefetched,
            "prefetch_gb_per_second": round(self.prefetched / self.prefetch_seconds / GIGA, 2)
            if self.prefetched and self.prefetch_seconds
            else None,
        }

    def __str__(self) -> str:
        """As the log says it."""
        parts = [f"{name.replace('_', '-')} {value:.2f}" for name, value in self._phases if value is not None]
        if self.is_fitted is False:
            parts.append("no fit")
        if (speed := self.read_speed) is not None:
            parts.append(f"{speed / GIGA:.1f} GB/s")
        if self.prefetched:
            parts.append(f"{self.prefetched / GIGA:.2f} GB prefetched")
        return f"{self.seconds:.2f} s" + (f" ({', '.join(parts)})" if parts else "")


class LoadClock:
    """Notes when a child said what on its way to ready; times are given in."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._first_word: float | None = None
        self._first_begin: float | None = None
        self._last_begin: float | None = None
        self._read: float | None = None

    def spoke(self, now: float) -> None:
        """The child wrote something."""
        if self._first_word is None:
            self._first_word = now

    def progressed(self, fraction: float, now: float) -> None:
        """It told how much is read. It begins twice: the first time it reads only what it has to know.

        What it reads after the model, a projector or a draft, belongs to the warm-up.
        """
        if self._read is not None:
            return
        if fraction >= 1.0:
            self._read = now
        elif fraction == 0.0:
            self._first_begin = now if self._first_begin is None else self._first_begin
            self._last_begin = now

    def report(self, now: float, *, size: int | None = None) -> LoadReport:
        """What it came to; now the child is ready."""
        return LoadReport(
            seconds=now - self._started,
            spawn=_between(self._started, self._first_word),
            prepare=_between(self._first_begin, self._last_begin),
            read=_between(self._last_begin, self._read),
            warm_up=_between(self._read, now),
            size=size,
        )


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else end - begin
