"""How busy the host is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.runtime.host import Host, physical_cores

if TYPE_CHECKING:
    from pathlib import Path

MEMINFO = """\
MemTotal:       16000 kB
MemFree:         1000 kB
MemAvailable:    9000 kB
SwapTotal:       2000 kB
SwapFree:        1500 kB
HugePages_Total:     3
"""
NETWORKS = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
  eth0: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0
br-a:1:7 1 0 0 0 0 0 0 8 2 0 0 0 0 0 0
"""


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / "proc" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_sample(tmp_path: Path) -> None:
    """Cores since the look before, without the guests that are in their times already; memory in bytes."""
    write(
        tmp_path,
        meminfo=MEMINFO,
        net__dev=NETWORKS,
        stat="cpu 9 9\ncpu0 10 0 10 80 0 0 0 0 5 0\ncpu1 0 0 0 0 0 0 0 0\n",
    )
    host = Host(tmp_path)
    write(tmp_path, stat="cpu 9 9\ncpu0 30 0 20 140 10 0 0 0 25 0\ncpu1 1 0 0 3 0 0 0 0\nintr 5\n")
    sample = host.sample()

    assert sample.cores == (30.0, 25.0)
    assert (sample.memory_total, sample.memory_free) == (16000 * 1024, 9000 * 1024)
    assert (sample.swap_total, sample.swap_used) == (2000 * 1024, 500 * 1024)
    assert sample.networks == (("br-a:1", 7, 8), ("eth0", 100, 200))


def test_cores_come_and_go(tmp_path: Path) -> None:
    """One that has just come is told since it came; counters that stand still or go back are no work."""
    write(tmp_path, stat="cpu0 50 0 0 50 0 0 0 0\ncpu1 10 0 0 90 0 0 0 0\n")
    host = Host(tmp_path)
    write(tmp_path, stat="cpu0 50 0 0 50 0 0 0 0\ncpu1 5 0 0 99 0 0 0 0\ncpu2 3 0 0 1 0 0 0 0\n")

    assert host.sample().cores == (0.0, 0.0, 75.0)


def test_a_kernel_that_says_nothing(tmp_path: Path) -> None:
    """There is a sample all the same, and the service goes on."""
    sample = Host(tmp_path).sample()

    assert (sample.cores, sample.networks, sample.memory_total) == ((), (), 0)
    assert physical_cores(tmp_path) is None


def test_threads_of_a_core_are_one_core(tmp_path: Path) -> None:
    """Four processors on two cores are two."""
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "core_cpus_list").write_text(f"{siblings}\n")

    assert physical_cores(tmp_path) == 2


def test_this_machine() -> None:
    """Its kernel tells all of it."""
    sample = Host().sample()

    assert sample.cores
    assert 0 < sample.memory_free < sample.memory_total
    assert any(name == "lo" for name, *_ in sample.networks)
