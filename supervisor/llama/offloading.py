"""What is known of a start before it, and where its layers go: to the processor, to one device, over several. Pure.

Source: llama.cpp's llama-model.cpp (`load_tensors`): the last layers go to devices first, split by the devices' sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Option
    from supervisor.llama.gguf import Header

HOST = "host"

NAMES = {
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
        return next((self.options[each] for each in NAMES[name] if each in self.options), default)

    def count(self, name: str, default: int) -> int:
        """One that is a number; `auto`, `all`, 0 and less mean the default."""
        value = self.option(name, default)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def draft_of(plan: Plan) -> Plan:
    """The draft model as a model of its own."""
    assert plan.draft is not None
    theirs = {name: plan.options[each] for name, names in _DRAFT.items() for each in names if each in plan.options}
    kept = {key: value for key, value in plan.options.items() if not any(key in NAMES[name] for name in _DRAFT)}
    return Plan(
        header=plan.draft, file=plan.draft_file, options={**kept, **theirs}, devices=plan.devices, host=plan.host
    )


def layers_on_devices(plan: Plan) -> int:
    """How many layers go to devices, the output counted as one."""
    most = (plan.header.block_count or 0) + 1
    asked = plan.option("n-gpu-layers", most)
    if not used_devices(plan) or asked in (0, "0"):
        return 0
    return min(asked, most) if isinstance(asked, int) and asked > 0 else most


def used_devices(plan: Plan) -> dict[str, int]:
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


def first_home(plan: Plan) -> str:
    return next(iter(used_devices(plan)), HOST) if layers_on_devices(plan) else HOST


def homes_of(plan: Plan, layers: int) -> list[str]:
    """The device of each layer, the output's last: the first ones stay with the processor, the rest is spread."""
    blocks, used = plan.header.block_count or 0, used_devices(plan)
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
