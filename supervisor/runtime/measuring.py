"""What a child holds of every device right now, and whose word that is. Blocks; call it in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.fleet.memory import HOST, Footprint, Part, Source
from supervisor.llama.estimate import DRIVER
from supervisor.runtime.process_memory import memory_of
from supervisor.runtime.vitals import family_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.fleet.memory import Device, DeviceId
    from supervisor.llama.devices import Hearsay
    from supervisor.runtime.process_memory import ProcessMemory
    from supervisor.runtime.readings import Readings

SHARED_FROM = 2**20
"""Bytes; of smaller mapped files (libraries, locales) nobody keeps apart whose they are."""


def measure(
    pid: int, heard: Hearsay, devices: Mapping[str, Device], *, readings: Readings, is_wrapped: bool = False
) -> Footprint | None:
    """Of a process, or of its whole family where it may be a mere wrapper; None when nobody can look at it.

    `devices` are by the child's own names for them, as is what was `heard` of it.
    """
    pids = family_of(pid) if is_wrapped else (pid,)
    memory = memory_of(pids)
    if memory is None:
        return None
    counted = readings.used_by(pids)
    gpus = (Part("counted by the driver", device, size) for device, size in counted.items())
    told = (part for part in _told(heard, devices, readings) if part.device not in counted)
    return Footprint.of((*_host(memory), *gpus, *told), Source.MEASURED)


def _host(memory: ProcessMemory) -> Iterator[Part]:
    small = sum(size for size in memory.files.values() if size < SHARED_FROM)
    yield Part("memory of its own", HOST, memory.own)
    yield Part("small mapped files", HOST, small)
    for path, size in sorted(memory.files.items()):
        if size >= SHARED_FROM:
            yield Part("mapped", HOST, size, path)


def _told(heard: Hearsay, devices: Mapping[str, Device], readings: Readings) -> Iterator[Part]:
    """The buffers the child told of, and what its driver takes besides, which nobody tells."""
    seen: set[str] = set()
    for label, name, size in heard.on_devices():
        device = (readings.at(heard.pci[name]) if name in heard.pci else None) or devices.get(name)
        place: DeviceId = device.memory if device else name
        yield Part(f"{label} (told by the child)", place, size)
        if name not in seen and (device is None or not device.unified):
            seen.add(name)
            driver = next((of_device for kind, (of_device, _) in DRIVER.items() if name.startswith(kind)), 0)
            yield Part("driver (a guess)", place, driver)
