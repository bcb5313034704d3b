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
    """NVIDIA's library as it is seen from Python, with a GPU at each address."""

    NVMLError = NvmlError
    NVMLError_LibraryNotFound = Missing
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *addresses: str, is_missing: bool = False) -> None:
        self.addresses = addresses or ("0000:01:00.0",)
        self.awake: set[int] = set()
        """GPUs that were asked for."""
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
        return len(self.addresses)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self.awake.add(index)
        return index

    def nvmlDeviceGetHandleByPciBusId(self, address: bytes) -> int:
        if address.decode() not in self.addresses:
            raise NvmlError
        return self.nvmlDeviceGetHandleByIndex(self.addresses.index(address.decode()))

    def nvmlDeviceGetIndex(self, handle: int) -> int:
        return handle

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


def pci(root: Path, vendor: str, *, status: str = "active", control: str = "on", address: str = "0000:01:00.0") -> Path:
    path = root / "bus/pci/devices" / address
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


def test_only_those_that_are_awake(tmp_path: Path) -> None:
    """Where one of several GPUs sleeps, the others are asked by their address, and keep their numbers."""
    places = ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0")
    for place, status in zip(places, ("suspended", "active", "active"), strict=True):
        pci(tmp_path, NVIDIA, status=status, control="auto", address=place)
    nvml = Nvml(*places[:2])  # the last one is not for us

    assert [gpu.id for gpu in Gpus(tmp_path, lambda: nvml).read(in_use=True)] == [1]
    assert nvml.awake == {1}


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


def test_an_amd_card_in_the_snapshot(tmp_path: Path) -> None:
    """Its maker is known by its number, whatever it calls itself."""
    card(tmp_path / "sys", AMD, product_name="Radeon PRO W7900", mem_info_vram_total="100")
    told: Any = hardware(tmp_path, Gpus(tmp_path / "sys", lambda: Nvml(is_missing=True)))

    (gpu,) = told["accelerators"]
    assert (gpu["vendor"], gpu["model"], gpu["driver"]) == (
        "amd",
        "Radeon PRO W7900",
        {"name": "amdgpu", "version": None},
    )
    assert (gpu["memory"], gpu["power_limit_watts"]) == ({"kind": "dedicated", "capacity_bytes": 100}, None)


@pytest.mark.parametrize(
    ("path", "text", "environment"),
    [
        ("run/.containerenv", "", {"kind": "container", "name": "podman", "version": None}),
        ("proc/cpuinfo", "flags : fpu hypervisor\n", {"kind": "virtual_machine", "name": "Cloud", "version": None}),
        ("proc/cpuinfo", "flags : fpu\n", {"kind": "bare_metal", "name": None, "version": None}),
    ],
)
def test_where_it_runs(tmp_path: Path, path: str, text: str, environment: dict[str, object]) -> None:
    """What files say that only there are."""
    for name, content in {path: text, "sys/class/dmi/id/product_name": "Cloud\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)

    assert hardware(tmp_path, Gpus(tmp_path / "sys", lambda: Nvml(is_missing=True)))["environment"] == environment


def test_what_it_runs_on(tmp_path: Path) -> None:
    """Processors and system as the kernel and the distribution name them."""
    cores = "processor : {}\nvendor_id : GenuineIntel\nmodel name : Xeon\nphysical id : {}\n\n"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("".join(cores.format(core, core // 2) for core in range(4)))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="Debian GNU/Linux"\nVERSION_ID="12"\n')
    told: Any = hardware(tmp_path, Gpus(tmp_path / "sys", lambda: Nvml(is_missing=True)))

    assert told["cpu"].items() >= {"vendor": "GenuineIntel", "model": "Xeon", "socket_count": 2}.items()
    assert told["operating_system"].items() >= {"family": "linux", "name": "Debian GNU/Linux", "version": "12"}.items()
    assert told["capture"]["scope"] == "inference_host"


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
