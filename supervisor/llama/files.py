"""What is wrong with a model's files, as far as their headers tell: there, readable, of the right kind, complete."""

from __future__ import annotations

import difflib
import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.llama.binary import answers
from supervisor.llama.command import PATHS
from supervisor.llama.diagnosis import Diagnosis, found
from supervisor.llama.gguf import GgufError, Header, Reason, read_header, size_on_disk, split_paths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.config.values import Option

NEIGHBOURS = 500
"""Files whose names are compared with one that is missing."""

_PROJECTOR = "clip"
"""The architecture a projector names in its header."""
ROLES = {"model": "model", "mmproj": "projector", "lora": "LoRA", "spec-draft-model": "draft", "model-draft": "draft"}
_CODES = {"model": "model_file", "mmproj": "mmproj"}
_SOURCES = {"model", "m", "hf-repo", "hf", "hfr", "docker-repo", "dr"}


class Files:
    """Looks at files; remembers headers as long as the files stay the same."""

    def __init__(self) -> None:
        self._headers: dict[Path, tuple[tuple[int, int], Header | GgufError]] = {}

    def problems(self, options: Mapping[str, Option]) -> Iterator[Diagnosis]:
        """Everything that is wrong with the files these options name; paths are absolute here."""
        yield from _source_problems(options)
        broken = False
        for key in sorted(PATHS & options.keys()):
            for path in paths_of(options[key]):
                if problem := self._problem(key, path):
                    broken = True
                    yield problem
        if not broken and (mismatch := self._mismatch(options)):
            yield mismatch

    def header(self, value: Option | None) -> Header | None:
        """The header of a file that is there and sound."""
        path = Path(value) if isinstance(value, str) else None
        if path is None or not answers(path.is_file) or not os.access(path, os.R_OK):
            return None
        header = self._read(path)
        return None if isinstance(header, GgufError) else header

    def size(self, options: Mapping[str, Option]) -> int | None:
        """Bytes of the model's files, splits and projector included."""
        model, header, projector = (
            options.get("model"),
            self.header(options.get("model")),
            self.header(options.get("mmproj")),
        )
        if header is None or not isinstance(model, str):
            return None
        return size_on_disk(Path(model), header) + (projector.file_bytes if projector else 0)

    def _problem(self, key: str, path: Path) -> Diagnosis | None:
        what = ROLES.get(key, f"`{key}`")
        if (problem := _access_problem(key, what, path)) or key not in ROLES:
            return problem
        header = self._read(path)
        if isinstance(header, GgufError):
            return _gguf_problem(what, path, header)
        return self._part_problem(what, path, header) or _role_problem(key, path, header)

    def _part_problem(self, what: str, path: Path, first: Header) -> Diagnosis | None:
        if first.split_no > 0:
            return found("split_invalid", detail=f"`{path.name}` is part {first.split_no + 1} of {first.split_count}")
        for part in split_paths(path, first):
            if not answers(part.exists):
                message = f"the {what} file `{path}` is the first of {first.split_count} parts, and `{part}` is missing"
                return found("model_file_missing", message=message, hint="put the missing part into the same directory")
            header = first if part == path else self._read(part)
            if isinstance(header, GgufError):
                return _gguf_problem(what, part, header)
            if not header.is_complete:
                return _incomplete(what, part, header)
        return None

    def _mismatch(self, options: Mapping[str, Option]) -> Diagnosis | None:
        """A projector makes embeddings of the length of the models it was made for."""
        model, projector = self.header(options.get("model")), self.header(options.get("mmproj"))
        if model is None or projector is None or None in {model.embedding_length, projector.projection_length}:
            return None
        if model.embedding_length == projector.projection_length:
            return None
        return found(
            "mmproj_mismatch",
            detail=f"its embeddings have length {projector.projection_length}, the model's {model.embedding_length}",
        )

    def _read(self, path: Path) -> Header | GgufError:
        status = path.stat()
        identity = (status.st_size, status.st_mtime_ns)
        known = self._headers.get(path)
        if known is None or known[0] != identity:
            self._headers[path] = known = (identity, _read(path))
        return known[1]


