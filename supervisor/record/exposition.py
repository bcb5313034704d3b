"""Metrics as text: ours, and those of children with the model's name on them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from supervisor.record.metrics import Spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from supervisor.record.metrics import Described, Labels, Numbers

LABEL = "model"
RESERVED = ("llama_supervise_", "llamaswap_")
"""How our own names begin; a child must not have such."""
MOST_SAMPLES = 5000
"""Of one child."""
BETWEEN_PAUSES = 64
"""Values of a metric."""

_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
"""What the samples of a family are called that has several values each."""
_TYPED = re.compile(r'^#\s*TYPE\s+"?([^\s"]+)', re.M)
_ODD = re.compile(r"[^a-zA-Z0-9_:]|^(?=[0-9])")
"""What names of metrics do not have in the format we write."""


class Malformed(ValueError):
    """Raised when what a child gives is no list of metrics."""


@dataclass(slots=True)
class Families:
    """Families of metrics by the names they are shown under: each is told once, with the samples of all who have it."""

    _shown: dict[str, Metric] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)
    """Which family has a name, for itself or for its samples: no other may have it."""
    _samples: set[tuple[str, frozenset[tuple[str, str]]]] = field(default_factory=set)

    def add(self, families: Iterable[Metric]) -> None:
        """Samples of a family that is there already join it, if they can; who comes first keeps a name."""
        for family in families:
            shown = _shown_name(family)
            names = {shown, *(shown + suffix for suffix in _PARTS.get(family.type, ()))}
            if all(self._owners.setdefault(name, shown) == shown for name in names):
                self._join(self._shown.setdefault(shown, _empty(family)), family, shown)

    def _join(self, known: Metric, family: Metric, shown: str) -> None:
        if known.type != family.type:
            if _PARTS.keys() & {known.type, family.type}:
                return
            known.name, known.type = shown, "unknown"  # builds of a server call the same thing this and that
        for each in family.samples:
            key = (each.name, frozenset(each.labels.items()))
            if key not in self._samples:
                self._samples.add(key)
                known.samples.append(each)

    def collect(self) -> Iterator[Metric]:
        yield from self._shown.values()

    def text(self) -> bytes:
        """All of them in the format of Prometheus."""
        return generate_latest(self)  # it calls `collect`, and nothing else


def _shown_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _empty(family: Metric) -> Metric:
    return Metric(family.name, family.documentation, family.type)


def text_of(numbers: Numbers, *, pause: Callable[[], None]) -> bytes:
    """Our metrics in the format of Prometheus; one that has no value yet is told, too.

    For a thousand models these are a hundred thousand lines, which its library takes more than a second to write.
    Whoever else has something to do may do it in each `pause`.
    """
    return b"".join("".join(_told(told, values, pause)).encode() for told, values in numbers.items())


def _told(told: Described, values: Mapping[Labels, float | Spread], pause: Callable[[], None]) -> Iterator[str]:
    yield f"# HELP {told.name} {told.help}\n# TYPE {told.name} {told.kind.value}\n"
    for number, (labels, value) in enumerate(sorted(values.items()), 1):
        shown = _shown_labels(told.labels, labels)
        if isinstance(value, Spread):
            yield _histogram(told.name, shown, value)
        else:
            yield f"{told.name}{f'{{{shown}}}' if shown else ''} {_number(value)}\n"
        if number % BETWEEN_PAUSES == 0:
            pause()


def _histogram(name: str, labels: str, spread: Spread) -> str:
    """Each bucket with all that is below it."""
    counts = list(accumulate(spread.counts))
    start, end = f'{name}_bucket{{le="', f'",{labels}}} '
    buckets = [f"{start}{limit}{end}{count}.0\n" for limit, count in zip(_ends(spread.limits), counts, strict=True)]
    rest = f"{name}_count{{{labels}}} {counts[-1]}.0\n{name}_sum{{{labels}}} {_number(spread.sum)}\n"
    return "".join(buckets) + rest


@lru_cache(32)
def _ends(limits: tuple[float, ...]) -> tuple[str, ...]:
    return (*(str(float(limit)) for limit in limits), "+Inf")


@lru_cache(8192)  # most stand on dozens of lines
def _shown_labels(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(zip(names, values, strict=True)))


def _number(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # it has no annotations
    return text


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def own_process() -> Iterator[Metric]:
    """What the kernel says of our own process."""
    registry = CollectorRegistry()
    ProcessCollector(namespace=RESERVED[0].rstrip("_"), registry=registry)
    return iter(registry.collect())


def of_child(text: str, model: str) -> list[Metric]:
    """A child's metrics with its model's name; raises `Malformed`."""
    families, count = [], 0
    typed = frozenset(_TYPED.findall(text))
    try:
        for family in text_string_to_metric_families(text):
            count += len(family.samples)
            if count > MOST_SAMPLES:
                raise Malformed(f"more than {MOST_SAMPLES} samples")
            # The parser renames a counter that is none by its name, as llama-server has one; here it keeps its name.
            is_renamed = family.type == "counter" and f"{family.name}_total" not in typed
            families.append(_labelled(family, model, is_renamed=is_renamed))
    except (ValueError, IndexError, KeyError, TypeError) as exc:  # what the parser says is not always its own
        raise Malformed(str(exc) or "it cannot be read") from exc
    return [family for family in families if not family.name.startswith(RESERVED)]


def _labelled(family: Metric, model: str, *, is_renamed: bool) -> Metric:
    named = Metric(_plain(family.name), family.documentation, "unknown" if is_renamed else family.type)
    named.samples = [
        Sample(
            _plain(each.name.removesuffix("_total") if is_renamed else each.name),
            _labels(each.labels, model),
            each.value,
            each.timestamp,
        )
        for each in family.samples
    ]
    return named


def _plain(name: str) -> str:
    """A name as every Prometheus reads it."""
    return _ODD.sub("_", name)


def _labels(labels: Mapping[str, str], model: str) -> dict[str, str]:
    """A label of the same name gives way, as it does to Prometheus' own."""
    kept = {f"exported_{name}" if name == LABEL else _plain(name): value for name, value in labels.items()}
    return {LABEL: model, **kept}
