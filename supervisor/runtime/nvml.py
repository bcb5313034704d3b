"""NVIDIA's own word on its GPUs, where the package `nvidia-ml-py` and a driver are there; otherwise nothing.

Calls block for up to some milliseconds, so make them in a thread.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from supervisor.llama.devices import Gpu, full_address

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from types import ModuleType

logger = logging.getLogger("supervisor.nvml")

MIB = 2**20


class Nvml:
    """The GPUs of one machine, in the order of their bus addresses, which is NVML's."""

    def __init__(self, library: ModuleType) -> None:
        """Raises the library's `NVMLError`."""
        self._library = library
        library.nvmlInit()
        handles = [library.nvmlDeviceGetHandleByIndex(place) for place in range(library.nvmlDeviceGetCount())]
        found = [(self._gpu(handle), handle) for handle in handles]
        found.sort(key=lambda each: each[0].pci or "")
        self.gpus: tuple[Gpu, ...] = tuple(gpu for gpu, _ in found)
        self._handles: dict[str, Any] = {gpu.pci: handle for gpu, handle in found if gpu.pci is not None}

    def free(self) -> dict[str, int]:
        """Bytes nobody uses, by bus address."""
        found = {pci: self._asked("nvmlDeviceGetMemoryInfo", handle) for pci, handle in self._handles.items()}
        return {pci: int(memory.free) for pci, memory in found.items() if memory is not None}

    def used_by(self, pids: Collection[int]) -> dict[str, int]:
        """Bytes these processes use, by bus address; in a container NVML may know no process, or by other numbers."""
        found: dict[str, int] = {}
        for pci, handle in self._handles.items():
            amounts = {process.pid: process.usedGpuMemory for process in self._processes(handle)}
            used = [amount for pid, amount in amounts.items() if pid in pids and amount is not None]
            if used:
                found[pci] = sum(used)
        return found

    def _processes(self, handle: Any) -> Iterator[Any]:
        """Those that compute and, for Vulkan, those that draw; one process may be both, with the same amount."""
        yield from self._asked("nvmlDeviceGetGraphicsRunningProcesses", handle) or ()
        yield from self._asked("nvmlDeviceGetComputeRunningProcesses", handle) or ()

    def _gpu(self, handle: Any) -> Gpu:
        memory, pci = self._asked("nvmlDeviceGetMemoryInfo", handle), self._asked("nvmlDeviceGetPciInfo", handle)
        return Gpu(
            name=_text(self._asked("nvmlDeviceGetName", handle)) or "",
            total=int(memory.total) if memory is not None else None,
            uuid=_text(self._asked("nvmlDeviceGetUUID", handle)),
            pci=full_address(_text(pci.busId) or "") if pci is not None else None,
        )

    def _asked(self, function: str, handle: Any) -> Any:
        """What it answers; None where this GPU or this driver cannot say."""
        try:
            return getattr(self._library, function)(handle)
        except self._library.NVMLError:
            return None


def open_nvml() -> Nvml | None:
    """None without the package, without a driver, or where the driver does not answer."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        return Nvml(pynvml)
    except pynvml.NVMLError as exc:
        logger.debug("NVML does not answer: %s", exc)
        return None


def _text(value: object) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else None
