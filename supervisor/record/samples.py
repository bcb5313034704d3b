"""How busy the machine was during the last hour: samples of the host and its GPUs.

As JSON in llama-swap's words (spec: llama-swap.md, 1.14).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.record import metrics
from supervisor.record.go_time import local_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from supervisor.record.metrics import Described, Gauges

KEPT_SECONDS = 3600
MEGABYTE = 1024**2


@dataclass(frozen=True, slots=True)
class HostSample:
    """The host at one moment; memory in bytes."""

    at: float
    """Seconds since the epoch."""
    cores: tuple[float, ...]
    """How busy each core was since the sample before, in percent."""
    memory_total: int
    memory_free: int
    """That is free or could be."""
    swap_total: int
    swap_used: int
    load: tuple[float, float, float]
    networks: tuple[tuple[str, int, int], ...]
    """Interfaces with the bytes they have received and sent."""

    @property
    def memory_used(self) -> int:
        return self.memory_total - self.memory_free

    def as_json(self) -> dict[str, object]:
        one, five, fifteen = self.load
        return {
            "timestamp": _shown(self.at),
            "cpu_util_per_core": self.cores,
            "mem_total_mb": self.memory_total // MEGABYTE,
            "mem_used_mb": self.memory_used // MEGABYTE,
            "mem_free_mb": self.memory_free // MEGABYTE,
            "swap_total_mb": self.swap_total // MEGABYTE,
            "swap_used_mb": self.swap_used // MEGABYTE,
            "load_avg_1": one,
            "load_avg_5": five,
            "load_avg_15": fifteen,
            "net_io": [
                {"name": name, "bytes_recv": received, "bytes_sent": sent} for name, received, sent in self.networks
            ],
        }


@dataclass(frozen=True, slots=True)
class GpuSample:
    """A GPU at one moment; None: it does not say."""

    at: float
    id: int
    name: str
    vendor: str = ""
    """`nvidia`, `amd` or `intel`."""
    uuid: str = ""
    celsius: float | None = None
    memory_celsius: float | None = None
    busy: float | None = None
    """Percent."""
    memory_busy: float | None = None
    memory_used: int | None = None
    """Bytes."""
    memory_total: int | None = None
    fan: float | None = None
    """Percent."""
    watts: float | None = None

    def as_json(self) -> dict[str, object]:
        """With zeros for what it does not say, as llama-swap's page expects."""
        return {
            "timestamp": _shown(self.at),
            "id": self.id,
            "name": self.name,
            "uuid": self.uuid,
            "temp_c": round(self.celsius or 0),
            "vram_temp_c": round(self.memory_celsius or 0),
            "gpu_util_pct": self.busy or 0,
            "mem_util_pct": self.memory_busy or 0,
            "mem_used_mb": (self.memory_used or 0) // MEGABYTE,
            "mem_total_mb": (self.memory_total or 0) // MEGABYTE,
            "fan_speed_pct": self.fan or 0,
            "power_draw_w": self.watts or 0,
        }


class Samples:
    """The samples of the last hour; one thread adds, another one reads."""

    def __init__(self, *, every: float, is_enabled: bool = True) -> None:
        """`every` so many seconds there is one."""
        self.every = every
        self.is_enabled = is_enabled
        self._kept = deque[tuple[HostSample, tuple[GpuSample, ...]]](maxlen=max(1, int(KEPT_SECONDS / every)))
        self._lock = threading.Lock()

    def add(self, host: HostSample, gpus: Sequence[GpuSample]) -> None:
        """The newest."""
        with self._lock:
            self._kept.append((host, tuple(gpus)))

    def as_json(self, after: float | None = None) -> dict[str, object]:
        """Those after this time, or all."""
        with self._lock:
            kept = list(self._kept)
        hosts = [host.as_json() for host, _ in kept if after is None or host.at > after]
        gpus = [gpu.as_json() for _, gpus in kept for gpu in gpus if after is None or gpu.at > after]
        return {"enabled": self.is_enabled, "gpu_stats": gpus or None, "sys_stats": hosts}

    def tell(self, gauges: Gauges) -> None:
        """The newest as metrics; nothing before there is one."""
        with self._lock:
            newest = self._kept[-1] if self._kept else None
        if newest is not None:
            host, gpus = newest
            _tell_host(host, gauges)
            for gpu in gpus:
                for told, value in _of_gpu(gpu):
                    gauges.add(told, value, str(gpu.id), gpu.name, gpu.uuid)

    def __repr__(self) -> str:
        return f"<Samples [{len(self._kept)} of {self._kept.maxlen}]>"


def _tell_host(host: HostSample, gauges: Gauges) -> None:
    for core, percent in enumerate(host.cores):
        gauges.add(metrics.CORE, percent, str(core))
    gauges.add(metrics.TOTAL, host.memory_total)
    gauges.add(metrics.USED, host.memory_used)
    gauges.add(metrics.FREE, host.memory_free)
    gauges.add(metrics.SWAP_TOTAL, host.swap_total)
    gauges.add(metrics.SWAP_USED, host.swap_used)
    for interval, value in zip(("1m", "5m", "15m"), host.load, strict=True):
        gauges.add(metrics.LOAD_AVERAGE, value, interval)
    for name, received, sent in host.networks:
        gauges.add(metrics.NETWORK, received, name, "recv")
        gauges.add(metrics.NETWORK, sent, name, "sent")


def _of_gpu(gpu: GpuSample) -> Iterator[tuple[Described, float | None]]:
    yield metrics.GPU_HEAT, gpu.celsius
    yield metrics.GPU_MEMORY_HEAT, gpu.memory_celsius
    yield metrics.GPU_BUSY, gpu.busy
    yield metrics.GPU_MEMORY_BUSY, gpu.memory_busy
    yield metrics.GPU_USED, gpu.memory_used
    yield metrics.GPU_TOTAL, gpu.memory_total
    yield metrics.GPU_FAN, gpu.fan
    yield metrics.GPU_POWER, gpu.watts


def _shown(at: float) -> str:
    return local_time(at, is_exact=True)
