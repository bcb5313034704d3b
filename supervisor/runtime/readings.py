"""What the machine says of its memory right now: the host's, and that of each GPU a llama-server can use.

A GPU has many names: what one binary under one environment calls `CUDA0` another calls `CUDA1` or `Vulkan0`. Here it
has one, the first it was heard by, and is known by UUID or bus address.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from supervisor.fleet.memory import HOST, Device, Reading
from supervisor.llama.devices import identified
from supervisor.runtime.drm import Drm
from supervisor.runtime.nvml import open_nvml
from supervisor.runtime.residency import available_memory, total_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from supervisor.fleet.memory import DeviceId
    from supervisor.llama.devices import Gpu, Listed

logger = logging.getLogger("supervisor.readings")


class Readings(Protocol):
    """A machine's memory. Blocks for some milliseconds; may be called from threads."""

    def read(self) -> Reading:
        """All devices that are known, and what is free of those that can tell."""

    def used_by(self, pids: Collection[int]) -> Mapping[DeviceId, int]:
        """What these processes hold of GPUs, as far as their drivers tell."""

    def named(self, listed: Sequence[Listed], env: Mapping[str, str]) -> Mapping[str, Device]:
        """The devices a binary lists under this environment, by its names for them; new ones are known from now on."""

    def at(self, pci: str) -> Device | None:
        """The device at a bus address."""


class GpuSource(Protocol):
    """A driver that can be asked; sizes are by bus address."""

    gpus: tuple[Gpu, ...]

    def free(self) -> dict[str, int]: ...
    def used_by(self, pids: Collection[int]) -> dict[str, int]: ...


class Machine:
    """This machine. Drivers are opened by the first question that needs them."""

    def __init__(self, *, sources: Callable[[], Sequence[GpuSource]] | None = None, root: Path = Path("/")) -> None:
        self._root = root
        self._open = sources or (lambda: _drivers(root))
        self._sources: tuple[GpuSource, ...] | None = None
        self._devices: dict[str, Device] = {}
        """By identity."""
        self._lock = threading.Lock()

    def read(self) -> Reading:
        with self._lock:
            return self._read()

    def _read(self) -> Reading:
        free = {HOST: available} if (available := available_memory(self._root)) is not None else {}
        by_address = {device.pci: device.id for device in self._devices.values() if device.pci and not device.unified}
        if by_address:
            for source in self._gpu_sources():
                free.update((by_address[pci], size) for pci, size in source.free().items() if pci in by_address)
        return Reading((*self._host(), *self._devices.values()), free)

    def used_by(self, pids: Collection[int]) -> dict[DeviceId, int]:
        found: dict[DeviceId, int] = {}
        with self._lock:
            for source in self._gpu_sources() if self._devices else ():
                for pci, size in source.used_by(pids).items():
                    device = self.at(pci)
                    if device is not None:
                        found[device.memory] = found.get(device.memory, 0) + size
        return found

    def named(self, listed: Sequence[Listed], env: Mapping[str, str]) -> dict[str, Device]:
        if not listed:
            return {}
        with self._lock:
            gpus = sorted((gpu for source in self._gpu_sources() for gpu in source.gpus), key=lambda gpu: gpu.pci or "")
            known = identified(listed, gpus, env)
            return {each.name: self._known(each, known.get(each.name)) for each in listed}

    def at(self, pci: str) -> Device | None:
        return next((device for device in tuple(self._devices.values()) if device.pci == pci), None)

    def _known(self, listed: Listed, gpu: Gpu | None) -> Device:
        uuid, pci = (gpu.uuid, gpu.pci) if gpu else (None, None)
        identity = uuid or pci or f"{listed.name} {listed.description} {listed.total}"
        if identity not in self._devices:
            taken = {device.id for device in self._devices.values()}
            name = listed.name if listed.name not in taken else f"{listed.name}@{pci or len(taken)}"
            total = (gpu and gpu.total) or listed.total or 0
            device = Device(name, listed.description, total, uuid, pci, listed.is_unified)
            self._devices[identity] = device
            logger.info("%s is %s (%s), %.1f GiB", name, device.name, device.identity, total / 2**30)
        return self._devices[identity]

    def _host(self) -> Iterator[Device]:
        total = total_memory(self._root)
        if total is not None:
            yield Device(HOST, "the machine's memory", total)

    def _gpu_sources(self) -> tuple[GpuSource, ...]:
        if self._sources is None:
            self._sources = tuple(self._open())
        return self._sources


def _drivers(root: Path) -> list[GpuSource]:
    nvml = open_nvml()
    return [*([nvml] if nvml else []), Drm(root)]
