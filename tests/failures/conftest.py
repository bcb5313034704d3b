"""What the tests of failures share: files and programs that are broken, each in one way."""

from __future__ import annotations

import shutil
import socket
import tempfile
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGUFWriter

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory, tiny: Path, wheel_binary: Path) -> Path:
    """The directory of what is broken beyond what `make_tiny_models` writes."""
    folder = tmp_path_factory.mktemp("broken")
    folder.chmod(0o755)
    _write_models(folder, tiny)
    _write_adapter(folder / "lora-other-arch.gguf", "qwen2", columns=64)
    _write_adapter(folder / "lora-other-shape.gguf", "llama", columns=32)
    _write_projector(folder / "mmproj-wide.gguf")
    _write_texts(folder)
    _write_programs(folder, wheel_binary)
    return folder


@pytest.fixture(scope="session")
def taken_port() -> Iterator[int]:
    """A port on loopback that is listened on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture(scope="session")
def shared(tiny: Path) -> Iterator[Path]:
    """A directory every user can enter; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="llama-supervise-test-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file, mode in (("model.gguf", 0o644), ("locked.gguf", 0o200)):
            shutil.copy(tiny / "tiny-a.gguf", folder / file)
            (folder / file).chmod(mode)
        yield folder


@pytest.fixture(scope="session")
def places(tiny: Path, broken: Path, shared: Path, taken_port: int) -> dict[str, object]:
    """What the braces of the rows stand for."""
    return {"tiny": tiny, "broken": broken, "shared": shared, "taken": taken_port, "PORT": "{PORT}"}


def _write_models(folder: Path, tiny: Path) -> None:
    """Changes of the same length, so that every offset in the file stays right."""
    model = (tiny / "tiny-a.gguf").read_bytes()
    part = (tiny / "tiny-split-00001-of-00002.gguf").read_bytes()
    changed = {
        "template.gguf": (b"{% for message", b"{% fro message"),
        "shape.gguf": (b"llama.feed_forward_length" + _uint(256), b"llama.feed_forward_length" + _uint(128)),
        "count.gguf": (b"llama.block_count" + _uint(2), b"llama.block_count" + _uint(1)),
        "vocabulary.gguf": (_text(b"y") + _text(b"z"), _text(b"z") + _text(b"y")),
    }
    for name, (old, new) in changed.items():
        assert old in model
        (folder / name).write_bytes(model.replace(old, new))
    (folder / "cut-in-header.gguf").write_bytes(model[:20])
    (folder / "cut-in-metadata.gguf").write_bytes(model[:40])
    (folder / "alone-00001-of-00002.gguf").write_bytes(part)
    (folder / "renamed.gguf").write_bytes(part)


def _uint(value: int) -> bytes:
    """A 32 bit integer as GGUF writes it, its type before it."""
    return (4).to_bytes(4, "little") + value.to_bytes(4, "little")


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(8, "little") + value


def _write_adapter(path: Path, architecture: str, *, columns: int) -> None:
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, columns), np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.zeros((64, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_projector(path: Path) -> None:
    """The tiny projector, made for models twice as wide."""
    loader = SourceFileLoader("make_tiny_models", str(ROOT / "scripts" / "make_tiny_models"))
    module = ModuleType("make_tiny_models")
    loader.exec_module(module)
    vars(module)["WIDTH"] = 128
    module.write_projector(path)


def _write_texts(folder: Path) -> None:
    (folder / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / "hello.gguf").write_text("hello")
    (folder / "bad.gbnf").write_text("root ::= (((")
    (folder / "bad.jinja").write_text("{% if %}{{")
    for name, text in {"value": "ctx-size = abc\n", "syntax": "[[[\n"}.items():
        config = folder / f"config-{name}" / "llama.cpp" / "config.ini"
        config.parent.mkdir(parents=True)
        config.write_text(text)
    (folder / "libs").mkdir()
    (folder / "libs" / "libm.so.6").write_text("x")
    (folder / "preload.so").write_text("x")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "stale.sock"))


def _write_programs(folder: Path, llama_server: Path) -> None:
    content = llama_server.read_bytes()
    programs = {
        "llama-server-bare": content,  # without the libraries that lie beside it
        "llama-server-cut": content[: len(content) // 2],
        "llama-server-arm": content[:18] + (183 if content[18] != 183 else 62).to_bytes(2, "little") + content[20:],
        "llama-server-macos": b"\xcf\xfa\xed\xfe" + b"\0" * 100,
        "llama-server-windows": b"MZ" + b"\0" * 100,
        "llama-server-text": b"echo hello\n",
        "llama-server-empty": b"",
        "llama-server-script": b"#!/nope/bash\necho hello\n",
        "llama-server-nested": f"#!{folder}/llama-server-script\n".encode(),
        "llama-server-locked": f"#!{folder}/hello.gguf\n".encode(),
        "llama-server-plain": content,
    }
    for name, each in programs.items():
        (folder / name).write_bytes(each)
        (folder / name).chmod(0o755)
    (folder / "llama-server-plain").chmod(0o644)
    (folder / "llama-server-folder").mkdir()
    (folder / "llama-server-dangling").symlink_to("/nope/llama-server")
