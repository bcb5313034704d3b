"""How much of a file is in memory, asked of the real kernel, and how much memory is left, on every layout of groups."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.runtime.residency import PAGE, SAMPLES, available_memory, open_to_sample, residency, spread

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534
MEMINFO = "MemTotal:       24684092 kB\nMemFree:        1000 kB\nMemAvailable:   {} kB\n"
STAT = "anon 5000\nfile 900\ninactive_file 300\nactive_file 500\nslab_reclaimable 100\n"
STAT_V1 = "cache 7\ninactive_file 1\nactive_file 2\ntotal_inactive_file 300\ntotal_active_file 500\n"
UNLIMITED_V1 = "9223372036854771712\n"


def dropped(path: Path, size: int) -> Path:
    """A file of which nothing is in memory. Not of holes: those are read without a disk, so they count as there."""
    with path.open("wb") as file:
        file.writelines(bytes(min(1 << 20, size - begin)) for begin in range(0, size, 1 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if residency(path) is None:
        pytest.skip(f"the filesystem of {path.parent} has no RWF_NOWAIT")
    return path


def now_and_then(attempt: Callable[[], bool]) -> bool:
    """Whether it succeeds at all: a busy kernel takes cached pages back at any moment, or keeps dropped ones."""
    return any(attempt() for _ in range(20))


def test_a_file_just_written_is_in_memory(tmp_path: Path) -> None:
    """What was written a moment ago need not be read."""
    path = dropped(tmp_path / "m.gguf", 0)

    def is_there() -> bool:
        path.write_bytes(bytes(3 << 20))
        return residency(path) == 1.0

    assert now_and_then(is_there)


def test_asking_does_not_change_the_answer(tmp_path: Path) -> None:
    """A question brings in the pages it asks for; the next one asks for others."""

    def stays_low() -> bool:
        path = dropped(tmp_path / "m.gguf", 64 << 20)
        answers = [residency(path) for _ in range(5)]
        return all(answer is not None and answer < 0.1 for answer in answers)

    assert now_and_then(stays_low)


def test_a_share_is_told(tmp_path: Path) -> None:
    """One half in memory is a half."""
    path = dropped(tmp_path / "m.gguf", 64 << 20)

    def is_half() -> bool:
        fd = open_to_sample(path)
        os.preadv(fd, [bytearray(32 << 20)], 0)
        os.close(fd)
        return residency(path) == pytest.approx(0.5, abs=2 / SAMPLES)

    assert now_and_then(is_half)


def test_small_files_are_asked_about_page_by_page(tmp_path: Path) -> None:
    """A file of less than a page, and one of none, are there or not."""
    small = dropped(tmp_path / "small", 100)
    empty = dropped(tmp_path / "empty", 0)

    def is_there() -> bool:
        small.write_bytes(b"x")
        return residency(small) == 1.0

    assert now_and_then(is_there)
    assert residency(empty) == 1.0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_the_files_of_others_are_told_truly(tmp_path: Path) -> None:
    """A service user that only may read the models gets the same answer, where mincore would say `all of it`."""

    def is_low() -> bool:
        path = dropped(tmp_path / "m.gguf", 16 << 20)
        path.chmod(0o644)
        with path.open("rb") as file:
            os.seteuid(NOBODY)
            try:
                answer = residency(Path(f"/proc/self/fd/{file.fileno()}"))
            finally:
                os.seteuid(0)
        return answer is not None and answer < 0.1

    assert now_and_then(is_low)


def test_where_nobody_can_tell_there_is_no_answer(tmp_path: Path) -> None:
    """Missing, not a file, or a pipe that nobody writes to: no error, and no waiting."""
    os.mkfifo(tmp_path / "pipe")

    assert residency(tmp_path / "missing") is None
    assert residency(tmp_path) is None
    assert residency(tmp_path / "pipe") is None


def test_a_filesystem_that_cannot_tell_gives_no_answer() -> None:
    """tmpfs refuses RWF_NOWAIT; a guess would be worse than none."""
    shm = Path("/dev/shm")
    if f" {shm} tmpfs " not in Path("/proc/mounts").read_text() or not os.access(shm, os.W_OK):
        pytest.skip("no tmpfs to write to")
    path = shm / f"residency-{os.getpid()}"
    path.write_bytes(bytes(100))
    try:
        assert residency(path) is None
    finally:
        path.unlink()


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 30), st.integers(0, 200), st.randoms(use_true_random=False))
def test_samples_are_spread(first: int, length: int, count: int, chance: object) -> None:
    """One of each stretch: in order, never twice, never outside, and all of them when there are few."""
    pages = spread(first, first + length, count, draw=chance.randrange)  # type: ignore[attr-defined]

    assert len(pages) == min(length, count)
    assert pages == sorted(set(pages))
    assert all(first <= page < first + length for page in pages)
    widest = -(-length // max(1, len(pages)))
    assert all(after - before < 2 * widest for before, after in pairwise(pages))


def machine(root: Path, files: dict[str, str]) -> Path:
    """A root directory with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1000 * 1024),
        ({"proc/self/cgroup": "0::/gone\n"}, 1000 * 1024),
        ({"proc/self/cgroup": "0::/a\n", "a/memory.max": "max\n", "a/memory.current": "500\n"}, 1000 * 1024),
        ({"proc/self/cgroup": "0::/a\n", "a/memory.max": "6000\n", "a/memory.current": "5900\n"}, 100),
        ({"proc/self/cgroup": "0::/a\n", "a/memory.max": "5000\n", "a/memory.current": "5900\n"}, 0),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "a/memory.max": "9000\n",
                "a/memory.high": "8000\n",
                "a/memory.current": "6000\n",
                "a/memory.stat": STAT,
            },
            2000 + 900,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "a/memory.max": "8000\n",
                "a/memory.current": "7000\n",
                "a/b/memory.max": "max\n",
                "a/b/memory.current": "10\n",
            },
            1000,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,memory:/a\n1:name=systemd:/x\n0::/\n",
                "memory/a/memory.limit_in_bytes": "9000\n",
                "memory/a/memory.usage_in_bytes": "6000\n",
                "memory/a/memory.stat": STAT_V1,
                "memory/memory.limit_in_bytes": UNLIMITED_V1,
                "memory/memory.usage_in_bytes": "7\n",
            },
            3000 + 800,
        ),
        (
            {  # a container sees its own group as the root of the mount
                "proc/self/cgroup": "4:memory:/docker/abc\n",
                "memory/memory.limit_in_bytes": "900\n",
                "memory/memory.usage_in_bytes": "100\n",
            },
            800,
        ),
    ],
    ids=["none", "gone", "no-limit", "limit", "over", "high", "outer", "v1", "container"],
)
def test_the_least_of_machine_and_groups_is_available(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """A limit of any group around us counts, less what cannot be reclaimed."""
    files = {name if name.startswith("proc") else f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    root = machine(tmp_path, {"proc/meminfo": MEMINFO.format(1000), **files})

    assert available_memory(root) == expected


def test_unknown_memory_is_unknown(tmp_path: Path) -> None:
    """Without /proc there is no number; on this machine there is one."""
    here = available_memory()

    assert available_memory(tmp_path) is None
    assert here is not None
    assert here > PAGE
