"""How much memory a start will take of every device, worked out from headers and options before anything is loaded.

Weights and caches are what llama.cpp computes itself; what it needs while computing was fitted to what both builds of
spec/llama-server.md report. A first load measures what this guesses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from supervisor.llama.kv_cache import Context, cache_bytes, number, window_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from supervisor.config.values import Option
    from supervisor.llama.gguf import Header

HOST = "host"
MIB = 2**20

SLOTS = 4
"""What `--parallel auto` comes to."""
BATCH, UBATCH = 2048, 512
FIT_MARGIN = 1024 * MIB
"""What fitting leaves free of every device, unless `--fit-target` says otherwise."""
FIT_CONTEXT = 4096
"""Fitting makes no context smaller than this."""
PROGRAM = 24 * MIB
"""The server itself with its libraries, 16 to 28 MiB."""
VOCABULARY = 200
"""Bytes for each token of the vocabulary."""
DRIVER = {"CUDA": (350 * MIB, 200 * MIB), "ROCm": (350 * MIB, 200 * MIB), "Vulkan": (100 * MIB, 60 * MIB)}
"""What a driver takes for a process of its device and of the host: a guess, for it depends on both."""

_NAMES = {
    "ctx-size": ("ctx-size", "c"),
    "n-gpu-layers": ("n-gpu-layers", "gpu-layers", "ngl"),
    "parallel": ("parallel", "np"),
    "kv-unified": ("kv-unified", "kvu"),
    "batch-size": ("batch-size", "b"),
    "ubatch-size": ("ubatch-size", "ub"),
    "cache-type-k": ("cache-type-k", "ctk"),
    "cache-type-v": ("cache-type-v", "ctv"),
    "flash-attn": ("flash-attn", "fa"),
    "device": ("device", "dev"),
    "split-mode": ("split-mode", "sm"),
    "tensor-split": ("tensor-split", "ts"),
    "main-gpu": ("main-gpu", "mg"),
    "kv-offload": ("kv-offload", "kvo"),
    "no-kv-offload": ("no-kv-offload", "nkvo"),
    "cpu-moe": ("cpu-moe", "cmoe"),
    "n-cpu-moe": ("n-cpu-moe", "ncmoe"),
    "fit": ("fit",),
    "fit-ctx": ("fit-ctx", "fitc"),
    "load-mode": ("load-mode", "lm"),
}
_DRAFT = {
    "n-gpu-layers": ("spec-draft-ngl", "gpu-layers-draft", "n-gpu-layers-draft", "ngld"),
    "cache-type-k": ("spec-draft-type-k", "cache-type-k-draft", "ctkd"),
    "cache-type-v": ("spec-draft-type-v", "cache-type-v-draft", "ctvd"),
    "device": ("spec-draft-device", "device-draft", "devd"),
}


class Share(NamedTuple):
    """One part of an estimate."""

    label: str
    device: str
    bytes: int
    file: str = ""
    """The file it is mapped from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is known of a start before it."""

    header: Header
    file: str
    options: Mapping[str, Option] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)
    """What its binary can use beside the processor, in its order, and how large each is; empty: nothing."""
    host: int | None = None
    """Bytes of the machine's memory."""
    projector: Header | None = None
    draft: Header | None = None
    draft_file: str = ""

    def option(self, name: str, default: Option) -> Option:
        """By any of its spellings."""
        return next((self.options[each] for each in _NAMES[name] if each in self.options), default)

    def count(self, name: str, default: int) -> int:
        """One that is a number; `auto`, `all`, 0 and less mean the default."""
        value = self.option(name, default)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def estimate(plan: Plan) -> tuple[Share, ...]:
    """The parts of what a start will take, the largest that fitting would let it."""
    if plan.header.block_count is None:
        return tuple(_whole_files(plan))
    context, layers = _fitted(plan)
    return (*_parts(plan, context, layers), *_extras(plan, context))


def _whole_files(plan: Plan) -> Iterator[Share]:
    """What can be said of a file whose layers are not known."""
    yield Share("weights", _first(plan), plan.header.file_bytes)
    yield Share("program", HOST, PROGRAM)


def _fitted(plan: Plan) -> tuple[Context, int]:
    """The context and the layers on devices after `--fit` has had its way: first the context, then layers."""
    context, layers = context_of(plan), _layers(plan)
    if plan.option("fit", "on") in (False, "off") or _fits(plan, context, layers):
        return context, layers
    least = plan.count("fit-ctx", FIT_CONTEXT)
    if not plan.count("ctx-size", 0):
        context = _largest(context, least, lambda smaller: _fits(plan, smaller, layers))
    if plan.devices and not any(name in plan.options for name in _NAMES["n-gpu-layers"]):
        while layers and not _fits(plan, context, layers, of_devices_only=True):
            layers -= 1
    return context, layers


