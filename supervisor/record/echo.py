"""Lines on their way to our own stdout or stderr, written by a thread: a pipe that nobody reads holds nothing up."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO

MOST_BYTES = 1024 * 1024
"""What may wait to be written; the rest is dropped, and said to be."""
LAST_SECONDS = 1.0
"""How long the end of the service waits for what is still to be written."""


def dropped(count: int) -> str:
    """What stands in a log where a reader was too slow, as in llama-swap's."""
    return f"\n— {count} bytes dropped —\n"


class Echo:
    """A file that lines are written to without waiting."""

    def __init__(self, file: BinaryIO, limit: int = MOST_BYTES) -> None:
        self._file = file
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._is_ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="echo", daemon=True)  # it may hang in a write

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

    def write(self, line: str) -> None:
        """Write this line, soon."""
        piece = f"{line}\n".encode(errors="replace")
        with self._changed:
            if self._size + len(piece) > self._limit:
                self._lost += len(piece)
                return
            self._pieces.append(piece)
            self._size += len(piece)
            self._changed.notify()

    def _run(self) -> None:
        try:
            while data := self._next():
                self._file.write(data)
                self._file.flush()
        except (OSError, ValueError):  # nobody reads it any more, or it is closed
            self._limit = 0

    def _next(self) -> bytes:
        """What waits to be written; nothing when that is the end."""
        with self._changed:
            while not self._pieces and not self._is_ending:
                self._changed.wait()
            data = b"".join(self._pieces) + (dropped(self._lost).encode() if self._lost else b"")
            self._pieces.clear()
            self._size = self._lost = 0
            return data