def paths_of(value: Option) -> list[Path]:
    """The files an option names: one, a list, or several with commas between."""
    parts = value if isinstance(value, tuple) else (value,)
    return [Path(piece) for part in parts if isinstance(part, str) for piece in part.split(",") if piece]


def _read(path: Path) -> Header | GgufError:
    try:
        return read_header(path)
    except GgufError as exc:
        return exc


def _source_problems(options: Mapping[str, Option]) -> Iterator[Diagnosis]:
    if any(options.get(key) for key in _SOURCES):
        return
    hint = ""
    if options.keys() & {"model-url", "mu"}:
        hint = "set `model` to the file the download goes to: with `model-url` alone llama-server starts empty"
    yield found("no_model_given", hint=hint)


def _access_problem(key: str, what: str, path: Path) -> Diagnosis | None:
    code = _CODES.get(key, "file")
    try:
        path.stat()
    except PermissionError:
        return _unreadable(code, what, path)
    except OSError:
        return found(
            f"{code}_missing", message=f"the {what} file `{path}` does not exist", hint=_missing_hint(path), path=path
        )
    if key in ROLES and path.is_dir():
        message = f"`{path}` is a directory, not a {what} file"
        return found(f"{code}_missing", message=message, hint="name the .gguf file in it")
    return None if os.access(path, os.R_OK) else _unreadable(code, what, path)


def _unreadable(code: str, what: str, path: Path) -> Diagnosis:
    return found(
        f"{code}_unreadable", message=f"the {what} file `{path}` cannot be read by this user (uid {os.geteuid()})"
    )


def _missing_hint(path: Path) -> str:
    parent = next(parent for parent in path.parents if answers(parent.exists))
    if parent != path.parent:
        return f"the directory `{path.parent}` does not exist either; the path is right up to `{parent}`"
    if not os.access(parent, os.R_OK):
        return ""
    others = sorted(other.name for other in islice(path.parent.glob("*.gguf"), NEIGHBOURS))
    close = difflib.get_close_matches(path.name, others, n=3, cutoff=0.0)
    return f"in that directory there is: {', '.join(close)}" if close else ""


def _gguf_problem(what: str, path: Path, error: GgufError) -> Diagnosis:
    facts = f"expected {error.expected}, found {error.found}"
    if error.reason in {Reason.TRUNCATED, Reason.EMPTY}:
        message = f"the {what} file `{path}` is incomplete ({facts})"
        return found("model_file_truncated", message=message, hint=error.hint)
    message = f"the {what} file `{path}` is not a usable GGUF file ({facts})"
    return found("model_file_not_gguf", message=message, hint=error.hint)


def _incomplete(what: str, path: Path, header: Header) -> Diagnosis:
    return found(
        "model_file_truncated",
        message=f"the {what} file `{path}` is incomplete (tensor data ends past the end of the file)",
        hint=f"download it again; {_amount(header.file_bytes)} of {_amount(header.expected_bytes)} are there",
    )


def _role_problem(key: str, path: Path, header: Header) -> Diagnosis | None:
    is_projector = header.architecture == _PROJECTOR
    if key == "mmproj" and not is_projector:
        message = f"`{path}` is not a projector but a model of architecture `{header.architecture}`"
        return found("mmproj_not_a_projector", message=message)
    if key == "lora" and header.type != "adapter":
        return found("lora_failed", detail=f"`{path}` is of type `{header.type}`, not `adapter`")
    if key in {"model", "spec-draft-model", "model-draft"} and (is_projector or header.type == "adapter"):
        kind = "a projector" if is_projector else "a LoRA adapter"
        return found("not_a_main_model", message=f"`{path}` is {kind}, not a language model")
    return None


def _amount(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
