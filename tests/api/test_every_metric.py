"""Every metric that is documented is alive: something that really happens gives it a value."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from supervisor.record import metrics
from supervisor.record.metrics import ALL, Gauges
from supervisor.record.samples import GpuSample, Samples
from tests.conftest import RunningService, eventually
from tests.proxy.conftest import Child, fake_cmd, http_to
from tests.record.test_metrics import HOST

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 25, "completion_tokens": 4}
TIMINGS = {
    **{"prompt_n": 5, "cache_n": 20, "predicted_n": 4, "draft_n": 3, "draft_n_accepted": 2},
    **{"prompt_per_second": 90.0, "predicted_per_second": 40.0},
}


def ask(service: RunningService, model: str, do: str, **headers: str) -> int:
    with http_to(service.url) as http:
        body = {"model": model, "stream": do == "sse", "usage": USAGE, "timings": TIMINGS}
        return http.post(CHAT, json=body, headers={"x-do": do, **headers}).status_code


def alive(service: RunningService) -> set[str]:
    """Metrics that have a sample now."""
    with http_to(service.url) as http:
        families = list(text_string_to_metric_families(http.get("/metrics").text))
    names = {family.name + "_total" * (family.type == "counter") for family in families if family.samples}
    return names & {each.name for each in ALL}


def test_every_metric_is_alive(start: Callable[..., RunningService], tiny: Path) -> None:
    """One service in which all of it happens: answers, errors, a queue, a swap, a failure, a child with metrics."""
    service = start(
        f"""
        [server]
        max_loaded = 1
        [models.fake]
        cmd = {fake_cmd()}
        [models.broken]
        cmd = {fake_cmd("--exit-with", "3")}
        [models.real]
        model = "{tiny}/tiny-a.gguf"
        ctx-size = 256
        metrics = true
        """
    )
    assert ask(service, "broken", "mirror") == 503
    assert ask(service, "fake", "mirror") == 200
    child = Child(service, "fake")
    child.go("open")
    assert ask(service, "fake", "sse", **{"x-name": "open"}) == 200
    found: set[str] = set()

    def has_come(*wanted: metrics.Described) -> bool:
        found.update(alive(service))
        return found >= {each.name for each in wanted}

    held = threading.Thread(target=ask, args=(service, "fake", "hold"), kwargs={"x-name": "held"})
    held.start()
    eventually(lambda: has_come(metrics.IN_FLIGHT))
    swapped = threading.Thread(target=service.chat, args=("real",))
    swapped.start()
    eventually(lambda: has_come(metrics.WAITING, metrics.CORE))
    child.go("held")
    held.join()
    swapped.join()
    eventually(lambda: has_come(metrics.EVICTIONS, metrics.SCRAPED))

    assert found == {each.name for each in ALL} - gpus()


def gpus() -> set[str]:
    """What only a machine with a GPU has; all of it, when a GPU tells everything."""
    samples, gauges = Samples(every=5), Gauges()
    everything = {field: 1 for field in GpuSample.__annotations__ if field not in {"name", "uuid", "vendor"}}
    samples.add(HOST, [GpuSample(name="", **everything)])
    samples.tell(gauges)
    named = {each.name for each in gauges.numbers if each.name.startswith("llamaswap_gpu_")}
    assert named == {each.name for each in ALL if each.name.startswith("llamaswap_gpu_")}
    return named
