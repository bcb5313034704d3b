"""What GPUs say, and that those which sleep are left asleep."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.runtime.gpus import AMD, INTEL, NVIDIA, Gpus
from supervisor.runtime.hardware import hardware

if TYPE_CHECKING:
    from pathlib import Path


class NvmlError(Exception):
    pass


class Missing(NvmlError):
    pass


class Nvml:
    """NVIDIA's library as it is seen from Python, with one GPU."""

    NVMLError = NvmlError
    NVMLError_LibraryNotFound = Missing
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *, is_missing: bool = False) -> None:
        self.calls: list[str] = []
        self.is_open = False
        self.is_missing = is_missing
        self.has_fan = True

    def nvmlInit(self) -> None:
        self.calls.append("init")
        if self.is_missing:
            raise Missing
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetCount(self) -> int:
        self.calls.append("count")
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA H200"

    def nvmlDeviceGetUUID(self, handle: int) -> bytes:
        return b"GPU-1"

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 40

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[int]) -> list[Any]:
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=50))]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=7, memory=3)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=10, total=100)

    def nvmlDeviceGetFanSpeed(self, handle: int) -> int:
        if not self.has_fan:
            raise NvmlError
        return 30

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 75_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 700_000

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.1"


def pci(root: Path, vendor: str, *, status: str = "active", control: str = "on") -> Path:
    path = root / "bus/pci/devices/0000:01:00.0"
    (path / "power").mkdir(parents=True, exist_ok=True)
    for name, text in {"vendor": vendor, "class": "0x030000", "power/runtime_status": status}.items():
        (path / name).write_text(f"{text}\n")
    (path / "power/control").write_text(f"{control}\n")
    return path


def card(root: Path, vendor: str, **files: str) -> Path:
    path = root / "class/drm/card0/device"
    path.mkdir(parents=True)
    (root / "class/drm/card0-DP-1").mkdir()
    for name, text in {"vendor": vendor, **files}.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return path


def test_nvidia(tmp_path: Path) -> None:
    """All that NVML tells; what it does not is unknown, and costs nothing else."""
    pci(tmp_path, NVIDIA)
    nvml = Nvml()
    nvml.has_fan = False
    (gpu,) = Gpus(tmp_path, lambda: nvml).read(in_use=False)

    assert (gpu.name, gpu.uuid, gpu.celsius, gpu.memory_celsius) == ("NVIDIA H200", "GPU-1", 40, 50)
    assert (gpu.busy, gpu.memory_busy, gpu.memory_used, gpu.memory_total) == (7, 3, 10, 100)
    assert (gpu.watts, gpu.fan) == (75.5, None)


@pytest.mark.parametrize(
    ("status", "control", "in_use", "is_read"),
    [
        ("suspended", "auto", True, False),
        ("suspended", "auto", False, False),
        ("active", "auto", False, False),
        ("active", "auto", True, True),
        ("active", "on", False, True),
    ],
)
def test_sleep(tmp_path: Path, status: str, control: str, in_use: bool, is_read: bool) -> None:
    """A GPU that sleeps is not touched, one that may fall asleep only while models are loaded."""
    pci(tmp_path, NVIDIA, status=status, control=control)
    nvml = Nvml()
    gpus = Gpus(tmp_path, lambda: nvml)

    assert len(gpus.read(in_use=in_use)) == is_read
    assert bool(nvml.calls) is is_read


def test_let_go(tmp_path: Path) -> None:
    """Once no model is loaded, the library lets go of a GPU that may fall asleep."""
    pci(tmp_path, NVIDIA, control="auto")
    nvml = Nvml()
    gpus = Gpus(tmp_path, lambda: nvml)
    gpus.read(in_use=True)
    assert nvml.is_open
    gpus.read(in_use=False)

    assert not nvml.is_open


def test_no_nvidia(tmp_path: Path) -> None:
    """Where there is no library, it is looked for once."""
    nvml = Nvml(is_missing=True)
    gpus = Gpus(tmp_path, lambda: nvml)

    assert gpus.read(in_use=True) == gpus.read(in_use=True) == []
    assert nvml.calls == ["init"]


def test_amd(tmp_path: Path) -> None:
    """What amdgpu tells in sysfs, by the labels of its sensors."""
    files = {
        **{"device": "0x744c", "gpu_busy_percent": "12", "mem_busy_percent": "3", "mem_info_vram_used": "10"},
        **{"mem_info_vram_total": "100", "unique_id": "abc", "hwmon/hwmon3/temp1_label": "edge"},
        **{"hwmon/hwmon3/temp1_input": "41000", "hwmon/hwmon3/temp3_label": "mem", "hwmon/hwmon3/temp3_input": "52000"},
        **{"hwmon/hwmon3/power1_average": "15500000", "hwmon/hwmon3/pwm1": "51"},
    }
    card(tmp_path, AMD, **files)
    (gpu,) = Gpus(tmp_path, lambda: Nvml(is_missing=True)).read(in_use=False)

    assert (gpu.name, gpu.uuid, gpu.celsius, gpu.memory_celsius) == ("AMD 744c", "abc", 41, 52)
    assert (gpu.busy, gpu.memory_busy, gpu.memory_used, gpu.memory_total) == (12, 3, 10, 100)
    assert (gpu.watts, gpu.fan) == (15.5, 20.0)


def test_a_card_that_sleeps(tmp_path: Path) -> None:
    """Nothing of a card is read but its power state."""
    path = card(tmp_path, INTEL, **{"power/runtime_status": "suspended"})
    gpus = Gpus(tmp_path, lambda: Nvml(is_missing=True))
    asleep = gpus.read(in_use=True)
    (path / "power/runtime_status").write_text("active\n")

    assert asleep == []
    assert [gpu.name for gpu in gpus.read(in_use=True)] == ["Intel"]


def test_hardware(tmp_path: Path) -> None:
    """The snapshot names the GPU with its driver; what is not known is null."""
    pci(tmp_path / "sys", NVIDIA)
    told: Any = hardware(tmp_path, Gpus(tmp_path / "sys", Nvml))

    assert told["schema_version"] == 1
    assert told["accelerators"] == [
        {
            "index": 0,
            "kind": "gpu",
            "vendor": "nvidia",
            "model": "NVIDIA H200",
            "architecture": None,
            "memory": {"kind": "dedicated", "capacity_bytes": 100},
            "driver": {"name": "nvidia", "version": "570.1"},
            "power_limit_watts": 700.0,
        }
    ]
    assert told["cpu"]["vendor"] is None
    assert told["environment"] == {"kind": "bare_metal", "name": None, "version": None}
