"""The rows of the record in SQLite, in memory or in a file. All of it is for one thread, which may wait for a disk.

A file that is damaged is put aside, one that is another program's is left alone; a disk that is full or locked is tried
again. Whatever it is, the service goes on, and says so once.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Self

from msgspec.structs import astuple

from supervisor.record.queries import histogram
from supervisor.record.rows import COLUMNS, Row, StoredRow
from supervisor.record.turns import in_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from supervisor.record.queries import Query

logger = logging.getLogger("supervisor.record")

APPLICATION = 0x6C6C7376
"""`llsv`: marks a file as ours."""
VERSION = 1
"""Of the table's shape."""
MOST_IN_FILE = 1_000_000
"""Rows a file keeps; about 200 MB."""
MOST_WAITING = 50_000
"""Rows that wait for a disk to take them; about 50 MB."""
PRUNED_AT_ONCE = 64
"""Rows beyond the limit that are let be: deleting one at a time costs more than it frees."""
AT_ONCE = 100
"""Rows of one statement."""
READ_AT_ONCE = 250
"""Rows that are read between two pauses."""
RETRY_SECONDS = 5.0
BUSY_SECONDS = 1.0
"""How long another program's lock on the file is waited for at a time."""

_TABLE = f"""
CREATE TABLE activity (
    id INTEGER PRIMARY KEY,
    {", ".join(COLUMNS)}
)
"""
_INSERT = f"INSERT INTO activity (id, {', '.join(COLUMNS)}) VALUES "
_VALUES = f"(?, {', '.join('?' * len(COLUMNS))})"
_SELECT = f"SELECT id, {', '.join(COLUMNS)} FROM activity"
_SPEEDS = {"prompt_histogram": "prompt_per_second", "gen_histogram": "tokens_per_second"}


class Unusable(Exception):
    """Raised when a file cannot keep rows, and why."""


