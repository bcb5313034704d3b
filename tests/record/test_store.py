"""Rows in SQLite, and what becomes of them when a disk does not do as it should."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from supervisor.record import store as module
from supervisor.record.queries import SORTED_BY, Query
from supervisor.record.rows import Row
from supervisor.record.store import PRUNED_AT_ONCE, Store
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

ROW = Row(
    timestamp=1787390997.5,
    model="a",
    req_path="/v1/chat/completions",
    resp_content_type="application/json",
    resp_status_code=200,
    cache_tokens=-1,
    draft_tokens=-1,
    draft_acc_tokens=-1,
    input_tokens=25,
    output_tokens=4,
    prompt_per_second=-1.0,
    tokens_per_second=10.0,
    duration_ms=1234,
    wait_ms=None,
    first_ms=None,
    error_msg="",
    cause="",
    request_id="",
    key_name="",
    session_id="",
    metadata="",
)


def rows_in(path: Path) -> list[int]:
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = [number for (number,) in database.execute("SELECT id FROM activity ORDER BY id")]
    database.close()
    return found


def numbers(store: Store, query: Query | None = None) -> list[int]:
    return [row.id for row in store.page(query or Query(limit=999))[0]]


def test_rows_come_back() -> None:
    """A row comes back as it was, with its number."""
    with Store(None, 10) as store:
        assert store.add([ROW, replace(ROW, model="b", wait_ms=3)]) == [1, 2]
        found, total = store.page(Query())

    assert total == 2
    assert [(each.id, each.row) for each in found] == [(2, replace(ROW, model="b", wait_ms=3)), (1, ROW)]


def test_pages() -> None:
    """Filters, pages and orders as they are asked for."""
    with Store(None, 100) as store:
        store.add([replace(ROW, model="ab"[i % 2], duration_ms=100 - i, timestamp=float(i)) for i in range(10)])

        assert numbers(store, Query(models=("a",))) == [9, 7, 5, 3, 1]
        assert numbers(store, Query(models=("a", "b"), limit=3, page=2)) == [7, 6, 5]
        assert numbers(store, Query(min_id=3, max_id=5, is_descending=False)) == [3, 4, 5]
        assert numbers(store, Query(start=8.0, end=9.0)) == [10, 9]
        assert numbers(store, Query(sort="duration", limit=2)) == [1, 2]
        assert numbers(store, Query(page=99)) == []
        assert store.page(Query(models=("a",), limit=2))[1] == 5


@pytest.mark.parametrize(("name", "column"), SORTED_BY.items())
def test_every_order(name: str, column: str) -> None:
    """Each order is that of its own column, both ways; of equal rows the newer one counts as the greater."""
    low, high = ("a", "b") if isinstance(getattr(ROW, column, 0), str) else (1, 2)
    values = (high, low, low)
    rows = [replace(ROW, **({} if name == "id" else {column: value})) for value in values]
    with Store(None, 100) as store:
        store.add(rows)

        up, down = (numbers(store, Query(sort=name, is_descending=way)) for way in (False, True))
    assert up == ([1, 2, 3] if name == "id" else [2, 3, 1])
    assert down == up[::-1]


def test_statistics() -> None:
    """Sums and spreads, in which what is unknown does not count."""
    with Store(None, 100) as store:
        empty = store.statistics()
        store.add([replace(ROW, tokens_per_second=speed) for speed in (-1.0, 0.0, 10.0, 30.0)])
        store.add([replace(ROW, model="b", cache_tokens=7)])
        told: Any = store.statistics(["a"])

    assert empty == {
        "total_requests": 0,
        "total_input_tokens": 0,
        "total_output_tokens": 0,
        "total_cache_tokens": 0,
        "prompt_histogram": None,
        "gen_histogram": None,
    }
    assert (told["total_requests"], told["total_input_tokens"], told["total_cache_tokens"]) == (4, 100, 0)
    assert told["prompt_histogram"] is None
    assert (told["gen_histogram"]["min"], told["gen_histogram"]["p50"]) == (10.0, 20.0)


def test_memory_is_bounded() -> None:
    """The oldest rows go, a few at a time; numbers go on."""
    with Store(None, 10) as store:
        for _ in range(500):
            store.add([ROW])
        found = numbers(store)

    assert found[:10] == list(range(500, 490, -1))
    assert len(found) <= 10 + PRUNED_AT_ONCE


def test_a_file_stays(tmp_path: Path) -> None:
    """What is in a file is there the next time, and numbers go on."""
    for expected in ([1, 2], [3, 4]):
        with Store(tmp_path / "activity.db", 1) as store:
            assert store.add([ROW, ROW]) == expected

    assert rows_in(tmp_path / "activity.db") == [1, 2, 3, 4]


WRITER = """
import sys
from pathlib import Path
from supervisor.record.store import Store
from tests.record.test_store import ROW
with Store(Path(sys.argv[1]), 1) as store:
    while True:
        print(store.add([ROW] * 20)[-1], flush=True)
