"""What a llama-server says of devices: `--list-devices` before a start, and its own words while it loads. Pure.

Sources: llama.cpp's common/arg.cpp (`--list-devices`), llama.cpp (`using device`), llama-model.cpp, llama-context.cpp
and llama-kv-cache.cpp (`buffer size`), common/fit.cpp (the memory breakdown). Names are the child's own: what it calls
`CUDA0` is whatever its environment lets it see first.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MIB = 2**20

_LISTED = re.compile(r"^\s*([A-Za-z]+\d+): (.+?)(?: \((\d+) MiB(?:, (\d+) MiB free)?\))?$")
_UNIFIED = re.compile(r"^ggml_vulkan: (\d+) = .*\| uma: 1 \|")
_BUFFER = re.compile(r"(\S+) +([A-Za-z ]*?)buffer size += +([\d.]+) MiB")
_USED = re.compile(r"using device (\S+) \((.*)\) \(([0-9a-fA-F:.]{7,})\)")
_BREAKDOWN = re.compile(r"memory_breakdown_print: \|   - (\S+) \(.*\) +\| .*\((\d+) = +(\d+) \+ +(\d+) \+ +(\d+)\)")
_ON_HOST = ("CPU", "AMX", "BLAS")
_UNIFIED_NAMES = re.compile(r"\b(?:GB10|Orin|Thor|Tegra|Xavier|Apple)\b")
"""Chips whose GPU has no memory of its own."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `--list-devices`."""

    name: str
    """As its options take it: `CUDA0`."""
    description: str
    total: int | None
    free: int | None
    """When it was asked."""
    is_unified: bool = False


def listed(lines: Iterable[str]) -> tuple[Listed, ...]:
    """The devices in what `--list-devices` printed on both streams, in its order."""
    lines = tuple(lines)
    unified = {f"Vulkan{match[1]}" for line in lines if (match := _UNIFIED.match(line))}
    found = (match for line in lines if (match := _LISTED.match(line)))
    return tuple(
        Listed(
            match[1],
            match[2],
            int(match[3]) * MIB if match[3] else None,
            int(match[4]) * MIB if match[4] else None,
            match[1] in unified or match[1].startswith(("MTL", "Metal")) or bool(_UNIFIED_NAMES.search(match[2])),
        )
        for match in found
    )


@dataclass(slots=True)
class Hearsay:
    """What a child has said of its memory while it loaded, by its own names of devices."""

    buffers: dict[tuple[str, str], int] = field(default_factory=dict)
    """Bytes by what they are for and where they are."""
    pci: dict[str, str] = field(default_factory=dict)
    """The bus addresses of the devices it uses."""
    breakdown: dict[str, int] = field(default_factory=dict)
    """What fitting reckoned with on each device; not known to be so in the end."""

    def listen(self, line: str) -> None:
        """Take in a line of its log; costs next to nothing for those about other things."""
        if "buffer size" in line:
            self._buffer(line)
        elif "using device" in line and (match := _USED.search(line)):
            self.pci[match[1]] = full_address(match[3])
        elif "breakdown" in line:
            self._breakdown(line)

    def on_devices(self) -> Iterator[tuple[str, str, int]]:
        """Label, device and bytes of everything that is not in the host's memory."""
        told = {device for _, device in self.buffers}
        yield from ((label, device, size) for (label, device), size in self.buffers.items())
        yield from (("fitting's reckoning", name, size) for name, size in self.breakdown.items() if name not in told)

    def _buffer(self, line: str) -> None:
        match = _BUFFER.search(line)
        if match is None or match[1].startswith(_ON_HOST) or match[1].endswith("_Host"):
            return
        key = (_label(match[2].strip()), match[1].removesuffix("_Split"))
        self.buffers[key] = self.buffers.get(key, 0) + int(float(match[3]) * MIB)

    def _breakdown(self, line: str) -> None:
        if line.startswith("{"):
            self.breakdown.update(_rows(line))
        elif match := _BREAKDOWN.search(line):
            self.breakdown[match[1]] = int(match[2]) * MIB


def _label(kind: str) -> str:
    return {"model": "weights", "KV": "KV cache", "RS": "state", "compute": "compute buffer"}.get(
        kind, f"{kind} buffer"
    )


def _rows(line: str) -> Iterator[tuple[str, int]]:
    """The devices' rows of what `--log-jsonl` writes."""
    try:
        rows = json.loads(line)["data"]["rows"]
        found = [(row["name"], int(row["self"] * MIB)) for row in rows if row["kind"] == "device"]
    except (ValueError, LookupError, TypeError):
        return
    yield from found


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the machine knows it."""

    name: str
    total: int | None
    """None where it has no memory of its own to speak of."""
    uuid: str | None = None
    pci: str | None = None


def full_address(pci: str) -> str:
    """A bus address as sysfs spells it: NVML has eight digits in front, others none."""
    parts = pci.lower().split(":")
    domain = parts[-3] if len(parts) > 2 else "0"
    return f"{int(domain, 16):04x}:{parts[-2]}:{parts[-1]}"


def identified(devices: Iterable[Listed], gpus: Iterable[Gpu], env: Mapping[str, str]) -> dict[str, Gpu]:
    """Which GPU each listed device is, where that can be known.

    `gpus` are in the order of their bus addresses. CUDA's own order puts the fastest first, so positions count only
    among GPUs of one kind; those that CUDA_VISIBLE_DEVICES hides do not count. Sizes tell cards of one name apart.
    """
    gpus = tuple(gpus)
    shown = _shown(gpus, env)
    found: dict[str, Gpu] = {}
    for device in devices:
        candidates = [gpu for gpu in (gpus if shown is None else shown) if gpu not in found.values()]
        candidates = [gpu for gpu in candidates if _may_be(device, gpu)]
        are_alike = shown is not None and len({(gpu.name, gpu.total) for gpu in candidates}) == 1
        if are_alike or len(candidates) == 1:
            found[device.name] = candidates[0]
    return found


def _may_be(device: Listed, gpu: Gpu) -> bool:
    if _plain(gpu.name) not in _plain(device.description) and _plain(device.description) not in _plain(gpu.name):
        return False
    # The driver keeps some for itself, and drivers do not agree on how much.
    return not (device.total and gpu.total) or abs(device.total - gpu.total) <= gpu.total // 10


def _plain(name: str) -> str:
    return re.sub(r"\b(?:nvidia|amd|intel|geforce|graphics)\b|\(.*?\)|[^a-z0-9]", "", name.lower())


def _shown(gpus: tuple[Gpu, ...], env: Mapping[str, str]) -> list[Gpu] | None:
    """Those the environment shows to CUDA, in its order; None where it counts in one unknown to us."""
    asked = env.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return [*gpus]
    in_bus_order = env.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in gpus}) < 2
    found: list[Gpu] = []
    for word in (word.strip() for word in asked.split(",")):
        if word.isdecimal() and not in_bus_order:
            return None
        if word.isdecimal():
            found += gpus[int(word) : int(word) + 1]
        elif word.startswith("GPU-"):
            found += [gpu for gpu in gpus if gpu.uuid and gpu.uuid.startswith(word)][:1]
    return found
