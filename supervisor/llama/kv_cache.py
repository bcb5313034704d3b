"""How large the cache of a context is, layer by layer, from the numbers in a model's header.

Sources: llama.cpp's llama-kv-cache.cpp, llama-kv-cache-iswa.cpp, llama-memory-recurrent.cpp and the table of
`set_swa_pattern` calls in llama-model.cpp. What the header does not say counts as the plain case, which is the largest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.llama.gguf import Header
    from supervisor.llama.gguf_facts import Numbers

CELL_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes of an element by `--cache-type-k`."""
PADDING = 256
"""Cells come in multiples of this."""
WINDOWED = {
    "afmoe": 4,
    "cohere2": 4,
    "exaone4": 4,
    "exaone-moe": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
    "olmo2": 4,
    "smallthinker": 4,
}
"""Architectures in which only one layer of so many sees the whole context."""
_UNCACHED = ("bert", "embedding", "t5encoder")
_STATE_BYTES = 4
_ONE_BLOCK_PER_TOKEN = ("rwkv", "arwkv")


@dataclass(frozen=True, slots=True)
class Context:
    """What a start asks for."""

    tokens: int
    """Of all slots together."""
    slots: int = 1
    is_unified: bool = True
    """Whether the slots share one cache."""
    batch: int = 512
    """Tokens computed at a time, `--ubatch-size`."""
    key_type: str = "f16"
    value_type: str = "f16"
    windows_are_whole: bool = False
    """`--swa-full`."""

    @property
    def streams(self) -> int:
        return 1 if self.is_unified else self.slots

    @property
    def stream_tokens(self) -> int:
        """Cells of one cache."""
        return _padded(self.tokens // self.streams)

    def window_tokens(self, window: int) -> int:
        """Cells of one cache of a layer that looks back no further than this."""
        seen = window * (self.slots if self.is_unified else 1) + self.batch
        return self.stream_tokens if self.windows_are_whole else min(self.stream_tokens, _padded(seen))


def cache_bytes(header: Header, context: Context) -> list[int]:
    """Bytes for each layer."""
    layers = range(header.block_count or 0)
    if any(word in header.architecture for word in _UNCACHED):
        return [0 for _ in layers]
    owners = len(layers) - number(header.numbers, "attention.shared_kv_layers")
    return [_layer_bytes(header, context, layer) if layer < owners else 0 for layer in layers]


def window_of(header: Header, layer: int) -> int:
    """How many tokens this layer looks back; 0: all of them."""
    window = number(header.numbers, "attention.sliding_window")
    pattern = header.numbers.get("attention.sliding_window_pattern", WINDOWED.get(header.architecture, 1))
    if isinstance(pattern, tuple):
        return window if layer < len(pattern) and pattern[layer] else 0
    return window if pattern and layer % pattern < pattern - 1 else 0


def number(numbers: Mapping[str, Numbers], key: str, layer: int = 0, default: int = 0) -> int:
    """One of the header's numbers; of a list, that of a layer."""
    value = numbers.get(key, default)
    if isinstance(value, tuple):
        return value[layer] if layer < len(value) else default
    return value


def _layer_bytes(header: Header, context: Context, layer: int) -> int:
    if _is_recurrent(header, layer):
        return _state_bytes(header, context)
    window = window_of(header, layer)
    cells = context.streams * (context.window_tokens(window) if window else context.stream_tokens)
    suffix = "_swa" if window else ""
    key, value = _length(header, "key", layer, suffix), _length(header, "value", layer, suffix)
    per_cell = key * CELL_BYTES.get(context.key_type, 2.0)
    if "attention.key_length_mla" not in header.numbers:  # there, values are a part of the keys
        per_cell += value * CELL_BYTES.get(context.value_type, 2.0)
    state = _state_bytes(header, context) if header.architecture == "falcon-h1" else 0
    return int(cells * per_cell) + state


def _length(header: Header, what: str, layer: int, suffix: str) -> int:
    """Elements of a cell's keys or values."""
    heads = number(header.numbers, "attention.head_count", layer, 1) or 1
    by_default = number(header.numbers, f"attention.{what}_length", layer, (header.embedding_length or 0) // heads)
    length = number(header.numbers, f"attention.{what}_length{suffix}", layer, by_default)
    return length * number(header.numbers, "attention.head_count_kv", layer, heads)


def _is_recurrent(header: Header, layer: int) -> bool:
    """Whether this layer keeps a state in place of a cache."""
    numbers = header.numbers
    if header.architecture.startswith(("mamba", *_ONE_BLOCK_PER_TOKEN)):
        return True
    if "ssm.inner_size" not in numbers:
        return False
    if isinstance(numbers.get("attention.head_count_kv"), tuple):
        return number(numbers, "attention.head_count_kv", layer) == 0
    interval = number(numbers, "full_attention_interval")
    return bool(interval) and (layer + 1) % interval != 0


def _state_bytes(header: Header, context: Context) -> int:
    numbers, width = header.numbers, header.embedding_length or 0
    if "wkv.head_size" in numbers:
        elements = width * (number(numbers, "wkv.head_size") + number(numbers, "token_shift_count", default=2))
    else:
        inner, state = number(numbers, "ssm.inner_size"), number(numbers, "ssm.state_size")
        convolved = inner + 2 * number(numbers, "ssm.group_count") * state
        elements = inner * state + max(0, number(numbers, "ssm.conv_kernel") - 1) * convolved
    return elements * context.slots * _STATE_BYTES


def _padded(tokens: int) -> int:
    return -(-tokens // PADDING) * PADDING
