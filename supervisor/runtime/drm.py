"""What the kernel says of GPUs: AMD's in sysfs, and what a process holds of any GPU with a DRM driver.

Sources: Documentation/gpu/drm-usage-stats.rst and Documentation/gpu/amdgpu/driver-misc.rst of the kernel. What a
process allocates through ROCm's compute driver (KFD) does not show here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.llama.devices import Gpu

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_AMD = "0x1002"
_ADDRESS = "PCI_SLOT_NAME="
_RESIDENT = ("drm-resident-vram", "drm-memory-vram")
"""The second is the older name of the first; drivers may append the number of a region."""


class Drm:
    """AMD's GPUs of one machine, in the order of their bus addresses."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        found = sorted(
            (gpu.pci or "", gpu, path) for path in root.glob("sys/class/drm/card*/device") for gpu in _amd(path)
        )
        self.gpus: tuple[Gpu, ...] = tuple(gpu for _, gpu, _ in found)
        self._paths = {pci: path for pci, _, path in found}

    def free(self) -> dict[str, int]:
        """Bytes nobody uses, by bus address."""
        found = {}
        for pci, path in self._paths.items():
            total, used = _number(path / "mem_info_vram_total"), _number(path / "mem_info_vram_used")
            if total is not None and used is not None:
                found[pci] = max(0, total - used)
        return found

    def used_by(self, pids: Collection[int]) -> dict[str, int]:
        """Bytes these processes hold of a GPU's own memory, by bus address."""
        clients: dict[tuple[str, str], int] = {}
        for pid in pids:
            for path in self._root.glob(f"proc/{pid}/fdinfo/*"):
                fields = dict(_fields(path))
                if "drm-pdev" in fields:
                    clients[fields["drm-pdev"], fields.get("drm-client-id", path.name)] = _resident(fields)
        found: dict[str, int] = {}
        for (pci, _), size in clients.items():
            found[pci] = found.get(pci, 0) + size
        return {pci: size for pci, size in found.items() if size}


def _amd(path: Path) -> Iterator[Gpu]:
    total = _number(path / "mem_info_vram_total")
    lines = _lines(path / "uevent")
    pci = next((line.removeprefix(_ADDRESS) for line in lines if line.startswith(_ADDRESS)), None)
    if total is not None and pci is not None and _lines(path / "vendor") == [_AMD]:
        name = "".join(_lines(path / "product_name")[:1])
        yield Gpu(name, total, next(iter(_lines(path / "unique_id")), None), pci)


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    for line in _lines(path):
        name, _, value = line.partition(":")
        yield name, value.strip()


def _resident(fields: dict[str, str]) -> int:
    """Bytes of `drm-resident-vram0: 120 MiB` and the like, all regions of the first kind that is there."""
    for kind in _RESIDENT:
        sizes = [_bytes(value) for name, value in fields.items() if name.startswith(kind)]
        if sizes:
            return sum(sizes)
    return 0


def _bytes(text: str) -> int:
    count, _, unit = text.partition(" ")
    factor = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}.get(unit.strip(), 0)
    return int(count) * factor if count.isdecimal() else 0


def _number(path: Path) -> int | None:
    return next((int(line) for line in _lines(path) if line.isdecimal()), None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
