"""Footprints survive a restart, and whatever happens to their file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from supervisor.fleet.memory import HOST, Footprint, Part, Source
from supervisor.runtime.footprints import Footprints

if TYPE_CHECKING:
    from pathlib import Path

FOUND = Footprint.of(
    [Part("memory of its own", HOST, 5), Part("mapped", HOST, 7, "/m.gguf"), Part("KV cache", "CUDA0", 11)],
    Source.MEASURED,
)
OTHER = Footprint({HOST: 1}, source=Source.MEASURED)


def test_what_was_measured_is_known_after_a_restart(tmp_path: Path) -> None:
    """With all its parts, and under its key only."""
    Footprints(tmp_path).put("key", "m", FOUND)

    found = Footprints(tmp_path).get("key")

    assert found == FOUND
    assert found.parts == FOUND.parts
    assert Footprints(tmp_path).get("other") is None


def test_a_later_measurement_replaces_an_earlier_one(tmp_path: Path) -> None:
    """One row for each key."""
    store = Footprints(tmp_path)
    store.put("key", "m", OTHER)
    store.put("key", "m", Footprint({HOST: 2}, source=Source.MEASURED))

    found = store.get("key")

    assert found is not None
    assert found.total() == {HOST: 2}


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_damaged_file_is_put_aside(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, the old file stays for who wants to look, and what is measured next is kept."""
    (tmp_path / "footprints.sqlite").write_bytes(content)
    store = Footprints(tmp_path)

    assert store.get("key") is None
    store.put("key", "m", OTHER)

    assert store.get("key") == OTHER
    assert (tmp_path / "footprints.damaged").read_bytes() == content
    assert len(caplog.messages) == 1
    assert "memory is measured anew" in caplog.text


def test_a_damaged_file_is_replaced_by_the_first_write_too(tmp_path: Path) -> None:
    """Nobody need have read it before."""
    (tmp_path / "footprints.sqlite").write_bytes(b"junk" * 1000)

    Footprints(tmp_path).put("key", "m", OTHER)

    assert Footprints(tmp_path).get("key") == OTHER


@pytest.mark.parametrize("table", ["footprints (x)", "something (y)"])
def test_a_database_of_another_make_is_put_aside(tmp_path: Path, table: str) -> None:
    """A later version may lay it out otherwise."""
    with closing(sqlite3.connect(tmp_path / "footprints.sqlite")) as database:
        database.execute(f"CREATE TABLE {table}")
    store = Footprints(tmp_path)

    assert store.get("key") is None
    store.put("key", "m", OTHER)

    assert store.get("key") == OTHER


def test_a_row_that_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    """It is measured again."""
    store = Footprints(tmp_path)
    store.put("key", "m", OTHER)
    with closing(sqlite3.connect(tmp_path / "footprints.sqlite")) as database, database:
        database.execute("UPDATE footprints SET footprint = ?", (b'{"amounts": 1}',))

    assert store.get("key") is None


def test_a_full_disk_is_said_and_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be kept is measured again next time."""
    store = Footprints(tmp_path)
    store.put("key", "m", OTHER)
    with closing(sqlite3.connect(tmp_path / "footprints.sqlite")) as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
    large = Footprint.of([Part("x" * 100_000, HOST, 1)], Source.MEASURED)

    class Full(Footprints):
        def _opened(self) -> sqlite3.Connection:
            database = super()._opened()
            database.execute(f"PRAGMA max_page_count = {pages}")
            return database

    Full(tmp_path).put("other", "m", large)

    assert "cannot keep what m takes" in caplog.text
    assert "full" in caplog.text
    assert Footprints(tmp_path).get("key") == OTHER


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where a file stands in the place of the folder, nothing is kept and nothing breaks."""
    (tmp_path / "cache").write_text("")

    store = Footprints(tmp_path / "cache")
    store.put("key", "m", OTHER)

    assert store.get("key") is None
    assert "cannot keep what m takes" in caplog.text


def test_without_a_folder_nothing_is_kept() -> None:
    """Then the ledger lives as long as the service."""
    store = Footprints(None)
    store.put("key", "m", OTHER)

    assert store.get("key") is None


def test_old_starts_are_forgotten(tmp_path: Path) -> None:
    """The file stays small."""
    store = Footprints(tmp_path, most=2)
    for key in ("a", "b", "c"):
        store.put(key, "m", OTHER)

    assert [key for key in ("a", "b", "c") if store.get(key)] == ["b", "c"]
