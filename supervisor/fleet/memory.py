"""How much memory there is and how much a model takes, per device. Values and their arithmetic, nothing else.

A device is the machine's own memory (`host`) or a GPU with memory of its own, by the name llama-server has for it. All
amounts are bytes. A file that several runs map is in memory once, however many run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DeviceId: TypeAlias = str
"""`host`, or what llama-server calls a GPU: `CUDA0`, `Vulkan1`, `ROCm0`, `MTL0`."""

HOST: DeviceId = "host"


class Source(Enum):
    """How far a number can be trusted."""

    ESTIMATE = "estimate"
    """Worked out from the file's header, before a first load."""
    MEASURED = "measured"
    """Read off a process that served, now or before the service was restarted."""


@dataclass(frozen=True, slots=True)
class Device:
    """A memory that models can be put into."""

    id: DeviceId
    name: str
    """What its maker calls it."""
    total: int
    """Of the host, what the control group allows if that is less."""
    uuid: str | None = None
    """NVML's, `GPU-…`: names shift with the order of devices and with visible-devices variables, this does not."""
    pci: str | None = None
    """The bus address in sysfs' spelling, `0000:01:00.0`."""
    unified: bool = False
    """Whether it has no memory of its own; what it holds counts as the host's."""

    @property
    def identity(self) -> str:
        """What stays the same when its name does not."""
        return self.uuid or self.pci or self.id

    @property
    def memory(self) -> DeviceId:
        """Whose memory is taken by what is put there."""
        return HOST if self.unified else self.id


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine says of its memory at one moment."""

    devices: tuple[Device, ...] = ()
    free: Mapping[DeviceId, int] = field(default_factory=dict)
    """What can be taken right now; of the host, pages of files count as free even where a run maps them."""


class Part(NamedTuple):
    """One of the numbers that make up a footprint, and where it comes from."""

    label: str
    """In words: `weights`, `KV cache (8192 tokens)`, `anonymous memory`."""
    device: DeviceId
    bytes: int
    file: str = ""
    """The mapped file that it is, which other runs may hold too; empty: it is the run's alone."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a run of a model takes of every device."""

    amounts: Mapping[DeviceId, int] = field(default_factory=dict)
    """What is the run's alone."""
    shared: Mapping[str, int] = field(default_factory=dict)
    """What it maps of files, by the file; on the host, and once between all runs that map the same file."""
    source: Source = Source.ESTIMATE
    parts: tuple[Part, ...] = field(default=(), compare=False)
    """Where the numbers come from."""

    @classmethod
    def of(cls, parts: Iterable[Part], source: Source) -> Footprint:
        """The sum of these."""
        parts = tuple(parts)
        amounts: dict[DeviceId, int] = {}
        shared: dict[str, int] = {}
        for part in parts:
            book, key = (shared, part.file) if part.file else (amounts, part.device)
            book[key] = book.get(key, 0) + part.bytes
        return cls(amounts, shared, source, parts)

    def total(self) -> dict[DeviceId, int]:
        """What it takes of every device if nobody else maps its files."""
        return _with_files(self.amounts, self.shared)

    def beside(self, others: Iterable[Footprint]) -> dict[DeviceId, int]:
        """What it takes of every device in addition to these; of a file they map too, only what they do not."""
        mapped = _mapped(others)
        return _with_files(
            self.amounts, {file: max(0, size - mapped.get(file, 0)) for file, size in self.shared.items()}
        )

    @property
    def is_measured(self) -> bool:
        return self.source is Source.MEASURED

    def __repr__(self) -> str:
        amounts = ", ".join(f"{device} {amount / 2**20:.0f} MiB" for device, amount in self.total().items())
        return f"<Footprint {self.source.value} [{amounts or 'nothing'}]>"


@dataclass(frozen=True, slots=True)
class Measured:
    """An event: what a run of this model takes has become known, or is another than it was."""

    model: str
    footprint: Footprint


def sum_of(footprints: Iterable[Footprint]) -> dict[DeviceId, int]:
    """What they take together; a file that several map counts once, as large as the one that maps most of it."""
    footprints = tuple(footprints)
    amounts: dict[DeviceId, int] = {}
    for footprint in footprints:
        for device, amount in footprint.amounts.items():
            amounts[device] = amounts.get(device, 0) + amount
    return _with_files(amounts, _mapped(footprints))


def peak(one: Footprint, other: Footprint) -> Footprint:
    """The larger of two on every device; sources and parts are those of the first."""
    return Footprint(_larger(one.amounts, other.amounts), _larger(one.shared, other.shared), one.source, one.parts)


def budgets(
    devices: Iterable[Device], *, reserve: int = 0, asked: Mapping[DeviceId, int] | None = None
) -> dict[DeviceId, int]:
    """How much of each device all runs together may take: what was asked for, else all but the reserve.

    Devices without memory of their own have no budget, for they take the host's.
    """
    asked = asked or {}
    own = {device.id: device.total for device in devices if not device.unified}
    return {name: min(asked.get(name, max(0, total - reserve)), total) for name, total in own.items()}


def _larger(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in (*one, *(set(other) - set(one)))}


def _mapped(footprints: Iterable[Footprint]) -> dict[str, int]:
    found: dict[str, int] = {}
    for footprint in footprints:
        found = _larger(found, footprint.shared)
    return found


def _with_files(amounts: Mapping[DeviceId, int], shared: Mapping[str, int]) -> dict[DeviceId, int]:
    files = sum(shared.values())
    return {**amounts, HOST: amounts.get(HOST, 0) + files} if files or HOST in amounts else dict(amounts)
