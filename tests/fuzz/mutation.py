"""Seeded examples for the fuzzers: a number names each, and the same number makes it again.

By default each test runs the same few hundred. `LLAMA_SUPERVISE_FUZZ_SECONDS=600` makes each go on with others for that
long, `LLAMA_SUPERVISE_FUZZ_SEED` moves all of them elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECONDS = float(os.environ.get("LLAMA_SUPERVISE_FUZZ_SECONDS", "0"))
SEED = os.environ.get("LLAMA_SUPERVISE_FUZZ_SEED", "0")
SLOWEST = 20.0
"""Seconds that no single example may take, on a busy machine."""

ODD = (
    b"", b"\0", b"\n", b"\r\n", b"\r", b"\r\n\r\n", b"\t", b" ", b"\xff", b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"\x1b[2J", b"%", b"%00", b"%0d%0a", b"%2e%2e%2f", b"%zz", b"..", b"/", b"//", b"\\", b"'", b'"',
    b"`", b"$", b"${", b"${env:X}", b"${env.X}", b"{", b"}", b"[", b"]", b"[" * 2000, b'{"a":' * 2000, b"&", b"*",
    b"?", b"#", b";", b":", b",", b"=", b"-", b"--", b"0", b"-1", b"1e999", b"NaN", b"Infinity", b"9" * 30,
    b"9" * 5000, b"0x", b"1_0", b"true", b"null", b"\xe2\x80\xae", b"\xf0\x9f\xa6\x99", b"\xc2\x85", b"\xe2\x80\xa8",
    b"model", b"A" * 300, b"A" * 70_000, b"<<", b"!!python/object:os.system", b"&a", b"*a", b"1979-05-27",
)  # fmt: skip


class Random(random.Random):
    """Choices of one example."""

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def mutated(self, data: bytes, most: int = 4, odd: Sequence[bytes] = ODD) -> bytes:
        """The same with a few changes; without any now and then."""
        for _ in range(self.randint(0, most)):
            at = self.randint(0, len(data))
            end = min(len(data), at + self.choice((0, 1, 1, 2, 5, 20, 200)))
            match self.randrange(6):
                case 0:
                    data = data[:at] + data[end:]
                case 1:
                    data = data[:at] + data[at:end] * 2 + data[end:]
                case 2:
                    data = data[:at] + self.choice(odd) + data[at:]
                case 3:
                    data = data[:at] + self.choice(odd) + data[end:]
                case 4 if data:
                    byte = self.randrange(len(data))
                    data = data[:byte] + bytes([data[byte] ^ (1 << self.randrange(8))]) + data[byte + 1 :]
                case _:
                    data = data[: self.randint(0, len(data))] if self.chance(0.2) else data
        return data

    def cut(self, data: bytes, most: int = 4) -> list[bytes]:
        """The same in pieces."""
        marks = sorted(self.randint(0, len(data)) for _ in range(self.randint(0, most)))
        return [data[begin:end] for begin, end in zip([0, *marks], [*marks, len(data)], strict=True) if begin < end]


@contextlib.contextmanager
def example(surface: str, number: int) -> Iterator[Random]:
    """One example; what goes wrong names it, and one that takes too long has gone wrong."""
    began = time.monotonic()
    name = f"example {number} of {surface}, seed {SEED}"
    try:
        yield Random(f"{surface}/{SEED}/{number}")
    except BaseException as exc:
        exc.add_note(name)
        raise
    took = time.monotonic() - began
    assert took < SLOWEST, f"{name} took {took:.1f} s"


def numbers(usual: int) -> Iterator[int]:
    """The numbers of the examples of one run."""
    number, until = 0, time.monotonic() + SECONDS
    while number < usual or time.monotonic() < until:
        yield number
        number += 1
