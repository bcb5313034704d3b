"""Warming files: what is missing is read, once, within bounds, and it always ends."""

from __future__ import annotations

import os
import tempfile
import threading
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.runtime.prefetch import MEASURE_EVERY, PIECE, Prefetch, pieces
from supervisor.runtime.residency import open_to_sample, residency
from supervisor.runtime.vitals import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 30.0
PLENTY = 1 << 40
NOBODY = 65534


def plenty() -> int:
    return PLENTY


def holes(path: Path, size: int) -> Path:
    """A file that takes no disk to read: it counts as resident."""
    path.touch()
    os.truncate(path, size)
    return path


def cold(path: Path, size: int) -> Path:
    """A file of which nothing is in memory."""
    with path.open("wb") as file:
        file.writelines(bytes(min(1 << 20, size - begin)) for begin in range(0, size, 1 << 20))
    if residency(path) is None:
        pytest.skip(f"the filesystem of {path.parent} has no RWF_NOWAIT")
    return dropped(path)


def dropped(path: Path) -> Path:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of eight pieces."""
    return cold(tmp_path_factory.mktemp("eight") / "m.gguf", 8 * PIECE)


def now_and_then(attempt: Callable[[], bool]) -> bool:
    """Whether it succeeds at all: a busy kernel takes cached pages back at any moment, or keeps dropped ones."""
    return any(attempt() for _ in range(20))


def finish(prefetch: Prefetch) -> None:
    prefetch.start()
    assert prefetch.wait(DEADLINE)


def open_files() -> set[str]:
    return {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}


def test_cold_files_are_warm_afterwards(tmp_path: Path) -> None:
    """All shards, the last odd bytes included."""
    shards = [cold(tmp_path / f"{number}.gguf", 3 * PIECE + 12345) for number in range(4)]

    def are_warmed() -> bool:
        prefetch = Prefetch([*map(dropped, shards), shards[0]], available=plenty)

        finish(prefetch)

        report = prefetch.report
        assert (report.reason, report.error) == ("done", "")
        assert report.bytes_read + report.bytes_resident == 4 * (3 * PIECE + 12345)
        assert not any(str(tmp_path) in path for path in open_files())
        return report.bytes_resident == 0 and all(residency(path) == 1.0 for path in shards)

    assert now_and_then(are_warmed)


@settings(max_examples=20)
@given(resident=st.sets(st.integers(0, 7)))
def test_exactly_what_is_missing_is_read(eight: Path, resident: set[int]) -> None:
    """Whatever is in memory is left alone, and everything else is read once."""

    def is_exact() -> bool:
        fd = open_to_sample(dropped(eight))
        for number in resident:
            os.preadv(fd, [bytearray(PIECE)], number * PIECE)
        os.close(fd)
        prefetch = Prefetch([eight], available=plenty)

        finish(prefetch)

        report = prefetch.report
        assert report.bytes_read + report.bytes_resident == 8 * PIECE
        return report.bytes_resident == len(resident) * PIECE

    assert now_and_then(is_exact)


def test_a_piece_of_which_half_is_missing_is_read(eight: Path) -> None:
    """A few samples see a gap of some size."""

    def is_read() -> bool:
        fd = open_to_sample(dropped(eight))
        for number in range(8):
            os.preadv(fd, [bytearray(PIECE // 2)], number * PIECE)
        os.close(fd)
        prefetch = Prefetch([eight], available=plenty)

        finish(prefetch)

        return prefetch.report.bytes_read == 8 * PIECE

    assert now_and_then(is_read)


def test_what_readers_used_is_given_back(eight: Path) -> None:
    """Their buffers do not stay with us, however many readers there have been."""

    before = resident_bytes(os.getpid()) or 0
    for _ in range(10):
        finish(Prefetch([dropped(eight)], available=plenty))

    assert (resident_bytes(os.getpid()) or 0) - before < PIECE


@given(st.lists(st.integers(0, 20 * PIECE), max_size=4))
def test_pieces_cover_the_files_once(sizes: list[int]) -> None:
    """Every byte of every file is in one piece, in order, and none is too long for a reader's buffer."""
    files = [(Path(str(number)), size) for number, size in enumerate(sizes)]

    found = list(pieces(files))

    assert all(0 < piece.length <= PIECE for piece in found)
    for path, size in files:
        own = [piece for piece in found if piece.path == path]
        borders = [0, *(piece.end for piece in own)]
        assert [piece.begin for piece in own] == borders[:-1]
        assert borders[-1] == size
    assert [piece.path for piece in found] == sorted((piece.path for piece in found), key=lambda path: int(path.name))


