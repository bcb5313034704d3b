"""Metrics: every one is documented, shown as Prometheus reads it, and children's stand beside them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from supervisor.api.records import exposition
from supervisor.config.values import Config, Model
from supervisor.errors import Failure
from supervisor.fleet.values import Fleet, Phase, Reason, Run, RunId
from supervisor.record import metrics
from supervisor.record.exposition import Malformed, of_child, own_process, text_of
from supervisor.record.fleet_watch import FleetWatch
from supervisor.record.metrics import ALL, Gauges, Kind, Metrics
from supervisor.record.rows import row_of
from supervisor.record.samples import GpuSample, HostSample, Samples
from tests.conftest import ROOT
from tests.record.test_activity import EVENTS, recorded

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

HOST = HostSample(1787390997.0, (12.5, 50.0), 1000, 400, 10, 5, (1.0, 2.0, 3.0), (("eth0", 7, 9),))
GPU = GpuSample(1787390997.0, 0, "Radeon", celsius=40.0, memory_used=3 * 1024**2, watts=12.5)


def script(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(ROOT / "scripts" / name)
    SourceFileLoader(name, module.__file__).exec_module(module)
    return module


def told(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(text.decode())
        for each in family.samples
    }


def test_every_metric_is_documented() -> None:
    """docs/metrics.md is what `scripts/metrics_table` writes, and has a row for each metric."""
    text = (ROOT / "docs" / "metrics.md").read_text()

    assert text == script("metrics_table").document()
    assert [each.name for each in ALL if f"| `{each.name}` |" not in text] == []


def test_nothing_else_is_told() -> None:
    """What /metrics tells is in the table, and everything of the table can be told."""
    counted, gauges = Metrics(), Gauges()
    for each in ALL:
        if each.kind is Kind.GAUGE or each in metrics.READ_ELSEWHERE:
            gauges.add(each, 1, *each.labels)
    names = re.findall(r"^# TYPE (\S+)", exposition(counted.numbers(), gauges, {}).decode(), re.M)
    own = {family.name + "_total" * (family.type == "counter") for family in own_process()}

    assert sorted(names) == sorted({each.name for each in ALL} | own)


def test_the_dashboard() -> None:
    """Every metric that the dashboard asks for is one of ours or of llama-server's."""
    text = (ROOT / "scripts" / "grafana.json").read_text()
    queries = [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", ())]
    asked = set(re.findall(r"\b(llama(?:_supervise|swap)_\w+)", " ".join(queries)))
    known = {each.name for each in ALL} | {
        f"{each.name}_{part}" for each in ALL if each.kind is Kind.HISTOGRAM for part in ("bucket", "sum", "count")
    }

    assert len(queries) > 10
    assert asked - known == set()


def test_our_own_text() -> None:
    """Ours are written as Prometheus' library writes them, whatever a model is called and however large a number is."""
    counted, gauges = Metrics(), Gauges()
    for name in ('o"d\\d\nm ✓', "plain"):
        gauges.add(metrics.STATE, 1, name, "ready")
        for seconds in (0.004, 0.005, 7, 5000):
            counted.loaded(name, seconds)
    for told, value in ((metrics.USED, 12_345_678_901.5), (metrics.FREE, 0), (metrics.TOTAL, 1e7)):
        gauges.add(told, value)
    numbers = {told: counted.numbers()[told] for told in (metrics.LOADS, metrics.LOAD, metrics.LOST)} | gauges.numbers
    ours = text_of(numbers, pause=lambda: None).decode()
    read = list(text_string_to_metric_families(ours))

    assert [family.documentation for family in read] == [told.help for told in numbers]
    assert sorted(ours.splitlines()) == sorted(generate_latest(Collected(read)).decode().splitlines())
    assert re.findall(r'le="(\S+)",model="plain"} (\d+)', ours)[::4] == [
        *(("0.005", "2"), ("0.1", "2"), ("2.5", "2"), ("60.0", "3"), ("+Inf", "4"))
    ]
    assert 'llama_supervise_load_seconds_sum{model="plain"} 5007.009' in ours


class Collected(Collector):
    """Families that have been read, for the library to write."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families


def test_children() -> None:
    """Two children's metrics are one family, told once, each with its model; a label of that name gives way."""
    text = '# HELP vllm:n N.\n# TYPE vllm:n gauge\nvllm:n{model="x",le="a\\"b"} 1\n'
    found = told(exposition({}, Gauges(), {"a": text, "b": text}))

    assert found["vllm:n", (("exported_model", "x"), ("le", 'a"b'), ("model", "a"))] == 1
    assert found["vllm:n", (("exported_model", "x"), ("le", 'a"b'), ("model", "b"))] == 1
    assert exposition({}, Gauges(), {"a": text, "b": text}).count(b"# TYPE vllm:n") == 1


def test_odd_children() -> None:
    """One that talks nonsense, or in our name, is left out and told to be; the others are there."""
    texts = {
        "good": "x_total 1\n",
        "bad": "}{ no metrics at all\n",
        "long": "\n".join(f'y{{n="{n}"}} 1' for n in range(6000)),
        "liar": "llama_supervise_requests_total 666\n",
        "mute": None,
    }
    text = exposition(Metrics().numbers(), Gauges(), texts)
    found = told(text)
    up = {labels[0][1]: value for (name, labels), value in found.items() if name == metrics.SCRAPED.name}

    assert up == {"good": 1, "bad": 0, "long": 0, "liar": 1, "mute": 0}
    assert b"666" not in text
    assert any(name == "x_total" for name, _ in found)
    with pytest.raises(Malformed):
        of_child("x{", "m")


def page(**texts: str) -> str:
    """What is told of children that say this, read back, with nothing told twice."""
    text = exposition({}, Gauges(), texts)
    lines = text.decode().splitlines()
    heads = [line.split()[1:3] for line in lines if line.startswith("#")]
    assert [head for head in heads if heads.count(head) > 1] == []
    samples = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert [sample for sample in samples if samples.count(sample) > 1] == []
    assert len(told(text)) == len(samples)
    return "\n".join(line for line in lines if "llama_supervise" not in line)


def test_builds_that_call_it_otherwise() -> None:
    """One build's counter is another's gauge: the samples of both are told, as neither."""
    assert page(
        a="# HELP n_total All.\n# TYPE n_total counter\nn_total 7\n", b="# TYPE n_total gauge\nn_total 8\n"
    ) == ('# HELP n_total All.\n# TYPE n_total untyped\nn_total{model="a"} 7.0\nn_total{model="b"} 8.0')


@pytest.mark.parametrize(
    "other", ["# TYPE h_count counter\nh_count 7\n", "# TYPE h gauge\nh 7\n", "# TYPE h summary\nh_sum 7\n"]
)
def test_names_that_another_has(other: str) -> None:
    """Who comes first keeps a name, with those of its parts; what cannot be told beside it is left out."""
    spread = '# TYPE h histogram\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\n'

    assert page(a=spread, b=other) == page(a=spread)
    assert 'h_count{model="a"} 2.0' in page(a=spread)


def test_a_child_that_says_it_twice() -> None:
    """The first one holds, as it does for Prometheus; labels with other values are other samples."""
    assert page(a='x{n="1"} 1\nx{n="1"} 2\nx{n="2"} 3\n').splitlines()[2:] == [
        'x{model="a",n="1"} 1.0',
        'x{model="a",n="2"} 3.0',
    ]


def test_odd_names() -> None:
    """What may stand between quotes is told so that every Prometheus reads it; nobody speaks in our name that way."""
    text = '{"a.b", "l.m"="x"} 1\n{"1st"} 2\n{"llamaswap.cpu"} 3\n'

    assert [line for line in page(m=text).splitlines() if line[0] != "#"] == [
        'a_b{l_m="x",model="m"} 1.0',
        '_1st{model="m"} 2.0',
    ]


def test_odd_models() -> None:
    """A model may be called anything; values keep what is not a number, and the time they are of."""
    name = 'o"d\\d\nm ✓'
    text = "x NaN\ny +Inf 1700000000000\n"
    lines = page(**{name: text}).splitlines()

    assert 'x{model="o\\"d\\\\d\\nm ✓"} NaN' in lines
    assert 'y{model="o\\"d\\\\d\\nm ✓"} +Inf 1700000000000' in lines
    assert ("y", (("model", name),)) in told(exposition({}, Gauges(), {name: text}))


def test_a_counter_without_total() -> None:
    """llama-server calls something a counter that is none by its name; its value is told under its own name."""
    text = "# TYPE llamacpp:n_tokens_max counter\nllamacpp:n_tokens_max 7\n"

    assert told(exposition({}, Gauges(), {"a": text}))["llamacpp:n_tokens_max", (("model", "a"),)] == 7


@pytest.mark.parametrize(("seconds", "speeds"), [(2.0, [8.0]), (0.001, [])])
def test_the_speed_of_a_stream(seconds: float, speeds: list[float]) -> None:
    """Without a server's own measure it is seen from outside, and not where all of the answer came at once."""
    recording = recorded(EVENTS, [b'data: {"usage": {"completion_tokens": 17}}\n\n'], is_stream=True)
    assert recording.first_at is not None
    recording.ended_at = recording.first_at + seconds
    counted = Metrics()
    counted.ended(recording, row_of(recording))

    spreads: Any = counted.numbers()[metrics.GENERATION]
    assert [spread.sum for spread in spreads.values()] == speeds


def run(number: int, phase: Phase, *, retiring: Reason | None = None) -> Run:
    return Run(RunId(number), Model("m"), phase, 0.0, 0.0, retiring=retiring)


def test_the_life_of_a_model() -> None:
    """A load, an eviction and a failure are each counted once, however often the fleet is looked at."""
    counted = Metrics()
    watch = FleetWatch(counted, lambda _: 2.5)
    failure = Failure("1", "m", "out_of_memory", "", "", "loading", "")
    again = replace(failure, id="2")
    fleet = Fleet(Config(Path("/")))
    lives: list[tuple[tuple[Run, ...], dict[str, Failure]]] = [
        ((run(1, Phase.STARTING),), {}),
        ((run(1, Phase.READY),), {}),
        ((run(1, Phase.STOPPING, retiring=Reason.EVICTED),), {}),
        ((), {}),
        ((run(2, Phase.STARTING),), {}),
        ((), {"m": failure}),
        ((run(3, Phase.STARTING),), {"m": failure}),
        ((), {"m": again}),
        ((run(4, Phase.READY),), {}),
        ((run(4, Phase.STOPPING, retiring=Reason.IDLE),), {}),
        ((), {}),
    ]
    for runs, failures in lives:
        for _ in range(2):
            watch.changed(replace(fleet, runs=runs, failures=failures))
    numbers: Any = counted.numbers()

    assert numbers[metrics.LOADS] == {("m",): 2}
    assert numbers[metrics.LOAD]["m",].sum == 5.0
    assert numbers[metrics.EVICTIONS] == {("m",): 1}
    assert numbers[metrics.FAILURES] == {("m", "out_of_memory"): 2}


def test_samples() -> None:
    """The last hour is kept, told as llama-swap's page reads it; the newest is metrics, without what is unknown."""
    samples, gauges = Samples(every=1800), Gauges()
    samples.tell(gauges)
    assert gauges.numbers == {}
    for second in range(3):
        samples.add(replace(HOST, at=HOST.at + second), [replace(GPU, at=GPU.at + second)])
    told = samples.as_json()
    samples.tell(gauges)

    assert isinstance(told["sys_stats"], list)
    assert len(told["sys_stats"]) == 2
    assert len(samples.as_json(after=HOST.at + 1)["sys_stats"]) == 1  # type: ignore[arg-type]
    assert told["gpu_stats"][0]["mem_used_mb"] == 3  # type: ignore[index]
    assert told["gpu_stats"][0]["fan_speed_pct"] == 0  # type: ignore[index]
    assert gauges.numbers[metrics.GPU_HEAT] == {("0", "Radeon", ""): 40.0}
    assert metrics.GPU_FAN not in gauges.numbers
    assert gauges.numbers[metrics.NETWORK] == {("eth0", "recv"): 7, ("eth0", "sent"): 9}
