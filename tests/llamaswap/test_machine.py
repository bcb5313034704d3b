"""How the machine fares (spec: llama-swap.md, 1.13, 1.14): metrics, samples, and what it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.llamaswap.conftest import Swap, running_swap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GAUGES = {
    *("llamaswap_cpu_util_percent", "llamaswap_load_average", "llamaswap_network_bytes_total"),
    *(f"llamaswap_memory_{kind}_bytes" for kind in ("total", "used", "free")),
    *(f"llamaswap_swap_{kind}_bytes" for kind in ("total", "used")),
}
SAMPLE = {
    *("timestamp", "cpu_util_per_core", "mem_total_mb", "mem_used_mb", "mem_free_mb", "swap_total_mb", "swap_used_mb"),
    *("load_avg_1", "load_avg_5", "load_avg_15", "net_io"),
}


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("machine"), 'models: {m: {cmd: "<child>"}}') as swap:
        eventually(lambda: swap.get("/api/performance").json()["sys_stats"])
        yield swap


def test_metrics(swap: Swap) -> None:
    """1.13: the machine's gauges by llama-swap's names and labels, of the last sample."""
    response = swap.get("/metrics")
    found = re.findall(r"^(llamaswap_\w+)(?:\{(.*)\})? ", response.text, re.MULTILINE)
    labels = {name: {label.partition("=")[0] for label in text.split(",") if label} for name, text in found}

    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert labels.keys() >= GAUGES
    assert labels["llamaswap_cpu_util_percent"] == {"core"}
    assert labels["llamaswap_load_average"] == {"interval"}
    assert labels["llamaswap_network_bytes_total"] == {"interface", "direction"}
    assert {f'interval="{minutes}m"' for minutes in (1, 5, 15)} <= {text for _, text in found}


def test_performance(swap: Swap) -> None:
    """1.14: samples of the host, and of GPUs where there are some; `after` leaves out what is not newer."""
    told = swap.get("/api/performance").json()
    newest = told["sys_stats"][-1]

    assert told.keys() == {"enabled", "gpu_stats", "sys_stats"}
    assert told["enabled"] is True
    assert newest.keys() == SAMPLE
    assert all(each.keys() == {"name", "bytes_recv", "bytes_sent"} for each in newest["net_io"])
    assert swap.get("/api/performance", params={"after": "2099-01-01T00:00:00Z"}).json()["sys_stats"] == []
    assert newest in swap.get("/api/performance", params={"after": "2000-01-01T00:00:00Z"}).json()["sys_stats"]


def test_wrong_time(swap: Swap) -> None:
    """1.3, 1.14: what is no time is a 400."""
    assert swap.get("/api/performance?after=soon").status_code == 400


def test_hardware(swap: Swap) -> None:
    """1.14: a snapshot of what the machine is; what is not known is null."""
    told = swap.get("/api/hardware").json()

    assert told["schema_version"] == 1
    assert told["capture"].items() >= {"scope": "inference_host", "method": "detected"}.items()
    assert told.keys() >= {"captured_at", "architecture", "operating_system", "environment", "cpu", "memory"}
    assert told["architecture"].keys() == {"name", "raw_name"}
    assert told["operating_system"].keys() == {"family", "name", "version", "kernel"}
    assert told["environment"].keys() == {"kind", "name", "version"}
    assert told["cpu"]["logical_thread_count"] >= 1
    assert told["memory"]["capacity_bytes"] > 0
    assert isinstance(told["accelerators"], list)


def test_nobody_watches(start_swap: Callable[..., Swap]) -> None:
    """1.3, 1.14: with `performance.disabled` there are no samples: 503; on purpose the other metrics are there."""
    swap = start_swap('performance: {disabled: true}\nmodels: {m: {cmd: "<child>"}}')
    response = swap.get("/api/performance")

    assert (response.status_code, response.json()["enabled"]) == (503, False)
    assert "llamaswap_cpu_util_percent" not in swap.get("/metrics").text
