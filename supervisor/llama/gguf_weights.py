"""Where the bytes of a model's tensors belong, told from their names: a block, its experts, the first layer, the last.

llama.cpp puts weights onto devices by the block; the token embeddings stay with the processor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
_EXPERTS = "_exps"
"""In the names of the tensors that hold a block's routed experts; `--cpu-moe` goes by it too."""
_EMBEDDINGS = ("token_embd", "per_layer_token_embd", "position_embd", "token_types")
REPACKED = frozenset(("Q4_0", "Q4_K", "IQ4_NL"))
"""Types of which processors with AVX2 make a copy in an order that suits them (ggml-cpu/repack.cpp)."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes by place; together all that a model's files hold of tensors."""

    blocks: Mapping[int, int] = field(default_factory=dict)
    experts: Mapping[int, int] = field(default_factory=dict)
    """Of those of a block, its routed experts."""
    repacked: Mapping[int, int] = field(default_factory=dict)
    """Of those of a block, what the processor would copy into another order."""
    embeddings: int = 0
    """Of the tokens; a model without an output layer uses them there too."""
    output: int = 0
    """The last layer, and what belongs to no other."""
    has_output: bool = False

    @property
    def total(self) -> int:
        return sum(self.blocks.values()) + self.embeddings + self.output

    def plus(self, other: Weights) -> Weights:
        """Those of two parts of a split model."""
        return Weights(
            _sum(self.blocks, other.blocks),
            _sum(self.experts, other.experts),
            _sum(self.repacked, other.repacked),
            self.embeddings + other.embeddings,
            self.output + other.output,
            self.has_output or other.has_output,
        )


def weights_of(tensors: Iterable[tuple[str, str, int]]) -> Weights:
    """Of tensors given by name, type and bytes."""
    blocks: dict[int, int] = {}
    experts: dict[int, int] = {}
    repacked: dict[int, int] = {}
    embeddings = output = 0
    has_output = False
    for name, kind, size in tensors:
        match = _BLOCK.fullmatch(name)
        if match is None:
            has_output = has_output or name == "output.weight"
            embeddings, output = (
                (embeddings + size, output) if name.startswith(_EMBEDDINGS) else (embeddings, output + size)
            )
            continue
        block = int(match[1])
        blocks[block] = blocks.get(block, 0) + size
        if _EXPERTS in match[2]:
            experts[block] = experts.get(block, 0) + size
        if kind in REPACKED:
            repacked[block] = repacked.get(block, 0) + size
    return Weights(blocks, experts, repacked, embeddings, output, has_output)


def _sum(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return {block: one.get(block, 0) + other.get(block, 0) for block in sorted({*one, *other})}
