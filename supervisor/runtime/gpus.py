"""What GPUs say of themselves right now: NVIDIA's through NVML, AMD's and Intel's through sysfs.

Asking a GPU wakes it up, and keeps it awake. So its power state is looked at first, which sysfs tells without that; and
one that may fall asleep is let be while nobody uses it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor.record.samples import GpuSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

logger = logging.getLogger("supervisor.gpus")

NVIDIA, AMD, INTEL = "0x10de", "0x1002", "0x8086"
_DISPLAYS = ("0x0300", "0x0302", "0x0380")
"""PCI classes: VGA, 3D, other display controllers."""
_CARD = re.compile(r"card\d+")
MEMORY_TEMPERATURE = 82
"""NVML_FI_DEV_MEMORY_TEMP."""


class Gpus:
    """The GPUs of this machine. For one thread; a driver that hangs holds up nobody else."""

    def __init__(self, sysfs: Path = Path("/sys"), nvml: Callable[[], Any] | None = None) -> None:
        self._sysfs = sysfs
        self._load_nvml = nvml or _nvml
        self._nvml: Any = None
        """The library while it is in use; it holds the GPUs' device files open, and so keeps them awake."""
        self._is_missing = False

    def read(self, *, in_use: bool) -> list[GpuSample]:
        """The GPUs that are awake. `in_use`: models are loaded, so those that may fall asleep will not just now."""
        now = time.time()
        found = list(self._nvidia(now, in_use=in_use))
        found += self._others(now, len(found), in_use=in_use)
        return found

    def power_limit(self, gpu: GpuSample) -> float | None:
        """Watts that a GPU may draw, if it is NVIDIA's and was read just now."""
        if self._nvml is not None and gpu.vendor == "nvidia":
            with contextlib.suppress(self._nvml.NVMLError):
                handle = self._nvml.nvmlDeviceGetHandleByIndex(gpu.id)
                return float(self._nvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1000
        return None

    def nvidia_driver(self) -> str | None:
        """The version of NVIDIA's driver, if a GPU of theirs was read just now."""
        if self._nvml is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                return _decoded(self._nvml.nvmlSystemGetDriverVersion())
        return None

    def close(self) -> None:
        """Let go of them."""
        library, self._nvml = self._nvml, None
        if library is not None:
            with contextlib.suppress(library.NVMLError):
                library.nvmlShutdown()

    # NVIDIA's.

    def _nvidia(self, now: float, *, in_use: bool) -> Iterator[GpuSample]:
        devices = [path for path in self._displays() if _text(path / "vendor") == NVIDIA]
        asked = [path for path in devices if _may_be_asked(path, in_use=in_use)]
        if devices and not asked:
            self.close()
            return
        if not self._open():
            return
        try:
            # By its address a GPU is found without those beside it being woken.
            for handle in self._handles(None if asked == devices else [path.name for path in asked]):
                yield self._sample(handle, now)
        except self._nvml.NVMLError as exc:
            logger.debug("NVML: %s", exc)
            self.close()  # after an update of the driver, only a fresh start helps

    def _handles(self, addresses: Sequence[str] | None) -> Iterator[Any]:
        """What NVML knows GPUs by: those at these addresses, or all; not those that are lost, or not for us."""
        library = self._nvml
        names: Iterable[object]
        if addresses is None:
            find, names = library.nvmlDeviceGetHandleByIndex, range(library.nvmlDeviceGetCount())
        else:
            find, names = library.nvmlDeviceGetHandleByPciBusId, map(str.encode, addresses)
        for name in names:
            try:
                handle = find(name)
            except library.NVMLError:
                continue
            yield handle

    def _open(self) -> bool:
        if self._nvml is None and not self._is_missing:
            try:
                library = self._load_nvml()
            except ImportError:
                self._is_missing = True
                return False
            try:
                library.nvmlInit()
            except library.NVMLError as exc:
                logger.debug("NVML: %s", exc)
                self._is_missing = isinstance(exc, library.NVMLError_LibraryNotFound)
                return False
            self._nvml = library
        return self._nvml is not None

    def _sample(self, handle: Any, now: float) -> GpuSample:
        library = self._nvml

        def told(call: Callable[..., Any], *arguments: object) -> Any:
            with contextlib.suppress(library.NVMLError):
                return call(handle, *arguments)
            return None

        use, memory = told(library.nvmlDeviceGetUtilizationRates), told(library.nvmlDeviceGetMemoryInfo)
        milliwatts = told(library.nvmlDeviceGetPowerUsage)
        return GpuSample(
            at=now,
            id=library.nvmlDeviceGetIndex(handle),
            name=_decoded(told(library.nvmlDeviceGetName)),
            vendor="nvidia",
            uuid=_decoded(told(library.nvmlDeviceGetUUID)),
            celsius=told(library.nvmlDeviceGetTemperature, library.NVML_TEMPERATURE_GPU),
            memory_celsius=_field(told(library.nvmlDeviceGetFieldValues, [MEMORY_TEMPERATURE])),
            busy=use.gpu if use is not None else None,
            memory_busy=use.memory if use is not None else None,
            memory_used=memory.used if memory is not None else None,
            memory_total=memory.total if memory is not None else None,
            fan=told(library.nvmlDeviceGetFanSpeed),
            watts=milliwatts / 1000 if milliwatts is not None else None,
        )

    # Those whose drivers tell in sysfs.

    def _others(self, now: float, first: int, *, in_use: bool) -> Iterator[GpuSample]:
        for path in self._cards():
            vendor = _text(path / "vendor")
            if vendor in {AMD, INTEL} and _may_be_asked(path, in_use=in_use):
                yield _card(path, now, first, maker="AMD" if vendor == AMD else "Intel")
                first += 1

    def _cards(self) -> list[Path]:
        """The PCI devices behind graphics cards."""
        drm = self._sysfs / "class/drm"
        names = sorted(
            (path for path in _listed(drm) if _CARD.fullmatch(path.name)), key=lambda path: int(path.name[4:])
        )
        return [path / "device" for path in names]

    def _displays(self) -> list[Path]:
        devices = _listed(self._sysfs / "bus/pci/devices")
        return [path for path in sorted(devices) if (_text(path / "class") or "").startswith(_DISPLAYS)]

    def __repr__(self) -> str:
        return f"<Gpus [NVML {'missing' if self._is_missing else 'open' if self._nvml is not None else 'closed'}]>"


def _may_be_asked(path: Path, *, in_use: bool) -> bool:
    """Whether asking a PCI device neither wakes it up nor keeps it from falling asleep."""
    if _text(path / "power/runtime_status") in {"suspended", "suspending"}:
        return False
    return in_use or _text(path / "power/control") != "auto"


def _card(path: Path, now: float, index: int, *, maker: str) -> GpuSample:
    sensors = next(iter(_listed(path / "hwmon")), path / "hwmon")
    heat = {_text(label) or "": label.with_name(label.name.replace("label", "input")) for label in _labels(sensors)}
    celsius = _number(heat.get("edge", sensors / "temp1_input"))
    memory_celsius = _number(heat["mem"]) if "mem" in heat else None
    microwatts = _number(sensors / "power1_average") or _number(sensors / "power1_input")
    fan = _number(sensors / "pwm1")
    used, total = _number(path / "mem_info_vram_used"), _number(path / "mem_info_vram_total")
    return GpuSample(
        at=now,
        id=index,
        vendor=maker.lower(),
        name=_text(path / "product_name") or f"{maker} {(_text(path / 'device') or '').removeprefix('0x')}".strip(),
        uuid=_text(path / "unique_id") or "",
        celsius=celsius / 1000 if celsius is not None else None,
        memory_celsius=memory_celsius / 1000 if memory_celsius is not None else None,
        busy=_number(path / "gpu_busy_percent"),
        memory_busy=_number(path / "mem_busy_percent"),
        memory_used=used,
        memory_total=total,
        fan=round(fan / 255 * 100, 1) if fan is not None else None,
        watts=microwatts / 1e6 if microwatts is not None else None,
    )


def _labels(sensors: Path) -> list[Path]:
    return [path for path in _listed(sensors) if path.name.startswith("temp") and path.name.endswith("_label")]


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdecimal() else None


def _field(values: Any) -> float | None:
    """The value of NVML's answer to a question for one field."""
    if values and values[0].nvmlReturn == 0:
        return float(values[0].value.uiVal)
    return None


def _decoded(text: str | bytes | None) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text or ""


def _nvml() -> Any:
    import pynvml

    return pynvml
