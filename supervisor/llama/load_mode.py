"""How a child should bring its weights into memory: mapped, read, or read past the page cache.

Pure: facts in, a choice and its reason out. Direct reads leave nothing for the next start and do not see what is
cached, so they are for files that could not stay cached; warming helps every other way. Sources: llama.cpp pull
requests #14396 (mapping against reading, full offload), #18012 (direct reads, unified memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Option
    from supervisor.llama.gguf import Header
    from supervisor.llama.help_text import Catalogue

Mode = Literal["mmap", "none", "dio"]

CACHED = 0.9
"""The share from which on a file counts as cached."""

_LAYERS = ("n-gpu-layers", "gpu-layers", "ngl")


class Offload(Enum):
    """How many of the layers go to a device."""

    FULL = "all layers are"
    PARTIAL = "some layers are"
    NONE = "no layer is"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFacts:
    """What the choice depends on."""

    file_bytes: int
    residency: float | None
    """The share of the file in the page cache; None when unknown."""
    available_bytes: int | None
    """Memory that can be taken, page cache included; None when unknown."""
    offload: Offload
    is_unified: bool = False
    """Whether the device has no memory of its own."""
    is_shared: bool = False
    """Whether another run holds the same file."""
    modes: frozenset[Mode]

    @property
    def is_cached(self) -> bool:
        return self.residency is not None and self.residency >= CACHED

    @property
    def fits(self) -> bool:
        return self.available_bytes is None or self.file_bytes <= self.available_bytes


@dataclass(frozen=True, slots=True)
class LoadChoice:
    """A way to load; None leaves it to the binary."""

    mode: Mode | None
    reason: str


def choose_load_mode(facts: LoadFacts) -> LoadChoice:
    """The quickest way for these facts.

    1. a file that other runs hold too: mapped, so that it is in memory once
    2. layers on the CPU: mapped, because the pages are the weights
    3. unified memory: read past the cache, which would take the weights' own room; if cached, and both fit, from there
    4. a device with memory of its own, cached: mapped; read, where memory is short, for mapped pages must stay
    5. not cached, or unknown: read, which fills the cache for the next start; past it, if the file cannot stay there
    """
    if facts.is_shared:
        return _choice(facts, ("mmap",), "another run holds the same file, so mapping it costs no memory")
    if facts.offload is Offload.NONE or (facts.offload is Offload.PARTIAL and not facts.is_unified):
        return _choice(facts, ("mmap",), "the mapped pages are the weights that the CPU reads")
    if facts.is_unified:
        if facts.is_cached and facts.fits:
            return _choice(facts, ("none",), "reading takes it from the cache, and memory has room for both")
        return _choice(facts, ("dio", "none"), "the device's memory is the cache's, and direct reads leave it alone")
    if facts.is_cached:
        if facts.fits:
            return _choice(facts, ("mmap",), "mapping takes it from the cache")
        return _choice(facts, ("none",), "reading takes it from the cache and keeps no page of it mapped")
    if facts.fits:
        return _choice(facts, ("none", "dio"), "plain reads are quicker than page faults and leave it cached")
    return _choice(facts, ("dio", "none"), "it could not stay in the cache, so direct reads spare what is there")


def _choice(facts: LoadFacts, wanted: tuple[Mode, ...], because: str) -> LoadChoice:
    """The first of the modes that the binary has."""
    mode = next((mode for mode in wanted if mode in facts.modes), None)
    reason = f"{_described(facts)}: {because}"
    if mode != wanted[0]:
        missing = "this binary has no load mode " + " or ".join(f"`{other}`" for other in wanted if other != mode)
        reason = f"{reason}; but {missing}"
    return LoadChoice(mode, reason)


def _described(facts: LoadFacts) -> str:
    cached = "an unknown share" if facts.residency is None else f"{facts.residency:.0%}"
    room = "an unknown amount of" if facts.available_bytes is None else f"{facts.available_bytes / 1e9:.1f} GB of"
    place = "unified memory" if facts.is_unified else "the device"
    return (
        f"{cached} of {facts.file_bytes / 1e9:.1f} GB is cached, {room} memory is available, "
        f"{facts.offload.value} offloaded to {place}"
    )


def offered_modes(catalogue: Catalogue) -> frozenset[Mode]:
    """The modes a binary can be told to use."""
    flag = catalogue.find("load-mode")
    return frozenset(mode for mode in get_args(Mode) if flag is not None and mode in flag.choices)


def offload(options: Mapping[str, Option], header: Header | None, *, has_devices: bool) -> Offload:
    """Where the layers go, as far as the options say; llama-server's default is all that fit."""
    layers = next((options[name] for name in _LAYERS if name in options), "all")
    if not has_devices or layers == 0 or options.get("device", options.get("dev")) == "none":
        return Offload.NONE
    count = header.block_count if header else None
    if isinstance(layers, int) and layers > 0 and (count is None or layers < count):
        return Offload.PARTIAL
    return Offload.FULL
