"""Lines on their way to our own stdout or stderr: a pipe that nobody reads holds nothing up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.record.scribe import Lot, Scribe, dropped

if TYPE_CHECKING:
    from typing import BinaryIO

MOST_BYTES = 1024 * 1024
"""What may wait to be written; the rest is dropped, and said to be."""


class Echo(Scribe[None, bytes]):
    """A file that lines are written to without waiting."""

    def __init__(self, file: BinaryIO, limit: int = MOST_BYTES) -> None:
        super().__init__("echo", most=limit)
        self._file = file
        self.is_read = True
        """False once nobody reads it any more, or it is closed."""

    def write(self, line: str) -> None:
        """Write this line, soon."""
        if self.is_read:
            piece = f"{line}\n".encode(errors="replace")
            self._give(None, piece, len(piece))

    def _write(self, place: None, lot: Lot[bytes]) -> None:
        try:
            self._file.write(b"".join(lot.items) + dropped(lot.lost).encode())
            self._file.flush()
        except (OSError, ValueError):
            self.is_read = False
