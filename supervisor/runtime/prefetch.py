"""Reading a model's files into the page cache ahead of its child, which reads with one thread and leaves a disk idle.

Warming is a favour: it ends quietly at the first trouble, and before it takes memory that is wanted elsewhere. It must
not know what the files are for, and is of no use to a child that reads past the page cache (direct I/O).
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from supervisor.runtime.residency import available_memory, open_to_sample, sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

READERS = 4
"""One alone reaches half of what a disk gives; beyond four nothing is gained (`scripts/bench_prefetch`)."""
PIECE = 4 << 20
"""Read by one call: short enough to stop soon, and long enough that little Python runs beside the event loop."""
RESERVE = 1 << 30
MEASURE_EVERY = 64 << 20
"""Bytes between two looks at the available memory: each costs a third of a millisecond."""
PROBES = 4
PAUSE = 0.000_05

Reason = Literal["done", "stopped", "memory", "error"]


class Piece(NamedTuple):
    """A part of a file, read by one call."""

    path: Path
    begin: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class PrefetchReport:
    """What has been warmed so far."""

    bytes_read: int
    bytes_resident: int
    """Found in memory, so not read."""
    seconds: float
    reason: Reason | None
    """Why it ends; None until then."""
    error: str = ""


class Prefetch:
    """Warms files with a few threads, which end by themselves."""

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        reserve: int = RESERVE,
        readers: int = READERS,
        available: Callable[[], int | None] = available_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`reserve` are bytes of the available memory that stay untouched."""
        self._pieces = pieces((path, path.stat().st_size) for path in dict.fromkeys(paths))
        self._room = _Room(available, reserve)
        self._clock = clock
        self._readers = readers
        self._threads: list[threading.Thread] = []
        self._working = 0
        self._lock = threading.Lock()
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._read = self._resident = 0
        self._reason: Reason | None = None
        self._error = ""

    def __repr__(self) -> str:
        state = self._reason or f"{self._working} reading"
        return f"<Prefetch [{self._read} bytes read, {self._resident} resident] {state}>"

    @property
    def report(self) -> PrefetchReport:
        now = self._clock() if self._ended_at is None else self._ended_at
        seconds = 0.0 if self._began_at is None else now - self._began_at
        return PrefetchReport(self._read, self._resident, seconds, self._reason, self._error)

    def start(self) -> None:
        self._began_at = self._clock()
        self._call_in_a_reader()

    def stop(self) -> None:
        """Each reader ends after the piece it is at; nobody waits for that."""
        self._end("stopped")

    def wait(self, timeout: float) -> bool:
        """Whether all readers ended within these seconds; blocks, so not for the event loop."""
        until = time.monotonic() + timeout
        for thread in self._threads:  # each calls in the next before it ends
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _call_in_a_reader(self) -> None:
        with self._lock:
            if self._reason is not None or len(self._threads) >= self._readers:
                return
            # A daemon: a read from a dead network disk never ends and must not keep the service from ending.
            thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
            try:
                thread.start()
            except RuntimeError as exc:  # the system allows no more threads; fewer will do
                self._readers = len(self._threads)
                if not self._threads:
                    self._end("error", str(exc))
                return
            self._threads.append(thread)
            self._working += 1

    def _work(self) -> None:
        try:
            with _Reader() as reader:
                while (piece := self._next()) is not None:
                    self._warm(piece, reader)
        except (OSError, EOFError, MemoryError) as exc:
            self._end("error", str(exc))
        finally:
            self._leave()

    def _next(self) -> Piece | None:
        with self._lock:
            piece = None if self._reason else next(self._pieces, None)
            if piece is None or self._room.take(piece.length):
                return piece
        self._end("memory")
        return None

    def _warm(self, piece: Piece, reader: _Reader) -> None:
        is_resident = reader.finds(piece)
        if is_resident:
            # Finding what is there is all Python and system calls of a microsecond: without a pause the event loop
            # would wait for the interpreter's lock, up to 5 ms each time.
            time.sleep(PAUSE)
        else:
            self._call_in_a_reader()
            reader.read(piece)
        with self._lock:
            self._read += 0 if is_resident else piece.length
            self._resident += piece.length if is_resident else 0

    def _end(self, reason: Reason, error: str = "") -> None:
        # Without the lock: whoever stops this must not wait for a slow disk. Of two reasons at once either is true.
        if self._reason is None:
            self._reason, self._error = reason, error

    def _leave(self) -> None:
        with self._lock:
            self._working -= 1
            if self._working == 0:
                self._end("done")
                self._ended_at = self._clock()


def pieces(files: Iterable[tuple[Path, int]]) -> Iterator[Piece]:
    """All of the files in order, so that the readers run ahead of a child that begins at the beginning."""
    for path, size in files:
        for begin in range(0, size, PIECE):
            yield Piece(path, begin, min(begin + PIECE, size))


class _Room:
    """How much may be warmed: all of it must find room at once, or the end would push out the beginning.

    What has been warmed is page cache and counts as available, so the bytes taken are held against the whole amount.
    """

    def __init__(self, available: Callable[[], int | None], reserve: int) -> None:
        self._available = available
        self._reserve = reserve
        self._limit = 0
        self._taken = 0
        self._measure_at = 0

    def take(self, length: int) -> bool:
        if self._taken >= self._measure_at:
            self._limit = (self._available() or 0) - self._reserve
            self._measure_at = self._taken + MEASURE_EVERY
        self._taken += length
        return self._taken <= self._limit


class _Reader:
    """One thread's open file, and the buffer whose contents nobody looks at."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._fd = -1
        self._scratch = memoryview(mmap.mmap(-1, PIECE))  # what malloc gives a thread stays with it when it has ended

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def finds(self, piece: Piece) -> bool:
        """Whether it is in memory, as far as a few samples tell."""
        self._open(piece.path)
        return all(sample(self._fd, piece.begin, piece.end, count=PROBES))

    def read(self, piece: Piece) -> None:
        self._open(piece.path)
        position = piece.begin
        while position < piece.end:
            count = os.preadv(self._fd, [self._scratch[: piece.end - position]], position)
            if count == 0:
                raise EOFError(f"`{piece.path}` has become shorter")
            position += count

    def _open(self, path: Path) -> None:
        if path != self._path:
            self._close()
            self._fd, self._path = open_to_sample(path), path

    def _close(self) -> None:
        if self._path is not None:
            os.close(self._fd)
            self._path = None
