"""What a GGUF file says about itself: name, size, context, recommended sampling, and whether it is all there.

Reads the header only, never tensor data, and trusts nothing in it: every count and length is bounded and arrays are
skipped, so that a hostile or half-downloaded file costs little and ends in a `GgufError`. An `OSError` (no such file,
no permission) passes through.
"""

from __future__ import annotations

import math
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from supervisor.llama.gguf_cursor import U32, U64, Cursor, GgufError, Reason
from supervisor.llama.gguf_facts import Facts, Numbers, Value
from supervisor.llama.gguf_types import (
    ARRAY,
    BOOL,
    FILE_TYPES,
    FLOAT32,
    GUESSED_FILE_TYPE,
    INTEGERS,
    SCALARS,
    STRING,
    TENSOR_TYPES,
)
from supervisor.llama.gguf_weights import Weights, weights_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["GgufError", "Header", "Reason", "read_header", "size_on_disk", "split_paths"]

MAX_KEYS = 100_000
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 4
MAX_ELEMENTS = 1 << 44
MAX_OFFSET = 1 << 56
MAX_SPLITS = 1024
MAX_LAYERS = 4096

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

SAMPLING_PREFIX = "general.sampling."
WANTED_TEXTS = ("general.architecture", "general.name", "general.type", SAMPLING_PREFIX)
PER_LAYER = (".head_count", ".head_count_kv", ".feed_forward_length", ".sliding_window_pattern")
"""Keys that may have a number for each layer; other arrays are skipped."""
SPLIT_NAME = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class Header:
    """What one file says; of a split model, only the first file says most of it."""

    version: int
    architecture: str
    name: str
    type: str
    """`model`, `adapter` or `mmproj`."""
    parameters: int
    """Of all splits that are there."""
    quantisation: str
    context_length: int | None
    embedding_length: int | None
    block_count: int | None
    vocabulary_size: int | None
    sampling: Mapping[str, Value]
    """The author's recommendation by llama.cpp's names: `temp`, `top_k`, …"""
    split_count: int
    split_no: int
    projection_length: int | None
    """The embedding length of the models a projector was made for."""
    modalities: tuple[str, ...]
    """What a projector understands: `vision`, `audio`."""
    expected_bytes: int
    """Where the data of the last tensor ends. Tensors of a type unknown to us count as empty."""
    file_bytes: int
    numbers: Mapping[str, Numbers] = field(default_factory=dict)
    """The integers of its architecture by key, without its name; a tuple where each layer has one of its own."""
    weights: Weights = field(default_factory=Weights)
    """Of all splits that are there."""

    @property
    def is_complete(self) -> bool:
        return self.file_bytes >= self.expected_bytes


def read_header(path: Path) -> Header:
    header = _read_one(path)
    for other in split_paths(path, header):
        part = _part(other) if other != path else None
        if part is not None:
            parameters, weights = header.parameters + part.parameters, header.weights.plus(part.weights)
            header = replace(header, parameters=parameters, weights=weights)
    return header


def split_paths(path: Path, header: Header) -> tuple[Path, ...]:
    """All files of the model, whether or not they exist; only `path` if its name is not that of a split."""
    match = SPLIT_NAME.fullmatch(path.name)
    if header.split_count == 1 or match is None or int(match["count"]) != header.split_count:
        return (path,)
    numbers = range(1, header.split_count + 1)
    return tuple(path.with_name(f"{match['stem']}-{number:05}-of-{match['count']}.gguf") for number in numbers)


def size_on_disk(path: Path, header: Header) -> int:
    """Bytes of all splits that exist."""
    total = 0
    for part in split_paths(path, header):
        with suppress(OSError):
            total += part.stat().st_size
    return total


def _part(path: Path) -> Header | None:
    with suppress(GgufError, OSError):
        return _read_one(path)
    return None


def _read_one(path: Path) -> Header:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for a writer
        raise GgufError(path, Reason.NOT_A_FILE, expected="a GGUF file", found="something that is not a regular file")
    with path.open("rb", buffering=0) as file:
        cursor = Cursor(file, path)
        version = _read_version(cursor)
        tensor_count = cursor.at_most(MAX_TENSORS, cursor.number(U64), "tensors")
        key_count = cursor.at_most(MAX_KEYS, cursor.number(U64), "keys")
        facts = _read_facts(cursor, key_count)
        tensors = [_read_tensor(cursor) for _ in range(tensor_count)]
        return _conclude(version, facts, tensors, cursor)


def _read_version(cursor: Cursor) -> int:
    _check_magic(cursor)
    cursor.skip(len(MAGIC))
    version = cursor.number(U32)
    if version and not version & 0xFFFF:
        cursor.fail(Reason.BIG_ENDIAN, "a little-endian GGUF file", "a big-endian one")
    if version not in VERSIONS:
        cursor.fail(Reason.VERSION, "GGUF version `2` or `3`", f"`{version}`")
    return version


def _check_magic(cursor: Cursor) -> None:
    start = cursor.peek(64)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(MAGIC):
        return
    if not start:
        cursor.fail(Reason.EMPTY, "a GGUF file", "an empty file")
    if MAGIC.startswith(start):
        cursor.truncated()
    if text.startswith(b"<"):
        cursor.fail(Reason.MARKUP, "a GGUF file", "an HTML or XML page")
    if text.startswith(b"version https://git-lfs"):
        cursor.fail(Reason.LFS_POINTER, "a GGUF file", "a git-lfs pointer")
    cursor.fail(Reason.NOT_GGUF, "a GGUF file", f"one that begins with `{_printable(start[:16])}`")


