"""What the first bytes of an ELF file promise: for which machine it is, which loader it needs, how long it must be.

Read by hand and bounded, for the file may be a broken download or made on purpose.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing import BinaryIO

MAGIC = b"\x7fELF"

_PT_LOAD, _PT_INTERP = 1, 3
_MAX_HEADERS = 64 * 1024  # the kernel refuses a larger program header table
_MAX_LOADER_PATH = 4096

_MACHINES = {
    3: "x86",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86-64",
    183: "arm64",
    243: "riscv",
    258: "loongarch",
}

# `x86` and `arm` run under a 64-bit kernel too; a machine that is not listed is not judged.
_RUNS = {
    "x86_64": {"x86-64", "x86"},
    "i386": {"x86"},
    "i686": {"x86"},
    "aarch64": {"arm64", "arm"},
    "arm64": {"arm64"},
    "armv6l": {"arm"},
    "armv7l": {"arm"},
    "armv8l": {"arm", "arm64"},
    "riscv64": {"riscv"},
    "ppc64le": {"ppc64"},
    "s390x": {"s390x"},
    "loongarch64": {"loongarch"},
}


class DamagedElf(ValueError):
    """Raised when a file begins like ELF but ends early or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Elf:
    """The facts in the header of one file."""

    machine: str
    byte_order: Literal["little", "big"]
    loader: str | None
    """The path of the program that loads this one; None for a static binary."""
    length: int
    """How many bytes the loadable segments need the file to have."""

    def runs_on(self, machine: str, *, byte_order: str) -> bool:
        """Whether a machine with this `uname -m` can run it; unknown ones are believed."""
        runs = _RUNS.get(machine)
        return runs is None or (self.machine in runs and self.byte_order == byte_order)


def read_elf(file: BinaryIO) -> Elf:
    """Read the headers of an open file, which must begin with the magic bytes."""
    ident = _exactly(file, 0, 16)
    wide, order = _layout(ident)
    if wide:
        header = struct.Struct(f"{order}HHIQQQIHHH")
        segment = struct.Struct(f"{order}IIQQQQQQ")
    else:
        header = struct.Struct(f"{order}HHIIIIIHHH")
        segment = struct.Struct(f"{order}IIIIIIII")
    _, machine, _, _, table, _, _, _, entry, count = header.unpack(_exactly(file, 16, header.size))
    if count and entry != segment.size:
        raise DamagedElf(f"program headers of {entry} bytes")
    length, loader = 0, None
    for fields in segment.iter_unpack(_exactly(file, table, count * entry, limit=_MAX_HEADERS)):
        kind = fields[0]
        offset, size = (fields[2], fields[5]) if wide else (fields[1], fields[4])
        if kind in (_PT_LOAD, _PT_INTERP):
            length = max(length, offset + size)
        if kind == _PT_INTERP:
            loader = _loader(file, offset, size)
    return Elf(
        machine=_MACHINES.get(machine, f"machine number {machine}"),
        byte_order="little" if order == "<" else "big",
        loader=loader,
        length=length,
    )


def _layout(ident: bytes) -> tuple[bool, str]:
    if ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise DamagedElf("neither 32 nor 64 bits, or no byte order")
    return ident[4] == 2, "<" if ident[5] == 1 else ">"


def _loader(file: BinaryIO, offset: int, size: int) -> str:
    path = _exactly(file, offset, size, limit=_MAX_LOADER_PATH).partition(b"\0")[0]
    if not path.startswith(b"/"):
        raise DamagedElf("the loader's path is not absolute")
    return path.decode(errors="surrogateescape")


def _exactly(file: BinaryIO, offset: int, size: int, *, limit: int = 64) -> bytes:
    if size > limit or offset >= 2**63:
        raise DamagedElf(f"{size} bytes promised at offset {offset}")
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise DamagedElf(f"{size} bytes expected at offset {offset}, found {len(data)}")
    return data
