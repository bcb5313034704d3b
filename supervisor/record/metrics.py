"""What is counted and measured, for Prometheus. Counts live as long as the service, whatever is reloaded meanwhile.

Requests are counted by the thread that keeps the record, after they have ended; what is true at the moment is read
when somebody asks. These are plain numbers; `exposition` knows how Prometheus wants them, and its library, which takes
longer to import than the service to start.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from supervisor.errors import ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.record.ended import Ended
    from supervisor.record.rows import Row

UNKNOWN = "(unknown)"
"""Stands for every model that there is not: strangers must not invent time series."""
SHORTEST = 0.02
"""Seconds of a stream in which a speed can be seen: one that comes at once, held back on its way, has none."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_GENERATED = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000)
_READ = (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000)


class Kind(Enum):
    """How Prometheus calls them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, eq=False)  # each is there once, and is looked up many times for each request
class Described:
    """One metric of ours."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _ours(name: str, kind: Kind, text: str, *labels: str, buckets: tuple[float, ...] = ()) -> Described:
    return Described(f"llama_supervise_{name}", kind, text, labels, buckets)


def _theirs(name: str, text: str, *labels: str, kind: Kind = Kind.GAUGE) -> Described:
    return Described(f"llamaswap_{name}", kind, text, labels)


REQUESTS = _ours(
    "requests_total", Kind.COUNTER, "Requests that have ended, by the status of the answer.", "model", "code"
)
ERRORS = _ours("errors_total", Kind.COUNTER, "Requests that we answered with an error, by its code.", "model", "cause")
READ = _ours(
    "prompt_tokens_total",
    Kind.COUNTER,
    "Tokens of prompts as answers count them: in a llama-server's timings and in Anthropic's API without those that"
    " were in the cache, in OpenAI's `usage` with them.",
    "model",
)
CACHED = _ours("cached_tokens_total", Kind.COUNTER, "Tokens of prompts that were in the cache.", "model")
WRITTEN = _ours("generated_tokens_total", Kind.COUNTER, "Tokens of answers.", "model")
DRAFTED = _ours("draft_tokens_total", Kind.COUNTER, "Tokens drafted by speculative decoding.", "model")
ACCEPTED = _ours("draft_tokens_accepted_total", Kind.COUNTER, "Drafted tokens that were accepted.", "model")
DURATION = _ours(
    "request_duration_seconds", Kind.HISTOGRAM, "From a request to the end of its answer.", "model", buckets=_SECONDS
)
FIRST_TOKEN = _ours(
    "time_to_first_token_seconds",
    Kind.HISTOGRAM,
    "From a request to the first byte of a streamed answer, waiting and loading included.",
    "model",
    buckets=_SECONDS,
)
WAIT = _ours(
    "queue_wait_seconds",
    Kind.HISTOGRAM,
    "From a request until its model is asked: a free slot, a swap, a load.",
    "model",
    buckets=_SECONDS,
)
GENERATION = _ours(
    "generation_tokens_per_second",
    Kind.HISTOGRAM,
    "Speed of an answer: as its server tells it, else its tokens by the time from its first byte to its end.",
    "model",
    buckets=_GENERATED,
)
READING = _ours(
    "prompt_tokens_per_second",
    Kind.HISTOGRAM,
    "Speed of reading a prompt, as its server tells it.",
    "model",
    buckets=_READ,
)
LOADS = _ours("loads_total", Kind.COUNTER, "Starts that made a model ready.", "model")
LOAD = _ours(
    "load_seconds", Kind.HISTOGRAM, "From the decision to start a model until it was ready.", "model", buckets=_SECONDS
)
EVICTIONS = _ours("evictions_total", Kind.COUNTER, "Times a model had to leave to make room for another one.", "model")
FAILURES = _ours(
    "failures_total",
    Kind.COUNTER,
    "Starts that failed and children that died, by cause (failures.md).",
    "model",
    "cause",
)
LOST = _ours("activity_rows_lost_total", Kind.COUNTER, "Requests that could not be recorded.")

BUILD = _ours("build_info", Kind.GAUGE, "1; the version is its label.", "version")
IN_FLIGHT = _ours("requests_in_flight", Kind.GAUGE, "Requests that are being served, waiting ones included.", "model")
WAITING = _ours("requests_waiting", Kind.GAUGE, "Requests in the queue.", "model")
STATE = _ours(
    "model_state", Kind.GAUGE, "1 for every model that has a process: starting, ready or stopping.", "model", "state"
)
RESIDENT = _ours(
    "model_resident_bytes", Kind.GAUGE, "Main memory of a model's process, mapped files included.", "model"
)
MEMORY = _ours(
    "model_memory_bytes",
    Kind.GAUGE,
    "Memory that a running model takes, by device: estimated until it has been measured.",
    "model",
    "device",
)
SCRAPED = _ours("model_metrics_up", Kind.GAUGE, "Whether a ready model gave its own metrics: 1 or 0.", "model")

