"""Files that lines are added to and that do not grow beyond a bound: a full one is numbered, and the oldest goes.

No file stays open between two writes: each may be moved away.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger("supervisor.logs")

PAUSE = 5.0
"""Seconds until writing is tried again."""
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Attempts:
    """Where files cannot be written, that is said once, and tried again after a pause."""

    def __init__(self, what: str, *, pause: float = PAUSE, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._pause = pause
        self._clock = clock
        self._resume_at: float | None = None
        """When writing is tried again; None while it works."""

    def succeeds(self, write: Callable[[], None]) -> bool:
        """Whether this was done, which may raise `OSError`."""
        if self._resume_at is not None and self._clock() < self._resume_at:
            return False
        try:
            write()
        except OSError as exc:
            if self._resume_at is None:
                logger.warning("%s cannot be written for now: %s", self._what, exc.strerror)
            self._resume_at = self._clock() + self._pause
            return False
        if self._resume_at is not None:
            self._resume_at = None
            logger.info("%s can be written again", self._what)
        return True


def append(path: Path, data: bytes, *, size: int, count: int) -> None:
    """Add lines to a file, putting it aside whenever it is full; raises `OSError`."""
    while data:
        at = size_of(path)
        fitting = data if at + len(data) <= size else data[: data.rfind(b"\n", 0, max(0, size - at)) + 1]
        if not fitting and not at:
            fitting = data[:size]  # a line longer than a file may be
        add(path, fitting)
        data = data[len(fitting) :]
        if data:
            put_aside(path, count)


def size_of(path: Path) -> int:
    """Bytes in this file; 0 if there is none."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def add(path: Path, data: bytes) -> None:
    """Add to a file that only we may read, however large it is; raises `OSError`."""
    try:
        file = os.open(path, _FLAGS, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, _FLAGS, 0o600)
    try:
        with memoryview(data) as view:
            at = 0
            while at < len(view):
                at += os.write(file, view[at:])
    finally:
        os.close(file)


def put_aside(path: Path, count: int) -> None:
    """Number it, and those that were put aside before; the oldest goes."""
    for number in range(count, 1, -1):
        older = numbered(path, number - 1)
        if older.exists():
            older.replace(numbered(path, number))
    if count:
        path.replace(numbered(path, 1))
    else:
        path.unlink()


def numbered(path: Path, number: int) -> Path:
    """What a file is called that was put aside so many files ago."""
    return path.with_name(f"{path.name}.{number}")
