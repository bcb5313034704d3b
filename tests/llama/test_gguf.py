"""Reading GGUF headers: the facts of sound files, the reasons of broken ones, and bounds that no file can pass."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from datetime import timedelta
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.llama.gguf import GgufError, Header, Reason, read_header, size_on_disk, split_paths
from supervisor.llama.gguf_types import FILE_TYPES, TENSOR_TYPES

if TYPE_CHECKING:
    from io import FileIO

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_tiny_models"
SOUND = ("tiny-a", "tiny-b", "tiny-embed", "tiny-mmproj", "tiny-split-00001-of-00002", "tiny-split-00002-of-00002")

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10

bounded = settings(max_examples=200, deadline=timedelta(seconds=2))


def load_script() -> ModuleType:
    loader = SourceFileLoader("make_tiny_models", str(SCRIPT))
    script = ModuleType(loader.name)
    loader.exec_module(script)
    return script


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    load_script().make_tiny_models(folder)
    return folder


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "x.gguf"


@pytest.fixture(scope="session")
def header_bytes(models: Path) -> bytes:
    """Of tiny-b, up to the last byte of the last tensor's entry."""
    path = models / "tiny-b.gguf"
    last = max(gguf.GGUFReader(path).tensors, key=lambda tensor: tensor.data_offset)
    end = int(last.field.offset) + sum(part.nbytes for part in last.field.parts)
    return path.read_bytes()[:end]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def write(
    path: Path, *pairs: bytes, tensors: tuple[bytes, ...] = (), version: int = 3, counts: tuple[int, int] | None = None
) -> Path:
    tensor_count, key_count = counts or (len(tensors), len(pairs))
    preamble = b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count)
    path.write_bytes(preamble + b"".join(pairs) + b"".join(tensors))
    return path


def reason_of(path: Path) -> Reason:
    with pytest.raises(GgufError) as caught:
        read_header(path)
    return caught.value.reason


def test_text_model(models: Path) -> None:
    """A sound model says its name, architecture, sizes and quantisation."""
    path = models / "tiny-a.gguf"

    header = read_header(path)

    assert header == Header(
        version=3,
        architecture="llama",
        name="Tiny A",
        type="model",
        parameters=168256,
        quantisation="F16",
        context_length=2048,
        embedding_length=64,
        block_count=2,
        vocabulary_size=288,
        sampling={},
        split_count=1,
        split_no=0,
        projection_length=None,
        modalities=(),
        expected_bytes=path.stat().st_size,
        file_bytes=path.stat().st_size,
        numbers={
            "context_length": 2048,
            "embedding_length": 64,
            "block_count": 2,
            "feed_forward_length": 256,
            "attention.head_count": 4,
            "attention.head_count_kv": 4,
            "vocab_size": 288,
            "rope.dimension_count": 16,
        },
        weights=header.weights,
    )
    assert header.is_complete


def test_recommended_sampling(models: Path) -> None:
    """Sampling comes as its author wrote it: 0.6, not the nearest 32-bit float."""
    header = read_header(models / "tiny-b.gguf")

    assert header.sampling == {"temp": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.0}


def test_sampling_that_json_cannot_carry(tmp_path: Path) -> None:
    """A recommendation that is no number is left out."""
    path = write(
        tmp_path / "x.gguf",
        pair("general.sampling.temp", F32, struct.pack("<f", float("nan"))),
        pair("general.sampling.sequence", STRING, text("kpt")),
        pair("general.sampling.backend", BOOL, b"\x01"),
    )

    assert read_header(path).sampling == {"sequence": "kpt", "backend": True}


def test_projector(models: Path) -> None:
    """A projector is recognised, with what it understands."""
    header = read_header(models / "tiny-mmproj.gguf")

    assert (header.type, header.architecture, header.modalities) == ("mmproj", "clip", ("vision",))
    assert header.context_length is None


def test_projector_of_old(tmp_path: Path) -> None:
    """A projector without a type, or with the old one, is a projector by its architecture."""
    path = write(
        tmp_path / "x.gguf",
        pair("general.type", STRING, text("clip-vision")),
        pair("general.architecture", STRING, text("clip")),
        pair("clip.has_vision_encoder", BOOL, b"\x01"),
        pair("clip.has_audio_encoder", BOOL, b"\x01"),
    )

    header = read_header(path)

    assert (header.type, header.modalities) == ("mmproj", ("vision", "audio"))


