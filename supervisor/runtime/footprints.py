"""The footprints of known starts, kept in one small SQLite file.

Every call opens and closes the file, so that several services may share it, and blocks on the disk: call it in a
thread. Whatever is wrong with the file, a start goes on without it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from supervisor.fleet.memory import Footprint, Part, Source

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("supervisor.footprints")

MOST = 2000
"""Starts remembered; those measured longest ago are forgotten."""
BUSY_SECONDS = 2.0
"""How long another service may hold the file."""

_TABLE = "CREATE TABLE IF NOT EXISTS footprints (start TEXT PRIMARY KEY, model TEXT, footprint BLOB, measured_at REAL)"
_PUT = "INSERT OR REPLACE INTO footprints VALUES (?, ?, ?, ?)"
_FORGET = "DELETE FROM footprints WHERE start NOT IN (SELECT start FROM footprints ORDER BY measured_at DESC LIMIT ?)"


class _Row(msgspec.Struct, frozen=True):
    """A footprint as it is kept."""

    amounts: dict[str, int]
    shared: dict[str, int]
    parts: list[Part]


class Footprints:
    """Measured footprints by the key of a start."""

    def __init__(self, cache_dir: Path | None, *, most: int = MOST) -> None:
        self._most = most
        self._path = cache_dir / "footprints.sqlite" if cache_dir else None

    def get(self, start: str) -> Footprint | None:
        """What this start took when it was measured last."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with closing(self._opened()) as database:
                row = database.execute("SELECT footprint FROM footprints WHERE start = ?", (start,)).fetchone()
            return _read(row[0]) if row else None
        except (sqlite3.Error, msgspec.DecodeError) as exc:
            self._mend(exc)
            return None

    def put(self, start: str, model: str, footprint: Footprint) -> None:
        """Remember it; a full disk or a damaged file is only logged."""
        if self._path is None:
            return
        for is_second_try in (False, True):
            try:
                self._put(start, model, footprint)
                return
            except (sqlite3.Error, OSError) as exc:
                if is_second_try or not self._mend(exc):
                    logger.warning("cannot keep what %s takes in %s: %s", model, self._path, exc)
                    return

    def _put(self, start: str, model: str, footprint: Footprint) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        row = _Row(dict(footprint.amounts), dict(footprint.shared), [*footprint.parts])
        with closing(self._opened()) as database, database:
            database.execute(_TABLE)
            database.execute(_PUT, (start, model, msgspec.json.encode(row), time.time()))
            database.execute(_FORGET, (self._most,))

    def _opened(self) -> sqlite3.Connection:
        assert self._path is not None
        return sqlite3.connect(self._path, timeout=BUSY_SECONDS)

    def _mend(self, exc: Exception) -> bool:
        """Put a file aside that is no database of ours; what it knew will be measured again."""
        is_damaged = isinstance(exc, sqlite3.DatabaseError) and not isinstance(exc, sqlite3.OperationalError)
        if self._path is None or not (is_damaged or _has_no_table(exc)):
            return False
        aside = self._path.with_suffix(".damaged")
        try:
            self._path.replace(aside)
        except OSError:
            return False
        logger.warning("%s cannot be read (%s) and is now %s; memory is measured anew", self._path, exc, aside.name)
        return True


def _has_no_table(exc: Exception) -> bool:
    return isinstance(exc, sqlite3.OperationalError) and "no such" in str(exc)


def _read(text: bytes) -> Footprint:
    row = msgspec.json.decode(text, type=_Row)
    return Footprint(row.amounts, row.shared, Source.MEASURED, tuple(row.parts))
