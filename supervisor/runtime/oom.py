"""The kernel's own count of processes it killed for want of memory, nearest to us first.

Sources: cgroup-v2 `memory.events`, cgroup-v1 `memory.oom_control`, else `oom_kill` of the whole machine in
/proc/vmstat (Linux 4.13).
"""

from __future__ import annotations

from pathlib import Path


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many there have been; only a change means anything. None where the kernel does not tell."""
    for path in _counters(root):
        count = _count(path)
        if count is not None:
            return count
    return None


def _counters(root: Path) -> list[Path]:
    groups = dict(_groups(root))
    paths = []
    if "" in groups:
        paths.append(root / "sys/fs/cgroup" / groups[""] / "memory.events")
    if "memory" in groups:
        paths.append(root / "sys/fs/cgroup/memory" / groups["memory"] / "memory.oom_control")
    return [*paths, root / "proc/vmstat"]


def _groups(root: Path) -> list[tuple[str, str]]:
    """Our control groups by controller; the unified hierarchy has none in its name (cgroups(7))."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    parts = [line.split(":", 2) for line in lines]
    return [(controller, part[2].lstrip("/")) for part in parts if len(part) == 3 for controller in part[1].split(",")]


def _count(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