def test_split_model(models: Path) -> None:
    """Any split names all files of its model and counts the parameters and bytes of all."""
    paths = tuple(models / f"tiny-split-0000{number}-of-00002.gguf" for number in (1, 2))

    headers = [read_header(path) for path in paths]

    assert [(header.split_no, header.split_count) for header in headers] == [(0, 2), (1, 2)]
    for path, header in zip(paths, headers, strict=True):
        assert header.is_complete
        assert header.parameters == read_header(models / "tiny-a.gguf").parameters
        assert split_paths(path, header) == paths
        assert size_on_disk(path, header) == sum(part.stat().st_size for part in paths)


def test_lonely_split(models: Path, tmp_path: Path) -> None:
    """A missing split is named, and neither its parameters nor its bytes are counted."""
    first = tmp_path / "tiny-split-00001-of-00002.gguf"
    first.write_bytes((models / first.name).read_bytes())

    header = read_header(first)

    assert split_paths(first, header)[1] == tmp_path / "tiny-split-00002-of-00002.gguf"
    assert 0 < header.parameters < read_header(models / "tiny-a.gguf").parameters
    assert size_on_disk(first, header) == first.stat().st_size


def test_renamed_split(models: Path, tmp_path: Path) -> None:
    """A split under another name stands for itself."""
    path = tmp_path / "renamed.gguf"
    path.write_bytes((models / "tiny-split-00001-of-00002.gguf").read_bytes())

    assert split_paths(path, read_header(path)) == (path,)


@pytest.mark.parametrize("name", SOUND)
def test_size_promised(models: Path, name: str) -> None:
    """The promised size is where the reference reader sees the last tensor end."""
    path = models / f"{name}.gguf"
    reference = gguf.GGUFReader(path)

    expected = max(int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reference.tensors)

    assert read_header(path).expected_bytes == expected


def test_truncated_data(models: Path) -> None:
    """A file cut within its data is readable and known to be incomplete, and how much is missing."""
    header = read_header(models / "broken-truncated-data.gguf")

    assert not header.is_complete
    assert header.expected_bytes == (models / "tiny-a.gguf").stat().st_size


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken-empty", Reason.EMPTY),
        ("broken-not-gguf", Reason.MARKUP),
        ("broken-truncated-header", Reason.TRUNCATED),
    ],
)
def test_broken_model(models: Path, name: str, reason: Reason) -> None:
    """Each kind of broken file has its own reason."""
    assert reason_of(models / f"{name}.gguf") is reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", Reason.LFS_POINTER),
        (b"\xef\xbb\xbf\n<?xml version='1.0'?><Error/>", Reason.MARKUP),
        (b"PK\x03\x04`", Reason.NOT_GGUF),
        (b"GG", Reason.TRUNCATED),
        (b"GGUF", Reason.TRUNCATED),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), Reason.VERSION),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), Reason.VERSION),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), Reason.BIG_ENDIAN),
    ],
)
def test_not_a_model(tmp_path: Path, content: bytes, reason: Reason) -> None:
    """What is stored instead of a model is told by its first bytes."""
    path = tmp_path / "x.gguf"
    path.write_bytes(content)

    assert reason_of(path) is reason


