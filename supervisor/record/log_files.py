"""Log files: our own log and what each model prints, in a directory that does not grow beyond a bound.

A slow disk holds nothing up. Where they cannot be written, what is printed meanwhile is in the rings all the same.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from supervisor.record.rotation import PAUSE, Attempts, append
from supervisor.record.scribe import Lot, Scribe, dropped

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 4 * 1024**2
"""What may wait to be written; the rest is dropped, and said to be."""
LONGEST_NAME = 120
OWN = "llama-supervise.log"
MODELS = "models"


class LogFiles(Scribe[Path, bytes]):
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
        super().__init__("log-files", most=MOST_BYTES)
        self._folder = folder
        self._size_of_file = size
        self._count = count
        self._attempts = Attempts(f"the log files in {folder}", pause=pause, clock=clock)
        self._lost: dict[Path, int] = {}
        """Bytes that could not be written, by file."""

    def own(self, text: str) -> None:
        """Write a line of our log, soon."""
        self._line(self._folder / OWN, text)

    def of(self, model: str) -> Callable[[float, str, str], None]:
        """What takes the time, the stream and the text of a line that this model printed."""
        path = self._folder / MODELS / file_name(model)
        return lambda at, stream, text: self._line(path, f"{_time(at)} {stream}: {text}")

    def _line(self, path: Path, line: str) -> None:
        piece = f"{line}\n".encode(errors="replace")
        self._give(path, piece, len(piece))

    def _write(self, place: Path, lot: Lot[bytes]) -> None:
        lost, data = self._lost.pop(place, 0), b"".join(lot.items)
        whole = dropped(lost).encode() + data + dropped(lot.lost).encode()
        if not self._attempts.succeeds(lambda: append(place, whole, size=self._size_of_file, count=self._count)):
            self._lost[place] = lost + len(data) + lot.lost


def file_name(model: str) -> str:
    """A file's name for a model's: no path, whatever it contains, and another one for each."""
    name = quote(model, safe=" ", errors="surrogatepass")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(model.encode(errors='surrogatepass')).hexdigest()[:12]}"
    return f"{name}.log"


def _time(at: float) -> str:
    whole, fraction = divmod(at, 1)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(whole))},{int(fraction * 1000):03}"