def test_what_finds_no_room_is_not_read(eight: Path) -> None:
    """The reserve stays untouched, to the byte."""

    def is_bounded() -> bool:
        prefetch = Prefetch([dropped(eight)], reserve=5 * PIECE, available=lambda: 8 * PIECE)

        finish(prefetch)

        assert prefetch.report.reason == "memory"
        assert prefetch.report.bytes_read + prefetch.report.bytes_resident == 3 * PIECE
        return (residency(eight) or 0) < 0.45

    assert now_and_then(is_bounded)


def test_memory_is_measured_again(tmp_path: Path) -> None:
    """When others take the memory meanwhile, warming ends."""
    path = holes(tmp_path / "m.gguf", 3 * MEASURE_EVERY)
    amounts = iter([PLENTY, 0, 0, 0])
    prefetch = Prefetch([path], reserve=0, available=lambda: next(amounts))

    finish(prefetch)

    report = prefetch.report
    assert report.reason == "memory"
    assert report.bytes_read + report.bytes_resident == MEASURE_EVERY


def test_without_knowing_the_memory_nothing_is_read(tmp_path: Path) -> None:
    """Unknown is not plenty."""
    prefetch = Prefetch([holes(tmp_path / "m.gguf", PIECE)], available=lambda: None)

    finish(prefetch)

    assert (prefetch.report.reason, prefetch.report.bytes_read) == ("memory", 0)


def test_after_stop_no_reader_takes_another_piece(tmp_path: Path) -> None:
    """What was being read is finished, nothing more."""
    path = holes(tmp_path / "m.gguf", 3 * MEASURE_EVERY)
    looks = count()

    def stop_at_the_second_look() -> int:
        if next(looks) == 1:
            prefetch.stop()
        return PLENTY

    prefetch = Prefetch([path], available=stop_at_the_second_look)

    finish(prefetch)

    report = prefetch.report
    assert report.reason == "stopped"
    assert report.bytes_read + report.bytes_resident == MEASURE_EVERY + PIECE


def test_stop_does_not_wait_for_a_reader_that_hangs(tmp_path: Path) -> None:
    """Whoever stops it goes on at once; the reader ends when it can."""
    path = holes(tmp_path / "m.gguf", 4 * PIECE)
    hangs, release = threading.Event(), threading.Event()

    def hang() -> int:
        hangs.set()
        release.wait(DEADLINE)
        return PLENTY

    prefetch = Prefetch([path], available=hang)
    prefetch.start()
    assert hangs.wait(DEADLINE)
    prefetch.stop()
    prefetch.stop()

    assert prefetch.report.reason == "stopped"
    assert not prefetch.wait(0)
    release.set()
    assert prefetch.wait(DEADLINE)
    assert prefetch.report.bytes_read + prefetch.report.bytes_resident == PIECE


def test_a_prefetch_stopped_before_it_starts_reads_nothing(tmp_path: Path) -> None:
    """The order of start and stop does not matter."""
    prefetch = Prefetch([holes(tmp_path / "m.gguf", PIECE)], available=plenty)
    prefetch.stop()

    finish(prefetch)

    assert (prefetch.report.reason, prefetch.report.bytes_read) == ("stopped", 0)


def test_stopping_what_is_done_changes_nothing(tmp_path: Path) -> None:
    """The reason is the first one."""
    ticks = count(10)
    prefetch = Prefetch([holes(tmp_path / "m.gguf", PIECE)], available=plenty, clock=lambda: next(ticks))

    finish(prefetch)
    prefetch.stop()

    assert (prefetch.report.reason, prefetch.report.seconds) == ("done", 1)
    assert repr(prefetch).endswith("done>")


