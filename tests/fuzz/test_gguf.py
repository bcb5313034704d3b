"""GGUF files of any content: a header, or an error that says what is wrong; in little time and memory."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from supervisor.llama.gguf import GgufError, Header, read_header, size_on_disk, split_paths
from tests.fuzz.mutation import example, numbers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fuzz.mutation import Random

HEADER = 64 * 1024
MOST_MEMORY = 64 * 1024**2
SIZES = (0, 1, 2, 3, 4, 7, 8, 12, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**56, 2**63 - 1, 2**63, 2**64 - 1)


def broken(random: Random, data: bytes) -> bytes:
    """A few numbers changed where numbers may be, and bytes anywhere."""
    for _ in range(random.randint(0, 4)):
        at = random.randrange(min(len(data), 4000)) if random.chance(0.7) else random.randrange(len(data))
        form = random.choice(("<I", "<Q"))
        number = struct.pack(form, random.choice(SIZES) % (2 ** (8 * struct.calcsize(form))))
        data = data[:at] + number + data[at + len(number) :]
        if len(data) < 40:
            break
    return random.mutated(data, 2)


def read(path: Path) -> Header | GgufError:
    try:
        return read_header(path)
    except GgufError as error:
        return error


@pytest.mark.parametrize("name", ["tiny-a", "tiny-mmproj", "tiny-split-00001-of-00002", "broken-missing-tensor"])
def test_any_gguf(tiny: Path, tmp_path: Path, name: str) -> None:
    """A file whose header lies is refused or understood; it cannot make us read, wait or allocate without end."""
    whole = (tiny / f"{name}.gguf").read_bytes()
    path = tmp_path / f"{name}.gguf"
    understood = 0
    tracemalloc.start()
    try:
        for number in numbers(150):
            with example(f"gguf/{name}", number) as random:
                path.write_bytes(broken(random, whole[:HEADER]))
                header = read(path)
                if isinstance(header, GgufError):
                    assert str(header).isprintable()
                    continue
                understood += 1
                assert len(split_paths(path, header)) <= 1024
                assert size_on_disk(path, header) >= 0
                assert header.expected_bytes >= 0
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()

    assert understood > 5
