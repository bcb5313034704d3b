"""Metrics as text: ours, and those of children with the model's name on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from supervisor.record.metrics import Described, Kind, Spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from supervisor.record.metrics import Labels, Numbers

LABEL = "model"
RESERVED = ("llama_supervise_", "llamaswap_")
"""How our own names begin; a child must not have such."""
MOST_SAMPLES = 5000
"""Of one child."""


class Malformed(ValueError):
    """Raised when what a child gives is no list of metrics."""


@dataclass(slots=True)
class Families:
    """Families of metrics by name: each is told once, with the samples of all who have it."""

    _by_name: dict[str, Metric] = field(default_factory=dict)

    def add(self, families: Iterable[Metric]) -> None:
        """Samples of a family that is there already join it, unless it is of another kind."""
        for family in families:
            known = self._by_name.get(family.name)
            if known is None:
                known = self._by_name[family.name] = Metric(family.name, family.documentation, family.type)
            if known.type == family.type:
                known.samples += [each for each in family.samples if not each.name.endswith("_created")]

    def collect(self) -> Iterator[Metric]:
        yield from self._by_name.values()

    def text(self) -> bytes:
        """All of them in the format of Prometheus."""
        return generate_latest(self)  # it calls `collect`, and nothing else


def families_of(numbers: Numbers) -> Iterator[Metric]:
    """Our metrics as Prometheus' library has them; one that has no value yet is told, too."""
    for told, values in numbers.items():
        yield _family(told, values)


def own_process() -> Iterator[Metric]:
    """What the kernel says of our own process."""
    registry = CollectorRegistry()
    ProcessCollector(namespace=RESERVED[0].rstrip("_"), registry=registry)
    return iter(registry.collect())


def _family(told: Described, values: Mapping[Labels, float | Spread]) -> Metric:
    if told.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(told.name, told.help, labels=told.labels)
        for labels, spread in sorted(values.items()):
            assert isinstance(spread, Spread)
            histogram.add_metric(labels, _buckets(spread), spread.sum)
        return histogram
    make = CounterMetricFamily if told.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(told.name, told.help, labels=told.labels)
    for labels, value in sorted(values.items()):
        assert not isinstance(value, Spread)
        family.add_metric(labels, value)
    return family


def _buckets(spread: Spread) -> list[tuple[str, float]]:
    """Each with all that is below it."""
    ends = [*(f"{float(limit)}" for limit in spread.limits), "+Inf"]
    return list(zip(ends, accumulate(spread.counts), strict=True))


def of_child(text: str, model: str) -> list[Metric]:
    """A child's metrics with its model's name; raises `Malformed`."""
    families, count = [], 0
    try:
        for family in text_string_to_metric_families(text):
            count += len(family.samples)
            if count > MOST_SAMPLES:
                raise Malformed(f"more than {MOST_SAMPLES} samples")
            if not family.name.startswith(RESERVED):
                families.append(_labelled(family, model, text))
    except (ValueError, IndexError, KeyError, TypeError) as exc:  # what the parser says is not always its own
        raise Malformed(str(exc) or "it cannot be read") from exc
    return families


def _labelled(family: Metric, model: str, text: str) -> Metric:
    # The parser renames a counter that is none by its name, as llama-server has one; here it keeps its name.
    is_renamed = family.type == "counter" and f"{family.name}_total" not in text
    named = Metric(family.name, family.documentation, "unknown" if is_renamed else family.type)
    named.samples = [
        Sample(
            each.name.removesuffix("_total") if is_renamed else each.name,
            _labels(each.labels, model),
            each.value,
            each.timestamp,
        )
        for each in family.samples
    ]
    return named


def _labels(labels: Mapping[str, str], model: str) -> dict[str, str]:
    """A label of the same name gives way, as it does to Prometheus' own."""
    kept = {f"exported_{name}" if name == LABEL else name: value for name, value in labels.items()}
    return {LABEL: model, **kept}