@pytest.mark.parametrize("readers", [1, 3])
def test_readers_are_few_whatever_the_number_of_files(tmp_path: Path, readers: int) -> None:
    """Twenty shards are one list of pieces; nobody is left behind."""
    shards = [cold(tmp_path / f"{number}.gguf", PIECE) for number in range(20)]
    before = set(threading.enumerate())
    crowds = []

    def look() -> int:
        crowds.append(len(set(threading.enumerate()) - before))
        return PLENTY

    prefetch = Prefetch(shards, readers=readers, available=look)

    finish(prefetch)

    assert crowds[0] == 1
    assert max(crowds) <= readers
    assert set(threading.enumerate()) <= before


def test_a_file_that_is_missing_ends_it_quietly(tmp_path: Path) -> None:
    """What came before it is warm; the reason names the file."""
    first = holes(tmp_path / "1.gguf", PIECE)
    prefetch = Prefetch([first, tmp_path / "2.gguf", first], available=plenty)

    finish(prefetch)

    report = prefetch.report
    assert report.reason == "error"
    assert "2.gguf" in report.error
    assert report.bytes_read + report.bytes_resident == PIECE


def test_a_file_that_shrinks_ends_it_quietly(tmp_path: Path) -> None:
    """Somebody downloads the model again while it is being warmed."""
    path = cold(tmp_path / "m.gguf", 4 * PIECE)

    def shrink() -> int:
        os.truncate(path, PIECE // 2)
        return PLENTY

    prefetch = Prefetch([path], available=shrink)

    finish(prefetch)

    assert prefetch.report.reason == "error"
    assert "has become shorter" in prefetch.report.error


def test_a_file_that_is_replaced_by_something_else_ends_it_quietly(tmp_path: Path) -> None:
    """A pipe has no length at first sight, and opening one waits for its writer: neither happens."""
    path = holes(tmp_path / "m.gguf", PIECE)

    def replace() -> int:
        path.unlink()
        os.mkfifo(path)
        return PLENTY

    prefetch = Prefetch([path], available=replace)

    finish(prefetch)

    assert prefetch.report.reason == "error"
    assert "not a regular file" in prefetch.report.error


def test_a_file_that_may_not_be_read_ends_it_quietly(tmp_path: Path) -> None:
    """Modes do not bind root, so it is another user who tries."""
    path = cold(tmp_path / "m.gguf", PIECE)
    user = os.geteuid()
    with path.open("rb") as file:
        path.chmod(0)
        prefetch = Prefetch([Path(f"/proc/self/fd/{file.fileno()}")], available=plenty)
        os.seteuid(NOBODY if user == 0 else user)
        try:
            finish(prefetch)
        finally:
            os.seteuid(user)

    assert prefetch.report.reason == "error"
    assert "Permission denied" in prefetch.report.error


def test_a_system_without_threads_ends_it_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`can't start new thread` is no reason not to start a model."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    prefetch = Prefetch([cold(tmp_path / "m.gguf", PIECE)], available=plenty)

    finish(prefetch)

    assert (prefetch.report.reason, prefetch.report.error) == ("error", "can't start new thread")


def test_fewer_threads_than_wanted_will_do(eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one reader there is reads it all."""
    start, starts = threading.Thread.start, count()

    def refuse_the_second(thread: threading.Thread) -> None:
        if next(starts):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_second)
    prefetch = Prefetch([dropped(eight)], available=plenty)

    finish(prefetch)

    assert next(starts) == 2
    assert prefetch.report.reason == "done"
    assert prefetch.report.bytes_read + prefetch.report.bytes_resident == 8 * PIECE


def test_a_filesystem_that_cannot_tell_is_read(tmp_path: Path) -> None:
    """Without RWF_NOWAIT everything is read: better once too often."""
    shm = Path("/dev/shm")
    if f" {shm} tmpfs " not in Path("/proc/mounts").read_text() or not os.access(shm, os.W_OK):
        pytest.skip("no tmpfs to write to")
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        prefetch = Prefetch([holes(Path(folder) / "m.gguf", 2 * PIECE)], available=plenty)

        finish(prefetch)

    assert (prefetch.report.reason, prefetch.report.bytes_read) == ("done", 2 * PIECE)
