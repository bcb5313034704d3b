"""A cautious way through a GGUF file: forward only, in small reads, never past a bound; and the error that ends it.

Knows numbers, texts and how to skip them, nothing of what they mean.
"""

from __future__ import annotations

import os
from enum import StrEnum
from struct import Struct
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

MAX_HEADER_BYTES = 256 * 1024 * 1024
MAX_TEXT_BYTES = 64 * 1024
MAX_STRINGS = 4 * 1024 * 1024
"""Array items that must be walked one by one, in the whole file; large vocabularies with merges have 700,000."""
READ_BYTES = 256 * 1024

U32 = Struct("<I")
U64 = Struct("<Q")


class Reason(StrEnum):
    """Why a file's header could not be read."""

    NOT_A_FILE = "not_a_file"
    EMPTY = "empty"
    MARKUP = "markup"
    LFS_POINTER = "lfs_pointer"
    NOT_GGUF = "not_gguf"
    VERSION = "version"
    BIG_ENDIAN = "big_endian"
    TRUNCATED = "truncated"
    IMPLAUSIBLE = "implausible"


HINTS = {
    Reason.NOT_A_FILE: "name the model file itself",
    Reason.EMPTY: "download it again",
    Reason.MARKUP: "an error or login page was saved in the model's place; download the file itself",
    Reason.LFS_POINTER: "run `git lfs pull` where the file comes from",
    Reason.NOT_GGUF: "llama-server needs the model in GGUF format",
    Reason.VERSION: "convert the model again, or update llama.cpp",
    Reason.BIG_ENDIAN: "convert the model on, or for, a little-endian machine",
    Reason.TRUNCATED: "the download is incomplete; download it again",
    Reason.IMPLAUSIBLE: "the file is damaged; download it again",
}


class GgufError(ValueError):
    """Raised when a file is no readable GGUF file; `reason` tells what it is instead."""

    def __init__(self, path: Path, reason: Reason, *, expected: str, found: str) -> None:
        self.path = path
        self.reason = reason
        self.expected = expected
        self.found = found
        self.hint = HINTS[reason]
        super().__init__(f"{path}: expected {expected}, found {found}")


class Cursor:
    """A place in the file that only moves forward: reads by the block, and seeks over what nobody asks for."""

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._block = b""
        self._at = 0
        self._block_begins = 0
        self._strings_left = MAX_STRINGS
        self.file_bytes = os.fstat(file.fileno()).st_size

    @property
    def position(self) -> int:
        return self._block_begins + self._at

    def peek(self, count: int) -> bytes:
        self._fill(count)
        return self._block[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        taken = self.peek(count)
        if len(taken) < count:
            self.truncated()
        self._at += count
        return taken

    def number(self, layout: Struct) -> int:
        # Floats come out of here too; only `_read_value` asks for them, and knows.
        value: int = layout.unpack(self.take(layout.size))[0]
        return value

    def text(self) -> str:
        length = self.at_most(MAX_TEXT_BYTES, self.number(U64), "bytes of text")
        return self.take(length).decode(errors="replace")

    def skip(self, count: int) -> None:
        self._move_to(self.position + count)

    def skip_strings(self, count: int) -> None:
        # The hot loop: a vocabulary has hundreds of thousands of strings, and only their lengths say where the next is.
        self.at_most(self._strings_left, count, "strings in arrays")
        self._strings_left -= count
        unpack = U64.unpack_from
        while count:
            if len(self.peek(U64.size)) < U64.size:
                self.truncated()
            block, at, last = self._block, self._at, len(self._block) - U64.size
            while count and at <= last:
                at += U64.size + unpack(block, at)[0]
                count -= 1
            self._move_to(self._block_begins + at)

    def at_most(self, limit: int, count: int, what: str) -> int:
        if count > limit:
            self.implausible(f"at most `{limit}` {what}", f"`{count}`")
        return count

    def truncated(self) -> NoReturn:
        self.fail(Reason.TRUNCATED, "the header to go on", f"the end of the file after `{self.file_bytes}` bytes")

    def implausible(self, expected: str, found: str) -> NoReturn:
        self.fail(Reason.IMPLAUSIBLE, expected, found)

    def fail(self, reason: Reason, expected: str, found: str) -> NoReturn:
        raise GgufError(self._path, reason, expected=expected, found=found)

    def _move_to(self, position: int) -> None:
        self.at_most(MAX_HEADER_BYTES, position, "bytes of header")
        if position > self.file_bytes:
            self.truncated()
        self._at = position - self._block_begins
        if self._at > len(self._block):
            self._file.seek(position)
            self._block, self._at, self._block_begins = b"", 0, position

    def _fill(self, count: int) -> None:
        """Have `count` bytes ready, or all that are left."""
        if len(self._block) - self._at >= count:
            return
        self.at_most(MAX_HEADER_BYTES, self.position + count, "bytes of header")
        self._block_begins = self.position
        self._block = self._block[self._at :]
        self._at = 0
        while len(self._block) < count and (more := self._file.read(READ_BYTES)):
            self._block += more