def _largest(context: Context, least: int, fits: Callable[[Context], bool]) -> Context:
    low, high = min(least, context.tokens), context.tokens
    while high - low > 256:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(replace(context, tokens=middle)) else (low, middle)
    return replace(context, tokens=low)


def _fits(plan: Plan, context: Context, layers: int, *, of_devices_only: bool = False) -> bool:
    room = {name: size - FIT_MARGIN for name, size in plan.devices.items()}
    if plan.host is not None and not of_devices_only:
        room[HOST] = plan.host - FIT_MARGIN
    taken: dict[str, int] = {}
    for part in _parts(plan, context, layers):
        taken[part.device] = taken.get(part.device, 0) + part.bytes
    return all(size <= room[name] for name, size in taken.items() if name in room)


def context_of(plan: Plan) -> Context:
    """The context as it was asked for; by default as long as the model was trained for."""
    slots = plan.count("parallel", 0)
    return Context(
        tokens=plan.count("ctx-size", plan.header.context_length or FIT_CONTEXT),
        slots=slots or SLOTS,
        is_unified=not slots or plan.option("kv-unified", False) is True,
        batch=min(plan.count("ubatch-size", UBATCH), plan.count("batch-size", BATCH)),
        key_type=str(plan.option("cache-type-k", "f16")),
        value_type=str(plan.option("cache-type-v", "f16")),
        windows_are_whole=plan.options.get("swa-full") is True,
    )


def _layers(plan: Plan) -> int:
    """How many layers go to devices, the output counted as one."""
    most = (plan.header.block_count or 0) + 1
    asked = plan.option("n-gpu-layers", most)
    if not _used_devices(plan) or asked in (0, "0"):
        return 0
    return min(asked, most) if isinstance(asked, int) and asked > 0 else most


def _used_devices(plan: Plan) -> dict[str, int]:
    """The devices that layers are spread over."""
    named = plan.option("device", "")
    names = (
        str(",".join(map(str, named)) if isinstance(named, tuple) else named).split(",") if named else [*plan.devices]
    )
    used = {name: plan.devices[name] for name in names if name in plan.devices}
    if plan.option("split-mode", "layer") == "none" and used:
        main = plan.option("main-gpu", 0)
        chosen = [*used][main if isinstance(main, int) and 0 <= main < len(used) else 0]
        return {chosen: used[chosen]}
    return used


def _first(plan: Plan) -> str:
    return next(iter(_used_devices(plan)), HOST) if _layers(plan) else HOST


def _homes(plan: Plan, layers: int) -> list[str]:
    """The device of each layer, the output's last: the first ones stay with the processor, the rest is spread."""
    blocks, used = plan.header.block_count or 0, _used_devices(plan)
    begin = blocks + 1 - layers
    shares = _shares(plan, used)
    return [HOST] * begin + [_place(shares, place / layers) for place in range(layers)]


def _shares(plan: Plan, used: Mapping[str, int]) -> dict[str, float]:
    """How much of the layers each device gets: `--tensor-split`, or by their sizes."""
    split = plan.option("tensor-split", "")
    texts = [str(each) for each in split] if isinstance(split, tuple) else str(split).replace("/", ",").split(",")
    try:
        weights = [float(text) for text in texts]
    except ValueError:
        weights = [float(size) for size in used.values()]
    weights = (weights + [0.0] * len(used))[: len(used)]
    whole = sum(weights) or 1.0
    return {name: weight / whole for name, weight in zip(used, weights, strict=True)}


def _place(shares: Mapping[str, float], at: float) -> str:
    end = 0.0
    for name, share in shares.items():
        end += share
        if at < end:
            return name
    return next(reversed([*shares]), HOST)


def _parts(plan: Plan, context: Context, layers: int) -> tuple[Share, ...]:
    """Weights, cache and what computing needs, by device."""
    homes = _homes(plan, layers)
    return (
        *_weights(plan, homes),
        *_cache(plan, context, homes),
        *_computing(plan, context, homes),
    )


