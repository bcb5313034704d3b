"""What the machine says of its memory: the host's and its groups', NVIDIA's and AMD's GPUs, and their many names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from supervisor.fleet.memory import HOST, Device
from supervisor.llama.devices import Gpu, Listed
from supervisor.runtime.drm import Drm
from supervisor.runtime.nvml import Nvml
from supervisor.runtime.readings import Machine
from supervisor.runtime.residency import total_memory

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

MIB = 2**20
CARD = Gpu("NVIDIA GeForce RTX 3090", 24576 * MIB, "GPU-aaaa", "0000:01:00.0")
TWIN = Gpu("NVIDIA GeForce RTX 3090", 24576 * MIB, "GPU-bbbb", "0000:02:00.0")
LISTED = Listed("CUDA0", CARD.name, 24135 * MIB, None)


class Driver:
    """GPUs with these sizes free, and processes that hold some of them."""

    def __init__(self, *gpus: Gpu, free: dict[str, int] | None = None, used: dict[int, dict[str, int]] | None = None):
        self.gpus = gpus
        self._free, self._used = free or {}, used or {}

    def free(self) -> dict[str, int]:
        return self._free

    def used_by(self, pids: Collection[int]) -> dict[str, int]:
        return {pci: size for pid in pids for pci, size in self._used.get(pid, {}).items()}


def machine(root: Path, *drivers: Driver) -> Machine:
    write(root / "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n")
    return Machine(sources=lambda: drivers, root=root)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_host_is_there_without_any_gpu(tmp_path: Path) -> None:
    """Its size, and what is free of it; no driver is opened where no binary has listed a device."""
    write(tmp_path / "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n")

    reading = Machine(sources=lambda: 1 / 0, root=tmp_path).read()  # type: ignore[arg-type, return-value]

    assert reading.devices == (Device(HOST, "the machine's memory", 1000 * 1024),)
    assert reading.free == {HOST: 600 * 1024}


def test_the_host_is_no_larger_than_its_group(tmp_path: Path) -> None:
    """What the control group allows counts, of all the groups around us the least."""
    write(tmp_path / "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n")
    write(tmp_path / "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path / "sys/fs/cgroup/a/memory.max", "500000\n")
    write(tmp_path / "sys/fs/cgroup/a/b/memory.max", "max\n")

    assert total_memory(tmp_path) == 500000


def test_a_gpu_is_known_by_what_the_driver_says_of_it(tmp_path: Path) -> None:
    """A listed device has the driver's size and identity, and is free as the driver says."""
    ours = machine(tmp_path, Driver(CARD, free={"0000:01:00.0": 5 * MIB, "0000:09:00.0": 1}))

    named = ours.named([LISTED], {})

    device = Device("CUDA0", CARD.name, 24576 * MIB, "GPU-aaaa", "0000:01:00.0")
    assert named == {"CUDA0": device}
    assert ours.at("0000:01:00.0") == device
    assert ours.read().devices[1:] == (device,)
    assert ours.read().free["CUDA0"] == 5 * MIB


def test_one_gpu_has_one_name(tmp_path: Path) -> None:
    """The first device under CUDA_VISIBLE_DEVICES may be the second card; another backend's may be the same card."""
    ours = machine(tmp_path, Driver(CARD, TWIN))
    both = ours.named([LISTED, Listed("CUDA1", CARD.name, None, None)], {})

    narrowed = ours.named([LISTED], {"CUDA_VISIBLE_DEVICES": "1"})
    other = ours.named([Listed("Vulkan0", CARD.name, None, None)], {"CUDA_VISIBLE_DEVICES": "GPU-aaaa"})

    assert narrowed["CUDA0"] == both["CUDA1"]
    assert other["Vulkan0"] == both["CUDA0"]
    assert [device.id for device in ours.read().devices] == [HOST, "CUDA0", "CUDA1"]


def test_two_gpus_never_share_a_name(tmp_path: Path) -> None:
    """If the first model that is looked at sees only the second card, the first one gets a name of its own."""
    ours = machine(tmp_path, Driver(CARD, TWIN))

    first = ours.named([LISTED], {"CUDA_VISIBLE_DEVICES": "1"})["CUDA0"]
    second = ours.named([LISTED], {"CUDA_VISIBLE_DEVICES": "0"})["CUDA0"]

    assert (first.id, second.id) == ("CUDA0", "CUDA0@0000:01:00.0")


