"""Lines on their way to our own output."""

from __future__ import annotations

import io
import os
import re
import time

from supervisor.record.echo import Echo
from tests.conftest import eventually


class Kept(io.BytesIO):
    """A file whose content outlives it."""

    content = b""

    def flush(self) -> None:
        self.content = self.getvalue()


def test_lines_are_written() -> None:
    """All lines are written in order, the last ones before the end."""
    file = Kept()
    with Echo(file) as echo:
        for number in range(1000):
            echo.write(f"line {number} ✓")

    assert file.content.decode().splitlines() == [f"line {number} ✓" for number in range(1000)]


def test_a_full_pipe() -> None:
    """A pipe that nobody reads holds nobody up; once it is read again, it says how many bytes are missing."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source, os.fdopen(writer, "wb") as file, Echo(file, limit=1000) as echo:
        echo.write("x" * 900)
        eventually(lambda: not echo.waiting)
        began = time.monotonic()
        for _ in range(1000):
            echo.write("y" * 499)
        assert time.monotonic() - began < 5
        os.set_blocking(reader, False)

        def all_read() -> bool:
            seen.extend(source.read() or b"")
            return not echo.waiting

        seen = bytearray()
        eventually(all_read)
        echo.write("the end")
        eventually(lambda: all_read() and b"the end" in seen)

    told = re.findall(r"\n— (\d+) bytes dropped —\n", seen.decode())
    missing = 1000 - seen.count(b"y" * 499)
    assert missing > 0
    assert sum(map(int, told)) == 500 * missing


def test_a_stuck_pipe_does_not_hold_the_end_up() -> None:
    """The end does not wait for a reader that has stopped reading."""
    reader, writer = os.pipe()
    file = os.fdopen(writer, "wb", buffering=0)
    with Echo(file) as echo:
        echo.write("x" * 500_000)
        began = time.monotonic()

    assert 0.5 < time.monotonic() - began < 10
    os.close(reader)  # the thread's write ends with EPIPE
    eventually(lambda: not echo._thread.is_alive())
    file.close()


def test_nobody_left() -> None:
    """Lines for a reader that has gone are dropped quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as file, Echo(file) as echo:
        echo.write("one")
        eventually(lambda: not echo.is_read)
        echo.write("two")