"""


def test_kill(tmp_path: Path) -> None:
    """A service that is killed in the middle of writing leaves a whole database with every batch that was written."""
    path = tmp_path / "activity.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(200):
        written = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    written = max(
        [written, *(int(line) for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n"))]
    )
    writer.wait()
    writer.stdout.close()
    found = rows_in(path)

    assert found == list(range(1, len(found) + 1))
    assert len(found) >= written
    assert len(found) % 20 == 0


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again with the next rows, not seconds later."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)


FULL = """
import resource, signal, sys
from pathlib import Path
from supervisor.record import store as module
from tests.record.test_store import ROW, numbers
module.RETRY_SECONDS = 0.0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
with module.Store(path, 1) as store:
    store.add([ROW])
    size = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    assert store.add([ROW] * 2) == []
    assert store.problem
    assert store.add([ROW]) == []
    assert numbers(store) == [1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert store.add([ROW]) == [2, 3, 4, 5]
    assert not store.problem
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """While there is no room rows wait; once there is, they are written, and none is lost."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "activity.db"], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert rows_in(tmp_path / "activity.db") == [1, 2, 3, 4, 5]
    assert done.stderr.count("cannot be written") == 1


@pytest.mark.usefixtures("at_once")
def test_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program's lock is waited for, over more rows if need be."""
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.01)
    path = tmp_path / "activity.db"
    with Store(path, 1) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert store.add([ROW]) == []
        assert "locked" in store.problem
        other.execute("ROLLBACK")
        other.close()

        assert store.add([ROW]) == [1, 2]


@pytest.mark.parametrize("text", [b"no database at all, but longer than a header" * 100, b"short"])
def test_no_database(tmp_path: Path, text: bytes) -> None:
    """What is no database is put aside, not overwritten."""
    path = tmp_path / "activity.db"
    path.write_bytes(text)
    with Store(path, 1) as store:
        assert store.add([ROW]) == [1]

    assert rows_in(path) == [1]
    (aside,) = tmp_path.glob("activity.db.damaged-*")
    assert aside.read_bytes() == text


@pytest.mark.usefixtures("at_once")
def test_damage_while_it_runs(tmp_path: Path) -> None:
    """A file that is damaged meanwhile is put aside, and no row that comes is lost."""
    path = tmp_path / "activity.db"
    with Store(path, 1) as store:
        store.add([ROW] * 500)
        store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        store._database.execute("PRAGMA shrink_memory")
        store._database.execute("PRAGMA cache_size = 0")
        written = [number for _ in range(3) for number in store.add([ROW])]

        assert written == [501, 502, 503]
        assert numbers(store)
    assert len(list(tmp_path.glob("activity.db.damaged-*"))) == 1
    assert rows_in(path) == written


def test_the_database_of_another_program(tmp_path: Path) -> None:
    """llama-swap's own store stays as it is; ours is beside it."""
    path = tmp_path / "activity.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE activity (id INTEGER)")
    theirs.close()
    before = path.read_bytes()
    with Store(path, 1) as store:
        store.add([ROW])

    assert path.read_bytes() == before
    assert rows_in(tmp_path / "activity.db.llama-supervise") == [1]


def test_a_later_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A table of a later version is left alone; memory does for now."""
    path = tmp_path / "activity.db"
    with Store(path, 1):
        pass
    with sqlite3.connect(path) as later:
        later.execute("PRAGMA user_version = 99")
    later.close()
    with Store(path, 5) as store:
        assert store.add([ROW]) == [1]

    assert rows_in(path) == []
    assert "later version" in caplog.text


@pytest.mark.parametrize("make", ["missing", "directory"])
def test_no_such_place(tmp_path: Path, make: str, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be is no reason to stop: memory does, and the log names the file."""
    path = tmp_path / "folder" / "activity.db"
    if make == "directory":
        path.mkdir(parents=True)
    with Store(path, 5) as store:
        assert store.add([ROW]) == [1]
        assert numbers(store) == [1]

    assert str(path) in caplog.text
    assert "memory only" in caplog.text


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that nobody takes the oldest are lost, and counted."""
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.01)
    path = tmp_path / "activity.db"
    with Store(path, 1) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        store.add([ROW] * 5)
        other.execute("ROLLBACK")
        other.close()

        assert store.lost == 2
    assert rows_in(path) == [3, 4, 5]
