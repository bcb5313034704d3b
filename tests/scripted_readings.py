"""A machine whose memory a test writes down: devices of any size, and processes that occupy them.

Every file `PID.json` in the folder says what a process takes, by device; the memory is taken until the file is gone, so
that a test decides how slowly a device gives back what an ended process held.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from supervisor.fleet.memory import Device, Reading

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from supervisor.llama.devices import Listed


class ScriptedReadings:
    """`Readings` of a machine with these devices."""

    def __init__(self, folder: Path, *devices: Device) -> None:
        self.devices = devices
        self._folder = folder

    def read(self) -> Reading:
        taken = [sizes for _, sizes in self._taken()]
        free = {each.id: each.total - sum(sizes.get(each.id, 0) for sizes in taken) for each in self.devices}
        return Reading(self.devices, free)

    def used_by(self, pids: Collection[int]) -> dict[str, int]:
        found: dict[str, int] = {}
        for pid, sizes in self._taken():
            for device, size in sizes.items() if pid in pids else ():
                found[device] = found.get(device, 0) + size
        return found

    def named(self, listed: Sequence[Listed], env: Mapping[str, str]) -> dict[str, Device]:
        known = {device.id: device for device in self.devices}
        return {each.name: known[each.name] for each in listed if each.name in known}

    def at(self, pci: str) -> Device | None:
        return next((device for device in self.devices if device.pci == pci), None)

    def occupy(self, pid: int, **sizes: int) -> None:
        """From now on this process takes so much."""
        (self._folder / f"{pid}.json").write_text(json.dumps(sizes))

    def give_back(self, pid: int) -> None:
        """The device has got its memory back."""
        (self._folder / f"{pid}.json").unlink(missing_ok=True)

    def _taken(self) -> Iterator[tuple[int, dict[str, int]]]:
        for path in sorted(self._folder.glob("*.json")):
            with suppress(OSError, ValueError):  # it is being written, or gone
                yield int(path.stem), json.loads(path.read_text())
