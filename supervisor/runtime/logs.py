"""Output of the children, kept in bounded rings that remember which stream a line came from and when."""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, assert_never

from supervisor.config.values import Console
from supervisor.record.scribe import dropped

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

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
    end: int
    """Bytes that had been printed when it ended, as far as this ring was told."""

    @property
    def begin(self) -> int:
        return self.end - _length(self.text)


class LogRing:
    """The latest lines of one model, through all its runs, up to a number of bytes."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.time) -> None:
        self.is_closed = False
        self.sinks: list[Callable[[Line], None]] = []
        """Given each line as it comes; must not wait."""
        self._limit = limit
        self._clock = clock
        self._lines: deque[Line] = deque()
        self._size = 0
        self._count = 0
        self._end = 0
        self._readers: dict[Reader, Callable[[], None]] = {}

    def append(self, text: str, *, run: int = 0, stream: str = "stderr") -> None:
        """Add one line; the oldest make room."""
        self._count += 1
        self._end += _length(text)
        line = Line(self._count, self._clock(), run, stream, text, self._end)
        self._lines.append(line)
        self._size += _cost(text)
        while self._size > self._limit and len(self._lines) > 1:
            self._size -= _cost(self._lines.popleft().text)
        for sink in self.sinks:
            sink(line)
        self._wake()

    def add(self, line: Line) -> None:
        """Add a line of another ring."""
        self.append(line.text, run=line.run, stream=line.stream)

    def lines(self, *, run: int | None = None, stream: str | None = None) -> list[Line]:
        """The kept lines, oldest first; of one run or stream where asked."""
        return [line for line in self._lines if run in {None, line.run} and stream in {None, line.stream}]

    def text(self) -> str:
        """The kept lines as they were printed."""
        return _joined(self._lines)

    @contextlib.contextmanager
    def reader(self, wake: Callable[[], None], *, history: bool = True) -> Iterator[Reader]:
        """Read the kept lines, then new ones; `wake` is called when there are some, and when the ring is closed."""
        reader = Reader(self, self._start() if history else Place(self._count, self._end))
        self._readers[reader] = wake
        try:
            yield reader
        finally:
            del self._readers[reader]

    def close(self) -> None:
        """End whoever follows; the kept lines stay."""
        self.is_closed = True
        self._wake()

    def after(self, number: int) -> list[Line]:
        """The kept lines that came after the one with this number."""
        if not self._lines or self._lines[-1].number <= number:
            return []
        skipped = max(0, number - self._lines[0].number + 1)
        return list(islice(self._lines, skipped, None))

    @property
    def is_followed(self) -> bool:
        return bool(self._readers)

    def _start(self) -> Place:
        """Before the oldest line that is kept."""
        if not self._lines:
            return Place(self._count, self._end)
        oldest = self._lines[0]
        return Place(oldest.number - 1, oldest.begin)

    def _wake(self) -> None:
        for wake in self._readers.values():
            wake()

    def __repr__(self) -> str:
        return f"<LogRing [{len(self._lines)} lines, {self._size} of {self._limit} bytes]>"


class Place(NamedTuple):
    """Between two lines: how many are before it, and where they end."""

    number: int
    end: int


class Reader:
    """Who reads a ring at its own pace. Lines it is too slow for are gone, and it is told how many bytes that were."""

    def __init__(self, ring: LogRing, seen: Place) -> None:
        self._ring = ring
        self._seen = seen

    def take(self) -> str:
        """What has been printed since the last call."""
        fresh = self._ring.after(self._seen.number)
        if not fresh:
            return ""
        lost = fresh[0].begin - self._seen.end
        self._seen = Place(fresh[-1].number, fresh[-1].end)
        return dropped(lost) + _joined(fresh)


def _cost(text: str) -> int:
    """What a line takes of the ring: empty ones cost memory too."""
    return len(text) + LINE_OVERHEAD


def _length(text: str) -> int:
    """Bytes of a line as it was printed."""
    return (len(text) if text.isascii() else len(text.encode(errors="replace"))) + 1


def _joined(lines: Iterable[Line]) -> str:
    return "".join(f"{line.text}\n" for line in lines)


class Logs:
    """Every ring of the service: one per model, one of all children together, one of our own words."""

    def __init__(self, limit: int, console: Console = Console.PROXY) -> None:
        self._limit = limit
        self._models: dict[str, LogRing] = {}
        self.file_of: Callable[[str], Callable[[float, str, str], None]] | None = None
        """What writes a model's lines to a file, if they are: given the time, the stream and the text."""
        self.upstream = LogRing(limit)
        self.proxy = LogRing(limit)
        self.shown = self._shown(console)
        """What goes to our own output."""

    def _shown(self, console: Console) -> LogRing:
        match console:
            case Console.PROXY:
                return self.proxy
            case Console.UPSTREAM:
                return self.upstream
            case Console.BOTH:
                both = LogRing(self._limit)
                self.proxy.sinks.append(both.add)
                self.upstream.sinks.append(both.add)
                return both
            case Console.NONE:
                return LogRing(0)
            case _:
                assert_never(console)

    def of(self, model: str) -> LogRing:
        """The output of all runs of this model."""
        if model not in self._models:
            self._models[model] = LogRing(self._limit)
            if self.file_of is not None:
                write = self.file_of(model)
                self._models[model].sinks.append(lambda line: write(line.at, line.stream, line.text))
        return self._models[model]

    def writer(self, model: str, run: int) -> Callable[[str, str], None]:
        """What takes a stream's name and a line of this run."""
        own = self.of(model)

        def write(stream: str, text: str) -> None:
            own.append(text, run=run, stream=stream)
            self.upstream.append(text, run=run, stream=stream)

        return write

    def keep(self, models: Container[str]) -> None:
        """Forget the output of all other models, unless somebody follows it."""
        self._models = {name: ring for name, ring in self._models.items() if name in models or ring.is_followed}

    def close(self) -> None:
        """End whoever follows any of them."""
        for ring in (self.proxy, self.upstream, self.shown, *self._models.values()):
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