def test_message(tmp_path: Path) -> None:
    """A message says path, expectation and finding; the bytes found are printable."""
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04`zip")

    with pytest.raises(GgufError) as caught:
        read_header(path)

    assert str(caught.value) == f"{path}: expected a GGUF file, found one that begins with `PK\\x03\\x04\\x60zip`"
    assert caught.value.hint == "llama-server needs the model in GGUF format"


def test_folder_and_fifo(tmp_path: Path) -> None:
    """A folder or a FIFO is refused without opening it: that could wait for ever."""
    os.mkfifo(tmp_path / "fifo")

    assert reason_of(tmp_path) is Reason.NOT_A_FILE
    assert reason_of(tmp_path / "fifo") is Reason.NOT_A_FILE


def test_missing_file(tmp_path: Path) -> None:
    """A missing file stays an `OSError`."""
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "nope.gguf")


@pytest.mark.parametrize(
    ("pairs", "quantisation"),
    [
        ((pair("general.file_type", U32, struct.pack("<I", 15)),), "Q4_K_M"),
        ((pair("general.file_type", U32, struct.pack("<I", 1024 + 7)),), "Q8_0"),
        ((pair("general.file_type", U32, struct.pack("<I", 999)),), "MXFP4"),
        ((), "MXFP4"),
    ],
)
def test_quantisation(tmp_path: Path, pairs: tuple[bytes, ...], quantisation: str) -> None:
    """The file type decides; without a known one, the type that most weights have."""
    tensors = (tensor("norm", (32,), 0), tensor("bias", (32,), 0), tensor("weights", (64, 2), 39))

    assert read_header(write(tmp_path / "x.gguf", *pairs, tensors=tensors)).quantisation == quantisation


def test_unknown_tensor_type(tmp_path: Path) -> None:
    """A tensor type newer than our table costs the size check, not the header."""
    alignment = pair("general.alignment", U32, struct.pack("<I", 64))
    path = write(tmp_path / "x.gguf", alignment, tensors=(tensor("t", (10,), 77, offset=640),))
    data_begins = -(-path.stat().st_size // 64) * 64

    header = read_header(path)

    assert (header.expected_bytes, header.parameters, header.quantisation) == (data_begins + 640, 10, "")


def test_facts_of_a_wrong_type(tmp_path: Path) -> None:
    """A fact of another type than llama.cpp's counts as unknown."""
    path = write(
        tmp_path / "x.gguf",
        pair("general.architecture", STRING, text("llama")),
        pair("llama.context_length", STRING, text("8k")),
        pair("llama.block_count", BOOL, b"\x01"),
        pair("llama.embedding_length", I32, struct.pack("<i", -1)),
    )

    header = read_header(path)

    assert (header.context_length, header.block_count, header.embedding_length) == (None, None, None)


@pytest.mark.parametrize(
    ("pairs", "tensors", "counts"),
    [
        ((), (), (0, 1 << 40)),
        ((), (), (1 << 40, 0)),
        ((struct.pack("<Q", 1 << 20),), (), (0, 1)),
        ((pair("k", 13, b""),), (), None),
        ((pair("k", STRING, struct.pack("<Q", 1 << 60)),), (), None),
        ((pair("k", ARRAY, struct.pack("<IQ", STRING, 1 << 60)),), (), None),
        ((pair("k", ARRAY, struct.pack("<IQ", U64, 1 << 60)),), (), None),
        ((pair("k", ARRAY, struct.pack("<IQ", ARRAY, 1)),), (), None),
        ((pair("general.alignment", U32, struct.pack("<I", 48)),), (), None),
        ((pair("split.count", U32, struct.pack("<I", 1 << 20)),), (), None),
        ((), (tensor("t", (1, 1, 1, 1, 1), 0),), None),
        ((), (tensor("t", (1 << 40, 1 << 40), 0),), None),
        ((), (tensor("t", (1,), 0, offset=1 << 62),), None),
    ],
)
def test_implausible(
    tmp_path: Path, pairs: tuple[bytes, ...], tensors: tuple[bytes, ...], counts: tuple[int, int] | None
) -> None:
    """A count, length or type that no model has is refused before anything is done with it."""
    assert reason_of(write(tmp_path / "x.gguf", *pairs, tensors=tensors, counts=counts)) is Reason.IMPLAUSIBLE


class CountingPath(type(Path())):  # type: ignore[misc]  # the concrete class is chosen at run time
    """A path whose file counts the bytes that are read from it."""

    bytes_read: ClassVar[int] = 0

    def open(self, mode: str = "r", buffering: int = -1, *_: object) -> FileIO:
        file = super().open(mode, buffering)
        read = file.read

        class Counting:
            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

            def __enter__(self) -> Counting:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def read(self, count: int) -> bytes:
                block = read(count)
                CountingPath.bytes_read += len(block)
                return block

        return Counting()  # type: ignore[return-value]


def bytes_read(path: Path) -> int:
    CountingPath.bytes_read = 0
    read_header(CountingPath(path))
    return CountingPath.bytes_read


def test_seeks_over_what_nobody_asks_for(tmp_path: Path) -> None:
    """Long arrays and texts are not read, however long."""
    scores = pair("scores", ARRAY, struct.pack("<IQ", F32, 5_000_000) + bytes(20_000_000))
    template = pair("tokenizer.chat_template", STRING, text("x" * 10_000_000))
    path = write(tmp_path / "x.gguf", scores, template, pair("general.name", STRING, text("after")))

    assert read_header(path).name == "after"
    assert bytes_read(path) < 2_000_000


def test_stops_reading_a_sparse_giant(tmp_path: Path) -> None:
    """A giant of zeros that claims as many strings as allowed costs a bounded read, and no more than a few seconds."""
    most = 4 * 1024 * 1024
    path = write(tmp_path / "x.gguf", pair("k", ARRAY, struct.pack("<IQ", STRING, most)))
    os.truncate(path, 1 << 33)

    assert bytes_read(path) < 40_000_000


@bounded
@given(content=st.binary(max_size=400), with_magic=st.booleans())
def test_random_bytes(scratch: Path, content: bytes, with_magic: bool) -> None:
    """Random bytes give a header or a `GgufError`, nothing else."""
    scratch.write_bytes(b"GGUF\x03\0\0\0" * with_magic + content)

    header_or_error(scratch)


@bounded
@given(data=st.data())
def test_mutations(header_bytes: bytes, scratch: Path, data: st.DataObject) -> None:
    """A damaged header gives a header or a `GgufError`, nothing else."""
    content = bytearray(header_bytes)
    for _ in range(data.draw(st.integers(1, 6))):
        patch = data.draw(st.binary(min_size=1, max_size=1) | st.sampled_from(EXTREMES))
        at = data.draw(st.integers(0, len(content) - len(patch)))
        content[at : at + len(patch)] = patch
    scratch.write_bytes(content)

    header_or_error(scratch)


EXTREMES = [struct.pack("<Q", number) for number in (0, 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)]


@bounded
@given(data=st.data())
def test_truncations(models: Path, header_bytes: bytes, scratch: Path, data: st.DataObject) -> None:
    """Cut anywhere in its header, a file is truncated; cut anywhere later, incomplete."""
    content = (models / "tiny-b.gguf").read_bytes()
    header_length = len(header_bytes)
    length = data.draw(st.integers(1, header_length - 1) | st.integers(header_length, len(content) - 1))
    scratch.write_bytes(content[:length])

    if length < header_length:
        assert reason_of(scratch) is Reason.TRUNCATED
    else:
        assert not read_header(scratch).is_complete


def header_or_error(path: Path) -> None:
    with suppress(GgufError):
        header = read_header(path)
        assert header.parameters < 1 << 62
        assert header.expected_bytes < 1 << 62
        assert size_on_disk(path, header) == path.stat().st_size


def test_table_of_tensor_types() -> None:
    """Every tensor type the gguf package knows has the same block in our table."""
    ours = {number: (entry.name, entry.elements, entry.bytes) for number, entry in TENSOR_TYPES.items()}

    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    # Never in a file, and llama.cpp itself says 36 bytes (`ggml_type_size`), the package 40.
    del theirs[gguf.GGMLQuantizationType.Q8_1]

    assert theirs.items() <= ours.items()


def test_table_of_file_types() -> None:
    """Every file type the gguf package knows has its short name in our table."""
    theirs = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}

    assert {number: name for number, name in theirs.items() if number < 1024}.items() <= FILE_TYPES.items()


def test_models_are_the_same_in_every_run(models: Path, tmp_path: Path) -> None:
    """Tiny models are byte-identical in every run, and small."""
    load_script().make_tiny_models(tmp_path)

    again = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    assert again == {path.name: path.read_bytes() for path in models.iterdir()}
    assert sum(map(len, again.values())) < 5_000_000


def test_models_are_kept(models: Path, tmp_path: Path) -> None:
    """Making models again writes only what is missing."""
    (tmp_path / "tiny-a.gguf").write_bytes(b"mine")

    load_script().make_tiny_models(tmp_path)

    assert (tmp_path / "tiny-a.gguf").read_bytes() == b"mine"
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in models.iterdir()}
