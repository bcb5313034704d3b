"""Output of the children, kept in bounded rings that remember which stream a line came from and when."""

from __future__ import annotations

import re
import time
from asyncio import Event
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

LINE_LIMIT = 8192
"""Bytes after which a line is broken, so that a child that prints no newline costs no more than the ring."""

LINE_OVERHEAD = 64
"""Bytes counted for a line beside its text."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of output."""

    number: int
    at: float
    """Seconds since the epoch."""
    run: int
    stream: str
    text: str


class LogRing:
    """The latest lines of one model, through all its runs, up to a number of bytes."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._clock = clock
        self._lines: deque[Line] = deque()
        self._size = 0
        self._count = 0
        self._news = Event()
        self._is_closed = False

    def append(self, text: str, *, run: int = 0, stream: str = "stderr") -> None:
        """Add one line; the oldest make room."""
        self._count += 1
        self._lines.append(Line(self._count, self._clock(), run, stream, text))
        self._size += _cost(text)
        while self._size > self._limit and len(self._lines) > 1:
            self._size -= _cost(self._lines.popleft().text)
        self._news.set()
        self._news = Event()

    def lines(self, *, run: int | None = None, stream: str | None = None) -> list[Line]:
        """The kept lines, oldest first; of one run or stream where asked."""
        return [line for line in self._lines if run in {None, line.run} and stream in {None, line.stream}]

    def text(self) -> str:
        """The kept lines as they were printed."""
        return "".join(f"{line.text}\n" for line in self._lines)

    async def follow(self, *, history: bool = True) -> AsyncIterator[Sequence[Line]]:
        """The kept lines, then new ones as they come; a reader too slow for the ring misses lines, nobody waits."""
        seen = 0 if history else self._count
        while not self._is_closed:
            if fresh := self._after(seen):
                seen = fresh[-1].number
                yield fresh
            else:
                await self._news.wait()

    def close(self) -> None:
        """End whoever follows; the kept lines stay."""
        self._is_closed = True
        self._news.set()

    def _after(self, number: int) -> list[Line]:
        if not self._lines or self._lines[-1].number <= number:
            return []
        skipped = max(0, number - self._lines[0].number + 1)
        return list(islice(self._lines, skipped, None))

    def __repr__(self) -> str:
        return f"<LogRing [{len(self._lines)} lines, {self._size} of {self._limit} bytes]>"


def _cost(text: str) -> int:
    """What a line takes of the ring: empty ones cost memory too."""
    return len(text) + LINE_OVERHEAD


class Logs:
    """Every ring of the service: one per model, one of all children together, one of our own words."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._models: dict[str, LogRing] = {}
        self.upstream = LogRing(limit)
        self.proxy = LogRing(limit)

    def of(self, model: str) -> LogRing:
        """The output of all runs of this model."""
        if model not in self._models:
            self._models[model] = LogRing(self._limit)
        return self._models[model]

    def writer(self, model: str, run: int) -> Callable[[str, str], None]:
        """What takes a stream's name and a line of this run."""
        own = self.of(model)

        def write(stream: str, text: str) -> None:
            own.append(text, run=run, stream=stream)
            self.upstream.append(text, run=run, stream=stream)

        return write

    def close(self) -> None:
        """End whoever follows any of them."""
        for ring in (self.proxy, self.upstream, *self._models.values()):
            ring.close()


class LineSplitter:
    """Bytes of one pipe in, clean lines out."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Emit every line that is complete, or longer than a line may be."""
        *complete, self._rest = (self._rest + chunk).split(b"\n")
        for line in complete:
            self._emit_pieces(line)
        if len(self._rest) >= LINE_LIMIT:
            self.close()

    def close(self) -> None:
        """Emit what came after the last newline."""
        if self._rest:
            self._emit_pieces(self._rest)
        self._rest = b""

    def _emit_pieces(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE_LIMIT):
            self._emit(clean(line[start : start + LINE_LIMIT].decode(errors="replace")))


def clean(text: str) -> str:
    """The text without colours, cursor movements and other control characters."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text)).rstrip()
