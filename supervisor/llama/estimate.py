"""How much memory a start will take of every device, worked out from headers and options before anything is loaded.

Weights and caches are what llama.cpp computes itself; what it needs while computing was fitted to what both builds of
spec/llama-server.md report. A first load measures what this guesses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from supervisor.llama.kv_cache import Context, cache_bytes, number, window_of
from supervisor.llama.offloading import (
    HOST,
    NAMES,
    Plan,
    draft_of,
    first_home,
    homes_of,
    layers_on_devices,
    used_devices,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


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


class Share(NamedTuple):
    """One part of an estimate."""

    label: str
    device: str
    bytes: int
    file: str = ""
    """The file it is mapped from."""


def estimate(plan: Plan) -> tuple[Share, ...]:
    """The parts of what a start will take, the largest that fitting would let it."""
    if plan.header.block_count is None:
        return tuple(_whole_files(plan))
    context, layers = _fitted(plan)
    return (*_parts(plan, context, layers), *_extras(plan, context))


def _whole_files(plan: Plan) -> Iterator[Share]:
    """What can be said of a file whose layers are not known."""
    yield Share("weights", first_home(plan), plan.header.file_bytes)
    yield Share("program", HOST, PROGRAM)


def _fitted(plan: Plan) -> tuple[Context, int]:
    """The context and the layers on devices after `--fit` has had its way: first the context, then layers."""
    context, layers = context_of(plan), layers_on_devices(plan)
    if plan.option("fit", "on") in (False, "off") or _fits(plan, context, layers):
        return context, layers
    least = plan.count("fit-ctx", FIT_CONTEXT)
    if not plan.count("ctx-size", 0):
        context = _largest(context, least, lambda smaller: _fits(plan, smaller, layers))
    if plan.devices and not any(name in plan.options for name in NAMES["n-gpu-layers"]):
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


def _parts(plan: Plan, context: Context, layers: int) -> tuple[Share, ...]:
    """Weights, cache and what computing needs, by device."""
    homes = homes_of(plan, layers)
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
        draft = draft_of(plan)
        theirs = replace(context_of(draft), tokens=context.tokens)
        yield from (
            part._replace(label=f"draft: {part.label}") for part in _parts(draft, theirs, layers_on_devices(draft))
        )
    yield Share("vocabulary", HOST, VOCABULARY * (plan.header.vocabulary_size or 0))
    yield Share("program", HOST, PROGRAM)
    if layers_on_devices(plan):
        for device in used_devices(plan):
            of_device, of_host = next((sizes for kind, sizes in DRIVER.items() if device.startswith(kind)), (0, 0))
            yield Share("driver", device, of_device)
            yield Share("driver", HOST, of_host)