def _printable(start: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte != ord("`") else f"\\x{byte:02x}" for byte in start)


def _read_facts(cursor: Cursor, count: int) -> Facts:
    facts = Facts()
    for _ in range(count):
        key = cursor.text()
        kind = cursor.number(U32)
        if kind == ARRAY:
            _read_array(cursor, key, facts)
        elif kind == STRING and not key.startswith(WANTED_TEXTS):  # chat templates, whole tokenizers: megabytes
            cursor.skip(cursor.number(U64))
        else:
            facts.values[key] = _read_value(cursor, kind)
    return facts


def _read_value(cursor: Cursor, kind: int) -> Value:
    if kind == STRING:
        return cursor.text()
    if kind not in SCALARS:
        cursor.implausible("a value of type `0` to `12`", f"`{kind}`")
    value = cursor.number(SCALARS[kind])
    if kind == BOOL:
        return bool(value)
    # A 32-bit 0.6 is 0.60000002384 in Python; seven digits say what its author wrote.
    return float(f"{value:.7g}") if kind == FLOAT32 else value


def _read_array(cursor: Cursor, key: str, facts: Facts) -> None:
    kind = cursor.number(U32)
    facts.lengths[key] = length = cursor.number(U64)
    if kind in INTEGERS and length <= MAX_LAYERS and key.endswith(PER_LAYER):
        facts.lists[key] = tuple(cursor.number(SCALARS[kind]) for _ in range(length))
    elif kind == STRING:
        cursor.skip_strings(length)
    elif kind in SCALARS:
        cursor.skip(length * SCALARS[kind].size)
    else:
        cursor.implausible("an array of numbers or strings", f"one of type `{kind}`")


class _Tensor(NamedTuple):
    name: str
    kind: int
    elements: int
    bytes: int
    end: int
    """In the data section."""


def _read_tensor(cursor: Cursor) -> _Tensor:
    name = cursor.text()
    dimensions = cursor.at_most(MAX_DIMENSIONS, cursor.number(U32), "dimensions")
    elements = math.prod(cursor.number(U64) for _ in range(dimensions))
    cursor.at_most(MAX_ELEMENTS, elements, "elements in a tensor")
    kind = cursor.number(U32)
    offset = cursor.at_most(MAX_OFFSET, cursor.number(U64), "bytes before a tensor")
    size = _tensor_bytes(kind, elements)
    return _Tensor(name, kind, elements, size, offset + size)


def _tensor_bytes(kind: int, elements: int) -> int:
    known = TENSOR_TYPES.get(kind)
    return -(-elements // known.elements) * known.bytes if known else 0


def _conclude(version: int, facts: Facts, tensors: list[_Tensor], cursor: Cursor) -> Header:
    architecture = facts.text("general.architecture")
    return Header(
        version=version,
        architecture=architecture,
        name=facts.text("general.name"),
        # Projectors of before 2025 have no type, or `clip-vision`.
        type="mmproj" if architecture == "clip" else facts.text("general.type", "model"),
        parameters=sum(tensor.elements for tensor in tensors),
        quantisation=_quantisation(facts, tensors),
        context_length=facts.number(f"{architecture}.context_length"),
        embedding_length=facts.number(f"{architecture}.embedding_length"),
        block_count=facts.number(f"{architecture}.block_count"),
        vocabulary_size=facts.lengths.get("tokenizer.ggml.tokens", facts.number(f"{architecture}.vocab_size")),
        sampling=_sampling(facts),
        split_count=cursor.at_most(MAX_SPLITS, facts.number("split.count") or 1, "splits"),
        split_no=facts.number("split.no") or 0,
        # Only converters that write the type write this length of the language model; old ones had another.
        projection_length=facts.number("clip.vision.projection_dim")
        if facts.text("general.type") == "mmproj"
        else None,
        modalities=tuple(kind for kind in ("vision", "audio") if facts.is_true(f"clip.has_{kind}_encoder")),
        expected_bytes=_expected_bytes(facts, tensors, cursor),
        file_bytes=cursor.file_bytes,
        numbers=facts.numbers(architecture),
        weights=weights_of((tensor.name, _type_name(tensor.kind), tensor.bytes) for tensor in tensors),
    )


def _quantisation(facts: Facts, tensors: Iterable[_Tensor]) -> str:
    file_type = facts.number("general.file_type")
    if file_type is not None and file_type & ~GUESSED_FILE_TYPE in FILE_TYPES:
        return FILE_TYPES[file_type & ~GUESSED_FILE_TYPE]
    weights: dict[int, int] = {}
    for tensor in tensors:
        weights[tensor.kind] = weights.get(tensor.kind, 0) + tensor.elements
    commonest = max(weights, key=weights.__getitem__, default=-1)
    return _type_name(commonest)


def _type_name(kind: int) -> str:
    return TENSOR_TYPES[kind].name if kind in TENSOR_TYPES else ""


def _sampling(facts: Facts) -> dict[str, Value]:
    return {
        key.removeprefix(SAMPLING_PREFIX): value
        for key, value in facts.values.items()
        if key.startswith(SAMPLING_PREFIX) and not (isinstance(value, float) and not math.isfinite(value))
    }


def _expected_bytes(facts: Facts, tensors: Iterable[_Tensor], cursor: Cursor) -> int:
    alignment = facts.values.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        cursor.implausible("an alignment that is a power of two", f"`{alignment}`")
    data_begins = -(-cursor.position // alignment) * alignment
    return max((data_begins + tensor.end for tensor in tensors), default=cursor.position)
