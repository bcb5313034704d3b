"""The queue's promise with real children: 16 clients, 4 models, room for 2, and nobody waits longer than they must."""

from __future__ import annotations

import random
import re
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from tests.conftest import DEADLINE
from tests.fifo import Call, Fifo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import RunningService

CLIENTS = {"busy": (6, 0.0, 0.03), "busy-too": (6, 0.0, 0.03), "seldom": (3, 1.0, 4.0), "rare": (1, 3.0, 6.0)}
"""How many clients each model has, and how long they think: at least, and at most."""
PLACES = 2
TOKENS = 150
"""Of each answer: enough that a busy model is never idle."""
LOAD = 0.5
"""Seconds that are added to a load, by a hook: tiny models are there before anybody has to wait."""
NOISE = 0.5
"""Seconds for what a busy machine does to all that is measured here."""


class Asked(NamedTuple):
    """A request as its client saw it, and how much of that its model's server took."""

    number: str
    client: int
    model: str
    pause: float
    seconds: float
    work: float = 0.0

    @property
    def wait(self) -> float:
        return max(0.0, self.seconds - self.work)


@pytest.mark.parametrize(
    ("seconds", "max_wait", "server"),
    [
        pytest.param(20, 3.0, "", id="short"),
        pytest.param(20, 3.0, 'min_residency = "1h"', id="short-greedy"),
        pytest.param(300, 3.0, "", marks=pytest.mark.slow, id="long"),
        pytest.param(300, 3.0, 'min_residency = "1h"', marks=pytest.mark.slow, id="long-greedy"),
    ],
)
def test_nobody_waits_longer_than_promised(
    start: Callable[..., RunningService], tiny: Path, seconds: float, max_wait: float, server: str
) -> None:
    """At most `max_wait`, one load and what is in flight: also for a model that hardly anybody asks for.

    "Greedy" models would keep their places for as long as they are asked for; only `max_wait` ends that.
    """
    service = start(config(tiny, max_wait, server))
    asked = load_of(service, seconds)
    loads = [LOAD + float(found) for found in re.findall(r"is ready after ([\d.]+) s", log(service))]
    longest = max(each.work for each in asked)
    promise = max_wait + max(loads)
    sys.stdout.write(report(asked, loads, seconds, promise))

    assert {each.model for each in asked} == set(CLIENTS)
    assert max(each.wait for each in asked) <= promise + longest + NOISE


def report(asked: list[Asked], loads: list[float], seconds: float, promise: float) -> str:
    """Ours beside first come, first served, for the same clients."""
    clients = sorted({each.client for each in asked})
    calls = [[Call(each.pause, each.model, each.work) for each in asked if each.client == client] for client in clients]
    load = statistics.mean(loads)
    fifo = Fifo(calls, PLACES, load).run(seconds)
    lines = [f"promise {promise:.1f} s, load {load:.2f} s, longest request {max(each.work for each in asked):.2f} s"]
    lines.append(row("ours", [each.wait for each in asked], f"{len(loads)} loads"))
    lines.append(row("first come", fifo.waits, f"{fifo.loads} loads"))
    lines += [row(model, [each.wait for each in asked if each.model == model], "") for model in CLIENTS]
    return "\n" + "\n".join(lines) + "\n"


def row(name: str, waits: list[float], loads: str) -> str:
    spread = f"{statistics.median(waits):.2f} median, {statistics.mean(waits):.2f} mean, {max(waits):.2f} worst"
    return f"{name:>11}: {len(waits):5} answers, {loads:10} waits {spread}"


def load_of(service: RunningService, seconds: float) -> list[Asked]:
    """What closed-loop clients see while they ask for so long."""
    numbers, end = count(), time.monotonic() + seconds
    asked: list[Asked] = []
    lock = threading.Lock()

    def client(place: int, model: str, least: float, most: float) -> None:
        chance = random.Random(place)
        idle = threading.Event()
        with httpx.Client(base_url=service.url, timeout=DEADLINE + seconds, trust_env=False) as http:
            while time.monotonic() < end:
                pause = chance.uniform(least, most)
                idle.wait(pause)
                with lock:
                    number = f"r{next(numbers)}"
                body: dict[str, Any] = {
                    "model": model,
                    "messages": [{"role": "user", "content": "hi"}],
                    "max_tokens": TOKENS,
                    "ignore_eos": True,
                }
                begun = time.monotonic()
                answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": number})
                took = time.monotonic() - begun
                assert answer.status_code == httpx.codes.OK, answer.text
                with lock:
                    asked.append(Asked(number, place, model, pause, took))

    whole = [(model, least, most) for model, (clients, least, most) in CLIENTS.items() for _ in range(clients)]
    with ThreadPoolExecutor(len(whole)) as threads:
        for future in [threads.submit(client, place, *each) for place, each in enumerate(whole)]:
            future.result()
    work = work_of(service)
    return [each._replace(work=work[each.number]) for each in asked]


def work_of(service: RunningService) -> dict[str, float]:
    """Seconds that models' servers took, by the ids of requests."""
    found: dict[str, float] = {}
    with service.http as http:
        for page in count(1):
            rows = http.get("/api/metrics/activity", params={"limit": 999, "page": page}).json()["data"]
            if not rows:
                return found
            found |= {row["request_id"]: (row["duration_ms"] - row["wait_ms"]) / 1000 for row in rows}
    raise AssertionError


def log(service: RunningService) -> str:
    return (service.directory / "service.log").read_text()


def config(tiny: Path, max_wait: float, server: str) -> str:
    models = "\n".join(f"[models.{name}]" for name in CLIENTS)
    return f"""
        [server]
        max_loaded = {PLACES}
        max_wait = {max_wait}
        metrics_max_in_memory = 100000
        {server}
        [defaults]
        model = "{tiny}/tiny-a.gguf"
        ctx-size = 4096
        fit = "off"
        threads = 1
        [defaults.hooks]
        before_load = ["sleep", "{LOAD}"]
        {models}
    """


# Plain swapping, worked out.


def test_first_come_first_served() -> None:
    """One place, two models: each change is a load, and everybody waits for it."""
    calls = [[Call(0.0, "a", 1.0), Call(0.0, "a", 1.0)], [Call(0.5, "b", 1.0)]]
    fifo = Fifo(calls, places=1, load=2.0).run(100.0)

    assert fifo.loads == 3
    assert fifo.waits == [2.0, 4.5, 5.0]