def test_what_processes_hold_is_told_by_our_names(tmp_path: Path) -> None:
    """Of unified memory it counts as the host's."""
    chip = Gpu("NVIDIA GB10", None, "GPU-g", "0000:0f:00.0")
    ours = machine(tmp_path, Driver(CARD, chip, used={7: {"0000:01:00.0": 5}, 8: {"0000:0f:00.0": 3}}))
    ours.named([LISTED, Listed("CUDA1", "NVIDIA GB10", 128 * MIB, None, is_unified=True)], {})

    assert ours.used_by([7, 9]) == {"CUDA0": 5}
    assert ours.used_by([8]) == {HOST: 3}
    assert "CUDA1" not in ours.read().free


# NVIDIA.


class NVMLError(Exception):
    """As the library's."""


def library(**answers: object) -> SimpleNamespace:
    """A library of two GPUs out of bus order, with these answers in the place of the usual ones."""

    def refuse(handle: int) -> object:
        raise NVMLError("not supported")

    def none(handle: int) -> object:
        return []

    usual = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda place: place,
        "nvmlDeviceGetName": lambda handle: b"NVIDIA H200",
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetPciInfo": lambda handle: SimpleNamespace(busId=f"00000000:{0x1A - handle:02X}:00.0".encode()),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=100, free=60 + handle),
        "nvmlDeviceGetGraphicsRunningProcesses": refuse,
        "nvmlDeviceGetComputeRunningProcesses": none,
    }
    return SimpleNamespace(**{**usual, **answers})


def test_nvidias_gpus_in_bus_order() -> None:
    """Names, UUIDs, addresses and sizes; bytes and text alike."""
    nvml = Nvml(library())  # type: ignore[arg-type]

    assert nvml.gpus == (
        Gpu("NVIDIA H200", 100, "GPU-1", "0000:19:00.0"),
        Gpu("NVIDIA H200", 100, "GPU-0", "0000:1a:00.0"),
    )
    assert nvml.free() == {"0000:19:00.0": 61, "0000:1a:00.0": 60}


def test_a_process_that_draws_and_computes_counts_once() -> None:
    """NVML lists it twice with the same amount; one whose amount it does not know counts nowhere."""
    both = [SimpleNamespace(pid=7, usedGpuMemory=30), SimpleNamespace(pid=8, usedGpuMemory=None)]

    def asked(handle: int) -> list[SimpleNamespace]:
        return both if handle == 0 else []

    nvml = Nvml(library(nvmlDeviceGetGraphicsRunningProcesses=asked, nvmlDeviceGetComputeRunningProcesses=asked))  # type: ignore[arg-type]

    assert nvml.used_by([7]) == {"0000:1a:00.0": 30}
    assert nvml.used_by([8, 9]) == {}


def test_a_gpu_without_memory_of_its_own() -> None:
    """Where NVML cannot tell sizes, there are none."""

    def refuse(handle: int) -> object:
        raise NVMLError("not supported")

    nvml = Nvml(library(nvmlDeviceGetMemoryInfo=refuse))  # type: ignore[arg-type]

    assert {gpu.total for gpu in nvml.gpus} == {None}
    assert nvml.free() == {}


# AMD, and other drivers of the kernel.


def test_amds_gpus_and_what_processes_hold(tmp_path: Path) -> None:
    """Sizes come from sysfs; of a process every client counts once, however many descriptors it has."""
    card = tmp_path / "sys/class/drm/card1/device"
    for name, text in {
        "vendor": "0x1002",
        "mem_info_vram_total": "1000000",
        "mem_info_vram_used": "400000",
        "uevent": "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0",
        "product_name": "AMD Radeon RX 7900 XTX",
    }.items():
        write(card / name, f"{text}\n")
    write(tmp_path / "sys/class/drm/card0/device/vendor", "0x8086\n")
    client = "pos:\t0\ndrm-driver:\tamdgpu\ndrm-pdev:\t0000:03:00.0\ndrm-client-id:\t{}\ndrm-memory-vram:\t{} KiB\n"
    write(tmp_path / "proc/7/fdinfo/5", client.format(1, 100))
    write(tmp_path / "proc/7/fdinfo/6", client.format(1, 100))
    write(tmp_path / "proc/7/fdinfo/7", client.format(2, 20))
    write(tmp_path / "proc/7/fdinfo/8", "pos:\t0\nflags:\t02\n")

    drm = Drm(tmp_path)

    assert drm.gpus == (Gpu("AMD Radeon RX 7900 XTX", 1000000, None, "0000:03:00.0"),)
    assert drm.free() == {"0000:03:00.0": 600000}
    assert drm.used_by([7, 8]) == {"0000:03:00.0": 120 * 1024}


def test_a_machine_without_such_drivers(tmp_path: Path) -> None:
    """Nothing is there, and nothing breaks."""
    drm = Drm(tmp_path)

    assert (drm.gpus, drm.free(), drm.used_by([1])) == ((), {}, {})
