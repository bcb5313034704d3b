"""What a process holds of the host's memory, as the kernel counts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from supervisor.runtime.process_memory import ProcessMemory, memory_of

KIB = 1024
MAPPING = """\
7f00-7f01 r--p 00000000 fe:01 {inode} {path}
Size: 9 kB
Rss: {rss} kB
Anonymous: {anon} kB
Swap: {swap} kB
"""


def mapping(path: str = "", *, inode: int = 0, rss: int = 0, anon: int = 0, swap: int = 0) -> str:
    return MAPPING.format(inode=inode, path=path, rss=rss, anon=anon, swap=swap)


def write(root: Path, pid: int, *mappings: str) -> None:
    (root / f"proc/{pid}").mkdir(parents=True)
    (root / f"proc/{pid}/smaps").write_text("".join(mappings))


def test_own_memory_and_mapped_files(tmp_path: Path) -> None:
    """Anonymous and swapped memory, and what is shared without a file, is its own; pages of files are the files'."""
    write(
        tmp_path,
        1,
        mapping("[heap]", rss=100, anon=90, swap=5),
        mapping(rss=20, anon=20),
        mapping("/m/a model.gguf", inode=7, rss=300),
        mapping("/m/a model.gguf", inode=7, rss=50, anon=8),
        mapping("/memfd:pool (deleted)", inode=9, rss=40),
        mapping("/dev/nvidia0", inode=10, rss=3),
    )

    found = memory_of([1], root=tmp_path)

    assert found == ProcessMemory((100 + 5 + 20 + 8 + 40 + 3) * KIB, {"/m/a model.gguf": 342 * KIB})
    assert found.total == 518 * KIB


def test_several_processes_map_a_file_once(tmp_path: Path) -> None:
    """A wrapper and its server add up, but for the pages they share."""
    write(tmp_path, 1, mapping(rss=10, anon=10), mapping("/m.gguf", inode=7, rss=30))
    write(tmp_path, 2, mapping(rss=10, anon=10), mapping("/m.gguf", inode=7, rss=50))

    assert memory_of([1, 2, 3], root=tmp_path) == ProcessMemory(20 * KIB, {"/m.gguf": 50 * KIB})


def test_nobody_knows_of_a_process_that_is_gone(tmp_path: Path) -> None:
    """No numbers are better than zeros."""
    assert memory_of([1], root=tmp_path) is None
    assert memory_of([], root=tmp_path) is None


def test_the_kernel_agrees(tmp_path: Path) -> None:
    """For a real process that holds and maps a known amount, the sum is the kernel's own within a page or two."""
    path = tmp_path / "mapped"
    path.write_bytes(os.urandom(8 << 20))
    hold = (
        "import mmap, sys; held = bytearray(b'x' * (16 << 20)); file = open(sys.argv[1], 'rb');"
        "mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); sum(mapped[::4096]); print('ready', flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = memory_of([process.pid])
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        process.communicate()

    resident = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Rss:")) * KIB
    assert found is not None
    assert abs(found.total - resident) <= 64 * KIB
    assert found.files[str(path)] == 8 << 20
    assert found.own >= 16 << 20