def _weights(plan: Plan, homes: Sequence[str]) -> Iterator[Share]:
    weights, blocks = plan.header.weights, plan.header.block_count or 0
    on_host = {block for block in range(blocks) if homes[block] == HOST}
    sizes = dict.fromkeys((HOST, *homes), 0)
    sizes[HOST] += weights.embeddings
    for block, size in weights.blocks.items():
        home = homes[min(block, blocks)]
        experts = weights.experts.get(block, 0) if block in _expert_blocks(plan) and home != HOST else 0
        sizes[home] += size - experts
        sizes[HOST] += experts
    tied = 0 if weights.has_output or homes[-1] == HOST else weights.embeddings
    sizes[homes[-1]] += weights.output + tied
    copied = sum(size for block, size in weights.repacked.items() if block in on_host) if _repacks(plan) else 0
    for device, size in sizes.items():
        if device != HOST:
            yield Share("weights", device, size)
    if _maps(plan):
        yield Share("weights", HOST, sizes[HOST], plan.file)
        yield Share("weights in another order", HOST, copied)
    else:
        yield Share("weights", HOST, sizes[HOST])


def _expert_blocks(plan: Plan) -> range:
    """The blocks whose experts stay with the processor."""
    if plan.option("cpu-moe", False) is True:
        return range(plan.header.block_count or 0)
    return range(plan.count("n-cpu-moe", 0))


def _repacks(plan: Plan) -> bool:
    return plan.options.get("repack") is not False and plan.options.get("no-repack") is not True


def _maps(plan: Plan) -> bool:
    options = plan.options
    if options.get("no-mmap") is True or options.get("mmap") is False:
        return False
    return plan.option("load-mode", "auto") in ("auto", "mmap", "mlock")


def _cache(plan: Plan, context: Context, homes: Sequence[str]) -> Iterator[Share]:
    stays = plan.option("kv-offload", True) is False or plan.option("no-kv-offload", False) is True
    sizes: dict[str, int] = {}
    for layer, size in enumerate(cache_bytes(plan.header, context)):
        home = HOST if stays else homes[layer]
        sizes[home] = sizes.get(home, 0) + size
    for device, size in sizes.items():
        yield Share(f"KV cache ({context.tokens} tokens)", device, size)


def _computing(plan: Plan, context: Context, homes: Sequence[str]) -> Iterator[Share]:
    """Masks over the cache and the widest layer for a batch of tokens, on each device that has a layer."""
    numbers, width = plan.header.numbers, plan.header.embedding_length or 0
    blocks = range(plan.header.block_count or 0)
    used = number(numbers, "expert_used_count") * number(numbers, "expert_feed_forward_length")
    inner = max((number(numbers, "feed_forward_length", layer) for layer in blocks), default=0)
    widest = 4 * context.batch * (2 * max(inner, used) + 8 * width)
    window = max((window_of(plan.header, layer) for layer in blocks), default=0)
    cells = context.stream_tokens + (context.window_tokens(window) if window else 0)
    masks = 2 * context.batch * cells
    if plan.option("flash-attn", "auto") in (False, "off", 0):
        masks = 4 * context.batch * context.stream_tokens * (1 + number(numbers, "attention.head_count"))
    for device in dict.fromkeys(homes):
        yield Share("compute buffer", device, widest + masks)
    yield Share("output buffer", HOST, 4 * context.slots * (plan.header.vocabulary_size or 0))


def _extras(plan: Plan, context: Context) -> Iterator[Share]:
    """What comes on top of the model: projector, draft, vocabulary, the program and its driver."""
    if plan.projector is not None:
        offloads = plan.options.get("mmproj-offload") is not False and plan.options.get("no-mmproj-offload") is not True
        yield Share("projector", next(iter(plan.devices), HOST) if offloads else HOST, plan.projector.weights.total)
    if plan.draft is not None and plan.draft.block_count is not None:
        draft = _draft(plan)
        theirs = replace(context_of(draft), tokens=context.tokens)
        yield from (part._replace(label=f"draft: {part.label}") for part in _parts(draft, theirs, _layers(draft)))
    yield Share("vocabulary", HOST, VOCABULARY * (plan.header.vocabulary_size or 0))
    yield Share("program", HOST, PROGRAM)
    if _layers(plan):
        for device in _used_devices(plan):
            of_device, of_host = next((sizes for kind, sizes in DRIVER.items() if device.startswith(kind)), (0, 0))
            yield Share("driver", device, of_device)
            yield Share("driver", HOST, of_host)


def _draft(plan: Plan) -> Plan:
    """The draft model as a model of its own."""
    assert plan.draft is not None
    theirs = {name: plan.options[each] for name, names in _DRAFT.items() for each in names if each in plan.options}
    kept = {key: value for key, value in plan.options.items() if not any(key in _NAMES[name] for name in _DRAFT)}
    return Plan(
        header=plan.draft, file=plan.draft_file, options={**kept, **theirs}, devices=plan.devices, host=plan.host
    )