CORE = _theirs("cpu_util_percent", "Use of a processor core.", "core")
TOTAL = _theirs("memory_total_bytes", "Main memory.")
USED = _theirs("memory_used_bytes", "Main memory in use.")
FREE = _theirs("memory_free_bytes", "Main memory that is free or could be.")
SWAP_TOTAL = _theirs("swap_total_bytes", "Swap space.")
SWAP_USED = _theirs("swap_used_bytes", "Swap space in use.")
LOAD_AVERAGE = _theirs("load_average", "Processes that run or want to.", "interval")
NETWORK = _theirs("network_bytes_total", "Bytes over a network interface.", "interface", "direction", kind=Kind.COUNTER)
_GPU = ("id", "name", "uuid")
GPU_HEAT = _theirs("gpu_temperature_celsius", "Temperature of a GPU.", *_GPU)
GPU_MEMORY_HEAT = _theirs("gpu_vram_temperature_celsius", "Temperature of its memory.", *_GPU)
GPU_BUSY = _theirs("gpu_util_percent", "Share of the time in which it was busy.", *_GPU)
GPU_MEMORY_BUSY = _theirs("gpu_memory_util_percent", "Share of the time in which its memory was busy.", *_GPU)
GPU_USED = _theirs("gpu_memory_used_bytes", "Its memory in use.", *_GPU)
GPU_TOTAL = _theirs("gpu_memory_total_bytes", "Its memory.", *_GPU)
GPU_FAN = _theirs("gpu_fan_speed_percent", "Speed of its fan.", *_GPU)
GPU_POWER = _theirs("gpu_power_draw_watts", "Power it draws.", *_GPU)

ALL: tuple[Described, ...] = tuple(each for each in list(globals().values()) if isinstance(each, Described))
"""Every metric of ours, in the order of their definitions."""
READ_ELSEWHERE = frozenset({NETWORK})
"""Counters that others count."""


@dataclass(slots=True)
class Spread:
    """A histogram's counts."""

    limits: tuple[float, ...]
    """The upper ends of its buckets; there is one more, without an end."""
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.limits) + 1)

    def observe(self, value: float) -> None:
        """One more value."""
        self.counts[bisect_left(self.limits, value)] += 1
        self.sum += value


Labels: TypeAlias = tuple[str, ...]
Numbers: TypeAlias = "Mapping[Described, Mapping[Labels, float | Spread]]"
"""Values of metrics by their labels, in the order of the metric's."""


class Metrics:
    """What has been counted. Each metric is for one thread to count, and for any to read."""

    def __init__(self) -> None:
        self._counts: dict[Described, defaultdict[Labels, float]] = {
            told: defaultdict(float) for told in ALL if told.kind is Kind.COUNTER and told not in READ_ELSEWHERE
        }
        self._spreads: dict[Described, dict[Labels, Spread]] = {told: {} for told in ALL if told.kind is Kind.HISTOGRAM}
        self._counts[LOST][()] = 0

    def numbers(self) -> Numbers:
        """All of it, as it is now."""
        counted: dict[Described, Mapping[Labels, float | Spread]] = {}
        for told, counts in self._counts.items():
            counted[told] = dict(counts)
        for told, spreads in self._spreads.items():
            counted[told] = dict(spreads)
        return counted

    def _observe(self, told: Described, model: str, value: float) -> None:
        spreads = self._spreads[told]
        spread = spreads.get((model,))
        if spread is None:
            spread = spreads[model,] = Spread(told.buckets)
        spread.observe(value)

    # What others tell.

    def ended(self, request: Ended, row: Row) -> None:
        """A request has ended."""
        model = UNKNOWN if row.cause == ModelNotFound.code else row.model
        self._counts[REQUESTS][model, str(row.resp_status_code)] += 1
        if row.cause:
            self._counts[ERRORS][model, row.cause] += 1
        for told, count in (
            (READ, row.input_tokens),
            (CACHED, row.cache_tokens),
            (WRITTEN, row.output_tokens),
            (DRAFTED, row.draft_tokens),
            (ACCEPTED, row.draft_acc_tokens),
        ):
            if count > 0:
                self._counts[told][model,] += count
        began = request.began_at
        self._observe(DURATION, model, request.ended_at - began)
        if request.sent_at is not None:
            self._observe(WAIT, model, request.sent_at - began)
        if request.is_stream and request.first_at is not None:
            self._observe(FIRST_TOKEN, model, request.first_at - began)
        if (speed := _speed(request, row)) > 0:
            self._observe(GENERATION, model, speed)
        if row.prompt_per_second > 0:
            self._observe(READING, model, row.prompt_per_second)

    def lost(self, count: int) -> None:
        """So many requests could not be recorded."""
        self._counts[LOST][()] += count

    def loaded(self, model: str, seconds: float) -> None:
        """A start of a model took this long."""
        self._counts[LOADS][model,] += 1
        self._observe(LOAD, model, seconds)

    def evicted(self, model: str) -> None:
        """A model had to make room."""
        self._counts[EVICTIONS][model,] += 1

    def failed(self, model: str, cause: str) -> None:
        """A start of a model failed, or its child died."""
        self._counts[FAILURES][model, cause] += 1


def _speed(request: Ended, row: Row) -> float:
    if row.tokens_per_second > 0 or not request.is_stream or request.first_at is None:
        return row.tokens_per_second
    seconds = request.ended_at - request.first_at
    return (row.output_tokens - 1) / seconds if seconds >= SHORTEST and row.output_tokens > 1 else 0.0


class Gauges:
    """Metrics that are true at one moment, gathered one by one."""

    def __init__(self) -> None:
        self.numbers: dict[Described, dict[Labels, float | Spread]] = {}

    def add(self, told: Described, value: float | None, *labels: str) -> None:
        """One sample; None says nothing."""
        if value is not None:
            self.numbers.setdefault(told, {})[labels] = value

    def add_all(self, told: Described, values: Iterable[tuple[Labels, float]]) -> None:
        """Samples by their labels."""
        for labels, value in values:
            self.add(told, value, *labels)