class Store:
    """The table, numbered by us: a row's number is known before it is written."""

    def __init__(self, path: Path | None, most_rows: int) -> None:
        """`most_rows` is for memory; a file has a limit of its own."""
        self._wanted = path
        self._most = most_rows if path is None else MOST_IN_FILE
        self._most_in_memory = most_rows
        self._waiting: deque[tuple[int, Row]] = deque()
        self._retry_at = 0.0
        self.last_id = 0
        """The number of the row that was added last."""
        self._count = 0
        self.lost = 0
        """Rows that could not be kept."""
        self.problem = ""
        """Why rows are not written right now; empty: they are."""

    def __enter__(self) -> Self:
        self._path = self._wanted
        try:
            self._open()
        except Unusable as exc:
            self._give_up_file(str(exc))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._waiting and self._path is not None:
            self._retry_at = 0.0
            self.add(())
        if self._waiting and self._path is not None:
            logger.error("%d rows of activity could not be written to %s", len(self._waiting), self._path)
        with contextlib.suppress(sqlite3.Error):
            self._database.close()

    # Writing.

    def add(self, rows: Sequence[Row]) -> list[int]:
        """Write these, and what waits; the numbers of the rows that are written now.

        In memory, rows wait until somebody asks for them: most never are.
        """
        before = self.last_id
        for row in rows:
            self.last_id += 1
            self._waiting.append((self.last_id, row))
        if self._path is None:
            while len(self._waiting) > self._most:
                self._waiting.popleft()
            return [*range(before + 1, self.last_id + 1)]
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self.lost += 1
        if not self._waiting or (self.problem and time.monotonic() < self._retry_at):
            return []
        try:
            written = self._write()
        except sqlite3.DatabaseError as exc:
            self._refused(exc)
            return []
        if self.problem:
            logger.info("activity is written to %s again", self._path)
            self.problem = ""
        return written

    def _settle(self) -> None:
        """What waits in memory belongs to every answer."""
        if self._path is None and self._waiting:
            self._write()

    def _write(self) -> list[int]:
        waiting = list(self._waiting)
        with self._database:  # all of them, or none
            for start in in_turns(range(0, len(waiting), AT_ONCE), 1):
                # One statement for many: Python's lock is let go and fought for once, not once for each row.
                some = [(number, *astuple(row)) for number, row in waiting[start : start + AT_ONCE]]
                self._database.execute(_INSERT + ", ".join([_VALUES] * len(some)), list(chain.from_iterable(some)))
            self._count += len(waiting)
            if self._count > self._most + PRUNED_AT_ONCE:
                self._prune()
        self._waiting.clear()
        return [number for number, _ in waiting]

    def _prune(self) -> None:
        cut = self._database.execute("SELECT id FROM activity ORDER BY id DESC LIMIT 1 OFFSET ?", (self._most,))
        if (row := cut.fetchone()) is not None:
            self._database.execute("DELETE FROM activity WHERE id <= ?", row)
        self._count = self._most

    def _refused(self, exc: sqlite3.DatabaseError) -> None:
        """The database does not take rows: it is damaged, or something that may pass."""
        self._recount()
        if _is_damage(exc) and self._path is not None:
            logger.error("%s is damaged (%s)", self._path, exc)
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            try:
                self._put_aside(self._path)
                self._open()
            except (OSError, Unusable) as error:
                self._give_up_file(str(error))
            self._retry_at = 0.0
            return
        if not self.problem:
            logger.error("activity cannot be written to %s: %s; it is tried again", self._path or "memory", exc)
        self.problem = str(exc)
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _recount(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            (self._count,) = self._database.execute("SELECT COUNT(*) FROM activity").fetchone()

    # Asking.

    def page(self, query: Query) -> tuple[list[StoredRow], int]:
        """The rows of a page, and how many there are on all pages."""
        self._settle()
        where, values = query.where()
        (total,) = self._database.execute(f"SELECT COUNT(*) FROM activity{where}", values).fetchone()
        window = [query.limit, (query.page - 1) * query.limit]
        found = self._database.execute(f"{_SELECT}{where}{query.order()} LIMIT ? OFFSET ?", [*values, *window])
        return [StoredRow(number, Row(*rest)) for number, *rest in in_turns(found, READ_AT_ONCE)], total

    def statistics(self, models: Sequence[str] = ()) -> dict[str, object]:
        """Sums and spreads over these models, or all."""
        self._settle()
        where = f" WHERE model IN ({', '.join('?' * len(models))})" if models else ""
        sums = "SELECT COUNT(*), SUM(MAX(input_tokens, 0)), SUM(MAX(output_tokens, 0)), SUM(MAX(cache_tokens, 0))"
        requests, read, written, cached = self._database.execute(f"{sums} FROM activity{where}", models).fetchone()
        told: dict[str, object] = {
            "total_requests": requests,
            "total_input_tokens": read or 0,
            "total_output_tokens": written or 0,
            "total_cache_tokens": cached or 0,
        }
        for name, column in _SPEEDS.items():
            condition = f"{where} AND" if where else " WHERE"
            rows = self._database.execute(
                f"SELECT {column} FROM activity{condition} {column} > 0 ORDER BY {column}", models
            )
            spread = histogram([value for (value,) in in_turns(rows, READ_AT_ONCE)])
            told[name] = spread.as_json() if spread is not None else None
        return told

    # The file.

    def _open(self) -> None:
        """Open the file, or memory; raises `Unusable`."""
        if self._path is None:
            self._connect()
            return
        for _ in range(2):
            try:
                self._connect()
                return
            except sqlite3.DatabaseError as exc:
                if not _is_damage(exc):
                    raise Unusable(f"{self._path}: {exc}") from exc
                logger.log(logging.ERROR, "%s is no database, or a damaged one (%s)", self._path, exc)
                try:
                    self._put_aside(self._path)
                except OSError as error:
                    raise Unusable(f"{self._path}: {error.strerror}") from error
        raise Unusable(f"{self._path}: a new file is damaged at once")

    def _connect(self) -> None:
        database = sqlite3.connect(self._path or ":memory:", timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            if not self._is_ours(database):
                database.close()
                assert self._path is not None
                other = self._path
                self._path = other.with_name(f"{other.name}.llama-supervise")
                logger.warning("%s is the database of another program; activity is kept in %s", other, self._path)
                self._connect()
                return
            if self._path is not None:
                database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")  # with WAL, a crash may cost the last rows, not the rest
            self._prepare(database)
            (self._count,) = database.execute("SELECT COUNT(*) FROM activity").fetchone()
            (last,) = database.execute("SELECT MAX(id) FROM activity").fetchone()
        except BaseException:
            database.close()
            raise
        self.last_id = max(self.last_id, last or 0)
        self._database = database

    @staticmethod
    def _is_ours(database: sqlite3.Connection) -> bool:
        """Whether nobody else has written this; raises `Unusable` for what a later version of us has."""
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if application == APPLICATION:
            if version > VERSION:
                raise Unusable(f"it was written by a later version (table {version}, this one knows {VERSION})")
            return True
        (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        return not tables

    @staticmethod
    def _prepare(database: sqlite3.Connection) -> None:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == VERSION:
            return
        with database:
            database.execute("BEGIN IMMEDIATE")
            database.execute(_TABLE)
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {VERSION}")

    @staticmethod
    def _put_aside(path: Path) -> None:
        """Out of the way, with what belongs to it, for whoever wants to mend it; raises `OSError`."""
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        logger.warning("it is now %s; activity goes on in a new file", aside)

    def _give_up_file(self, reason: str) -> None:
        logger.error("activity is kept in memory only, for its file cannot be used: %s", reason)
        self._path = None
        self._most = self._most_in_memory
        self._connect()

    def __repr__(self) -> str:
        state = f"not writing: {self.problem}" if self.problem else "writing"
        return f"<Store {self._path or 'in memory'} [{self._count} rows, {len(self._waiting)} waiting | {state}]>"


def _is_damage(exc: sqlite3.DatabaseError) -> bool:
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the rest of it are details
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
