"""Counting the kernel's OOM kills, on every layout of control groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.runtime.oom import oom_kills

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 9\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
VMSTAT = "nr_free_pages 100\noom_kill {}\nzone_reclaim_failed 0\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    """A root directory with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_unified_hierarchy_counts_for_our_group(tmp_path: Path) -> None:
    """systemd's user and system services: our own group, not the whole machine."""
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/llama.service\n",
            "sys/fs/cgroup/system.slice/llama.service/memory.events": EVENTS.format(2),
            "proc/vmstat": VMSTAT.format(70),
        },
    )

    assert oom_kills(root) == 2


def test_the_old_hierarchy_counts_for_our_group(tmp_path: Path) -> None:
    """Control groups v1 keep the memory controller apart."""
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n1:name=systemd:/y\n0::/z\n",
            "sys/fs/cgroup/memory/docker/abc/memory.oom_control": CONTROL.format(4),
            "proc/vmstat": VMSTAT.format(70),
        },
    )

    assert oom_kills(root) == 4


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n"},  # the root group has no memory.events
        {"proc/self/cgroup": "0::/gone\n"},
        {"proc/self/cgroup": "4:memory:/old\n", "sys/fs/cgroup/memory/old/memory.oom_control": "under_oom 0\n"},
        {"proc/self/cgroup": "nonsense\n"},
        {},
    ],
)
def test_the_whole_machine_is_the_last_resort(tmp_path: Path, files: dict[str, str]) -> None:
    """Where our group is not counted, every kill of the machine counts."""
    root = machine(tmp_path, {**files, "proc/vmstat": VMSTAT.format(70)})

    assert oom_kills(root) == 70


def test_a_kernel_that_does_not_count_says_nothing(tmp_path: Path) -> None:
    """None is not zero: nobody may conclude that no process was killed."""
    assert oom_kills(machine(tmp_path, {"proc/vmstat": "nr_free_pages 100\n"})) is None
    assert oom_kills(tmp_path / "nothing") is None


def test_a_group_name_with_a_colon_is_whole(tmp_path: Path) -> None:
    """Only the first two colons separate."""
    root = machine(tmp_path, {"proc/self/cgroup": "0::/a:b/c\n", "sys/fs/cgroup/a:b/c/memory.events": EVENTS.format(1)})

    assert oom_kills(root) == 1


def test_this_machine_can_be_asked() -> None:
    """Whatever it is, the answer is a count or nothing."""
    found = oom_kills()

    assert found is None or found >= 0
