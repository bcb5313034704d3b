"""What this machine is, as llama-swap's page shows it (spec: llama-swap.md, 1.14). What is not known is null."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import __version__
from supervisor.runtime.gpus import Gpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.record.samples import GpuSample

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_DRIVERS = {"amd": "amdgpu"}
"""Of vendors with only one; they have the version of the kernel."""
_CONTAINERS = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}


def hardware(root: Path = Path("/"), gpus: Gpus | None = None) -> dict[str, object]:
    """The machine as it is now; GPUs that sleep are not woken, and so are not in it. Takes up to a second."""
    import psutil

    machine = platform.machine()
    release = dict(_pairs(root / "etc/os-release", "="))
    cpu = dict(_pairs(root / "proc/cpuinfo", ":"))
    return {
        "schema_version": 1,
        "captured_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "capture": {
            "scope": "inference_host",
            "method": "detected",
            "detector": {"name": "llama-supervise", "version": __version__},
        },
        "architecture": {"name": ARCHITECTURES.get(machine, machine), "raw_name": machine},
        "operating_system": {
            "family": platform.system().lower(),
            "name": release.get("NAME"),
            "version": release.get("VERSION_ID"),
            "kernel": platform.release(),
        },
        "environment": _environment(root, cpu),
        "cpu": {
            "vendor": cpu.get("vendor_id"),
            "model": cpu.get("model name"),
            "socket_count": _sockets(root) or None,
            "physical_core_count": psutil.cpu_count(logical=False),
            "logical_thread_count": os.cpu_count(),
        },
        "memory": {"capacity_bytes": psutil.virtual_memory().total},
        "accelerators": _accelerators(gpus or Gpus()),
    }


def _environment(root: Path, cpu: Mapping[str, str]) -> dict[str, object]:
    """Where we run: what is said by files that only there are."""
    if "microsoft" in platform.release().lower():
        return {"kind": "wsl", "name": "WSL", "version": None}
    for path, name in _CONTAINERS.items():
        if (root / path.lstrip("/")).exists():
            return {"kind": "container", "name": name, "version": None}
    if "hypervisor" in cpu.get("flags", "").split():
        product = _line(root / "sys/class/dmi/id/product_name")
        return {"kind": "virtual_machine", "name": product, "version": None}
    return {"kind": "bare_metal", "name": None, "version": None}


def _accelerators(gpus: Gpus) -> list[dict[str, object]]:
    try:
        return [_accelerator(gpu, gpus) for gpu in gpus.read(in_use=False)]
    finally:
        gpus.close()


def _accelerator(gpu: GpuSample, gpus: Gpus) -> dict[str, object]:
    is_nvidia = gpu.vendor == "nvidia"
    return {
        "index": gpu.id,
        "kind": "gpu",
        "vendor": gpu.vendor,
        "model": gpu.name,
        "architecture": None,
        "memory": {"kind": "dedicated" if gpu.memory_total else "unknown", "capacity_bytes": gpu.memory_total},
        "driver": {"name": "nvidia", "version": gpus.nvidia_driver()}
        if is_nvidia
        else {"name": _DRIVERS.get(gpu.vendor), "version": None},
        "power_limit_watts": gpus.power_limit(gpu),
    }


def _sockets(root: Path) -> int:
    return len({value for name, value in _pairs(root / "proc/cpuinfo", ":") if name == "physical id"})


def _pairs(path: Path, separator: str) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        name, found, value = line.partition(separator)
        if found:
            yield name.strip(), value.strip().strip('"')


def _line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
