"""What is wrong with a model's files, as far as their headers tell: there, readable, of the right kind, complete."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.llama.binary import answers
from supervisor.llama.command import LISTS, PATHS
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
DRAFTS = ("spec-draft-model", "model-draft")
_CODES = {"model": "model_file", "mmproj": "mmproj"}
_WRITTEN = {"log-file", "lookup-cache-dynamic"}
_FETCHED = {"model": {"model-url", "mu"}, "mmproj": {"mmproj-url", "mmu"}}
_SOURCES = {"model", "m", "hf-repo", "hf", "hfr", "docker-repo", "dr"}


@dataclass(frozen=True, slots=True)
class Sight:
    """What a look at a model's files found."""

    problems: tuple[Diagnosis, ...]
    header: Header | None
    projector: Header | None
    size: int | None


class Files:
    """Looks at files; remembers headers as long as the files stay the same."""

    def __init__(self) -> None:
        self._headers: dict[Path, tuple[tuple[int, int], Header | GgufError]] = {}

    def problems(self, options: Mapping[str, Option]) -> Iterator[Diagnosis]:
        """Everything that is wrong with the files these options name; paths are absolute here."""
        yield from _source_problems(options)
        broken = False
        for key in sorted(PATHS & options.keys()):
            for path in paths_of(key, options[key]):
                if _may_be_missing(key, path, options):
                    continue
                if problem := self._problem(key, path):
                    broken = True
                    yield problem
        if not broken and (mismatch := self._mismatch(options)):
            yield mismatch

    def look(self, options: Mapping[str, Option]) -> Sight:
        """Everything about the files these options name; touches the disk, so call it in a thread."""
        return Sight(
            tuple(self.problems(options)),
            self.header(options.get("model")),
            self.header(options.get("mmproj")),
            self.size(options),
        )

    def parts(self, value: Option | None) -> tuple[Path, ...]:
        """The parts of a split model, as far as its header has been read."""
        known = self._headers.get(Path(value)) if isinstance(value, str) else None
        if known is None or isinstance(known[1], GgufError):
            return ()
        return split_paths(Path(str(value)), known[1])

    def known(self, value: Option | None) -> Header | None:
        """The header of a file that has been looked at before."""
        found = self._headers.get(Path(value)) if isinstance(value, str) else None
        return None if found is None or isinstance(found[1], GgufError) else found[1]

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
        return self._part_problem(key, path, header) or _role_problem(key, path, header)

    def _part_problem(self, key: str, path: Path, first: Header) -> Diagnosis | None:
        what = ROLES[key]
        if first.split_no > 0:
            return found("split_invalid", detail=f"`{path.name}` is part {first.split_no + 1} of {first.split_count}")
        for part in split_paths(path, first):
            if not answers(part.exists):
                message = f"the {what} file `{path}` is the first of {first.split_count} parts, and `{part}` is missing"
                return found("model_file_missing", message=message, hint="put the missing part into the same directory")
            if problem := _access_problem(key, what, part):
                return problem
            header = first if part == path else self._read(part)
            if isinstance(header, GgufError):
                return _gguf_problem(what, part, header)
            if not header.is_complete:
                return _incomplete(what, part, header)
        return None

    def _mismatch(self, options: Mapping[str, Option]) -> Diagnosis | None:
        """A projector makes embeddings of the length of the models it was made for."""
        model, projector = self.header(options.get("model")), self.header(options.get("mmproj"))
        if model is None or projector is None or not (model.embedding_length and projector.projection_length):
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


def paths_of(key: str, value: Option) -> list[Path]:
    """The files an option names: one, a list, or for some options several with commas between."""
    parts = [part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, str)]
    pieces = (piece for part in parts for piece in (part.split(",") if key in LISTS else [part]))
    return [Path(piece) for piece in pieces if piece]


def _may_be_missing(key: str, path: Path, options: Mapping[str, Option]) -> bool:
    """Files that llama-server writes or downloads itself."""
    is_made = key in _WRITTEN or bool(_FETCHED.get(key, set()) & options.keys())
    return is_made and not os.path.lexists(path)


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
    others = sorted(other.name for other in islice(path.parent.glob(f"*{path.suffix}"), NEIGHBOURS))
    close = difflib.get_close_matches(path.name, others, n=3, cutoff=0.5)
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
