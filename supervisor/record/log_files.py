"""Log files: our own log and what each model prints, in a directory that does not grow beyond a bound.

A thread writes them, so that a slow disk holds nothing up. Where they cannot be written, they pause and say so once;
what is printed meanwhile is in the rings all the same. No file stays open between two writes: each may be moved away.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from supervisor.record.echo import LAST_SECONDS, dropped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

logger = logging.getLogger("supervisor.logs")

MOST_BYTES = 4 * 1024**2
"""What may wait to be written; the rest is dropped, and said to be."""
PAUSE = 5.0
"""Seconds until writing is tried again."""
LONGEST_NAME = 120
OWN = "llama-supervise.log"
MODELS = "models"
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class LogFiles:
    """Files that lines are written to without waiting."""

    def __init__(
        self,
        folder: Path,
        *,
        size: int,
        count: int,
        pause: float = PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A file of `size` bytes is put aside; `count` of those are kept."""
        self._folder = folder
        self._size = size
        self._count = count
        self._pause = pause
        self._clock = clock
        self._waiting: deque[tuple[Path, bytes]] = deque()
        self._bytes = 0
        self._lost: dict[Path, int] = {}
        self._resume_at: float | None = None
        """When writing is tried again; None while it works."""
        self._is_ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log-files", daemon=True)  # it may hang in a write

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join(LAST_SECONDS)

    def own(self, text: str) -> None:
        """Write a line of our log, soon."""
        self._write(self._folder / OWN, text)

    def of(self, model: str) -> Callable[[float, str, str], None]:
        """What takes the time, the stream and the text of a line that this model printed."""
        path = self._folder / MODELS / file_name(model)
        return lambda at, stream, text: self._write(path, f"{_time(at)} {stream}: {text}")

    def _write(self, path: Path, line: str) -> None:
        piece = f"{line}\n".encode(errors="replace")
        with self._changed:
            if self._bytes + len(piece) > MOST_BYTES:
                self._lost[path] = self._lost.get(path, 0) + len(piece)
                return
            self._waiting.append((path, piece))
            self._bytes += len(piece)
            self._changed.notify()

    def _run(self) -> None:
        while batch := self._next():
            for path, data in batch.items():
                self._append(path, data)

    def _next(self) -> dict[Path, bytes]:
        """What waits to be written, by file; nothing when that is the end."""
        with self._changed:
            while not self._waiting and not self._is_ending:
                self._changed.wait()
            pieces: dict[Path, list[bytes]] = {}
            for path, piece in self._waiting:
                pieces.setdefault(path, []).append(piece)
            self._waiting.clear()
            self._bytes = 0
        return {path: b"".join(each) for path, each in pieces.items()}

    def _append(self, path: Path, data: bytes) -> None:
        if self._resume_at is not None and self._clock() < self._resume_at:
            self._lose(path, len(data))
            return
        with self._changed:
            lost = self._lost.pop(path, 0)
        try:
            append(path, (dropped(lost).encode() if lost else b"") + data, size=self._size, count=self._count)
        except OSError as exc:
            self._lose(path, lost + len(data))
            if self._resume_at is None:
                logger.warning("the log files in %s are not written for now: %s", self._folder, exc.strerror)
            self._resume_at = self._clock() + self._pause
        else:
            if self._resume_at is not None:
                self._resume_at = None
                logger.info("the log files in %s are written again", self._folder)

    def _lose(self, path: Path, count: int) -> None:
        with self._changed:
            self._lost[path] = self._lost.get(path, 0) + count


def file_name(model: str) -> str:
    """A file's name for a model's: no path, whatever it contains, and another one for each."""
    name = quote(model, safe=" ", errors="surrogatepass")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(model.encode(errors='surrogatepass')).hexdigest()[:12]}"
    return f"{name}.log"


def append(path: Path, data: bytes, *, size: int, count: int) -> None:
    """Add lines to a file, putting it aside whenever it is full; raises `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while data:
        file = os.open(path, _FLAGS, 0o600)
        try:
            at = os.fstat(file).st_size
            fitting = data if at + len(data) <= size else data[: data.rfind(b"\n", 0, max(0, size - at)) + 1]
            if not fitting and not at:
                fitting = data[:size]  # a line longer than a file may be
            _write_all(file, fitting)
        finally:
            os.close(file)
        data = data[len(fitting) :]
        if data:
            put_aside(path, count)


def put_aside(path: Path, count: int) -> None:
    """Number it, and those that were put aside before; the oldest goes."""
    for number in range(count, 1, -1):
        older = _numbered(path, number - 1)
        if older.exists():
            older.replace(_numbered(path, number))
    if count:
        path.replace(_numbered(path, 1))
    else:
        path.unlink()


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _write_all(file: int, data: bytes) -> None:
    with memoryview(data) as view:
        at = 0
        while at < len(view):
            at += os.write(file, view[at:])


def _time(at: float) -> str:
    whole, fraction = divmod(at, 1)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(whole))},{int(fraction * 1000):03}"
