"""What can be known of a model without starting it: its binary, its flags, its files."""

from __future__ import annotations

import difflib
import os
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from supervisor.config.problems import nearest
from supervisor.config.schema import MODEL
from supervisor.llama.binary import BinaryNotFound, NotExecutable, check_executable, find_binary, is_llama_server
from supervisor.llama.command import PATHS, SECRETS, Surroundings, child_environment, model_options, resolved
from supervisor.llama.diagnosis import Diagnosis, match_line
from supervisor.llama.flags import check_options
from supervisor.llama.gguf import GgufError, Header, Reason, read_header, size_on_disk, split_paths
from supervisor.llama.help_cache import HelpFailed, catalogue_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.config.values import Model, Option
    from supervisor.llama.help_text import Catalogue

PROJECTOR = "clip"
"""The architecture a projector names in its header."""

NEIGHBOURS = 500
"""Files whose names are compared with one that is missing."""

_WEIGHTS = ("model", "mmproj", "spec-draft-model", "model-draft")
_SOURCES = {"model", "m", "hf-repo", "hf", "hfr", "docker-repo", "dr"}


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a look at a model found."""

    problems: tuple[Diagnosis, ...] = ()
    binary: Path | None = None
    catalogue: Catalogue | None = None
    """The flags of its llama-server; None for a wrapper or another server."""
    header: Header | None = None
    projector: Header | None = None
    size: int | None = None
    """Bytes of the model's files on disk, splits and projector included."""


class Inspector:
    """Looks at models; remembers headers as long as the files stay the same."""

    def __init__(self, around: Surroundings, *, cache_dir: Path | None) -> None:
        self._around = around
        self._cache_dir = cache_dir
        self._binaries: dict[str | None, Path] = {}
        self._headers: dict[Path, tuple[tuple[int, int], Header | GgufError]] = {}

    async def inspect(self, model: Model) -> Inspection:
        """Everything that is wrong with this model, and what a start of it needs to know."""
        if model.cmd:
            problem = self._program_problem(model.cmd[0])
            return Inspection(problems=(problem,) if problem else ())
        try:
            binary = self._binary(model.binary)
            check_executable(binary)
            catalogue = await self._catalogue(binary, model)
        except (BinaryNotFound, NotExecutable, HelpFailed) as exc:
            return Inspection(problems=(_binary_problem(exc),))
        options = model_options(model, self._around)
        flags = _flag_problems(catalogue, options) if catalogue else ()
        files = await anyio.to_thread.run_sync(self._inspect_files, options)
        return Inspection(
            problems=(*flags, *files.problems),
            binary=binary,
            catalogue=catalogue,
            header=files.header,
            projector=files.projector,
            size=files.size,
        )

    def _binary(self, named: str | None) -> Path:
        """Searching takes 2 ms, which a swap need not pay again."""
        known = self._binaries.get(named)
        if known is None or not known.exists():
            around = self._around
            known = find_binary(named, base=around.base, environ=around.environ, home=around.home)
            self._binaries[named] = known
        return known

    async def _catalogue(self, binary: Path, model: Model) -> Catalogue | None:
        if not is_llama_server(binary):
            return None
        env = {**child_environment(self._around), **model.env}
        return await catalogue_of(binary, cache_dir=self._cache_dir, env=env)

    def _program_problem(self, program: str) -> Diagnosis | None:
        path = Path(shutil.which(program, path=self._around.environ.get("PATH", "")) or program)
        if "/" in program:
            path = resolved(program, self._around)
        elif not path.is_absolute():
            hint = "give `cmd` the absolute path of the program"
            return Diagnosis("binary_not_found", f"the program `{program}` of `cmd` is not on PATH", hint)
        try:
            check_executable(path)
        except NotExecutable as exc:
            return _binary_problem(exc)
        return None

    def _inspect_files(self, options: dict[str, Option]) -> Inspection:
        problems = list(_source_problems(options))
        for key in sorted(PATHS & options.keys()):
            problems += (found for path in _paths(options[key]) if (found := self._file_problem(key, path)))
        header, projector = (self._usable_header(options.get(key)) for key in ("model", "mmproj"))
        size = None
        if header is not None and isinstance(model := options["model"], str):
            size = size_on_disk(Path(model), header) + (projector.file_bytes if projector else 0)
        return Inspection(problems=tuple(problems), header=header, projector=projector, size=size)

    def _file_problem(self, key: str, path: Path) -> Diagnosis | None:
        what = "projector" if key == "mmproj" else "model" if key in _WEIGHTS else f"`{key}`"
        if (problem := _access_problem(key, what, path)) or key not in _WEIGHTS:
            return problem
        header = self._header(path)
        if isinstance(header, GgufError):
            return _gguf_problem(what, path, header)
        missing = next((part for part in split_paths(path, header) if not part.exists()), None)
        if missing is not None:
            message = f"the {what} file `{path}` is the first of {header.split_count} parts and `{missing}` is missing"
            return Diagnosis("model_file_missing", message, "download the missing part into the same directory")
        if not header.is_complete:
            return Diagnosis(
                "model_file_truncated",
                f"the {what} file `{path}` is incomplete (tensor data ends past the end of the file)",
                f"download it again; {_gigabytes(header.file_bytes)} of {_gigabytes(header.expected_bytes)} are there",
            )
        return _role_problem(key, path, header)

    def _usable_header(self, value: Option | None) -> Header | None:
        if not isinstance(value, str) or not Path(value).is_file():
            return None
        header = self._header(Path(value))
        return None if isinstance(header, GgufError) else header

    def _header(self, path: Path) -> Header | GgufError:
        try:
            status = path.stat()
            identity = (status.st_size, status.st_mtime_ns)
            known = self._headers.get(path)
            if known is None or known[0] != identity:
                self._headers[path] = known = (identity, read_header(path))
        except GgufError as exc:
            self._headers[path] = known = (identity, exc)
        return known[1]


def _flag_problems(catalogue: Catalogue, options: dict[str, Option]) -> Iterator[Diagnosis]:
    known = {key: value for key, value in options.items() if key not in SECRETS}
    for problem in check_options(catalogue, known):
        ours = nearest(problem.key.replace("-", "_"), MODEL) if problem.cause == "unknown_flag" else None
        hint = f"did you mean our own key `{ours}`?" if ours else problem.hint
        yield Diagnosis(problem.cause, problem.message, hint)


def _binary_problem(exc: BinaryNotFound | NotExecutable | HelpFailed) -> Diagnosis:
    match exc:
        case BinaryNotFound():
            return Diagnosis("binary_not_found", exc.message, exc.hint, tuple(exc.looked))
        case NotExecutable():
            return Diagnosis(exc.cause, exc.message, exc.hint)
        case HelpFailed():
            lines = exc.stderr.splitlines()
            known = next((found for line in lines if (found := match_line(line))), None)
            unknown = Diagnosis(
                "binary_does_not_run",
                exc.message,
                "run it by hand to see what it needs",
                tuple(lines[-5:]),
            )
            return known or unknown


def _source_problems(options: dict[str, Option]) -> Iterator[Diagnosis]:
    if options.keys() & _SOURCES:
        return
    hint = "set `model` to a GGUF file, or `hf-repo`"
    if options.keys() & {"model-url", "mu"}:
        hint = "set `model` to the file the download goes to: with `model-url` alone llama-server starts empty"
    yield Diagnosis("no_model_given", "the config names no model file", hint)


def _access_problem(key: str, what: str, path: Path) -> Diagnosis | None:
    prefix = {"model": "model_file", "mmproj": "mmproj"}.get(key, "file")
    try:
        path.stat()
    except PermissionError:
        return _unreadable(prefix, what, path)
    except OSError:
        return Diagnosis(f"{prefix}_missing", f"the {what} file `{path}` does not exist", _missing_hint(path))
    if key in _WEIGHTS and path.is_dir():
        return Diagnosis(
            f"{prefix}_missing", f"`{path}` is a directory, not a {what} file", "name the .gguf file in it"
        )
    return None if os.access(path, os.R_OK) else _unreadable(prefix, what, path)


def _unreadable(prefix: str, what: str, path: Path) -> Diagnosis:
    return Diagnosis(
        f"{prefix}_unreadable",
        f"the {what} file `{path}` cannot be read by this user (uid {os.geteuid()})",
        "give the service's user read permission on the file and its directories",
    )


def _missing_hint(path: Path) -> str:
    parent = next(parent for parent in path.parents if parent.exists())
    if parent != path.parent:
        return f"the directory `{path.parent}` does not exist either; the path is right up to `{parent}`"
    others = sorted(other.name for other in islice(path.parent.glob("*.gguf"), NEIGHBOURS))
    close = difflib.get_close_matches(path.name, others, n=3, cutoff=0.0)
    return f"in that directory there is: {', '.join(close)}" if close else "check the path, or download the file"


def _gguf_problem(what: str, path: Path, error: GgufError) -> Diagnosis:
    facts = f"expected {error.expected}, found {error.found}"
    if error.reason in {Reason.TRUNCATED, Reason.EMPTY}:
        return Diagnosis("model_file_truncated", f"the {what} file `{path}` is incomplete ({facts})", error.hint)
    return Diagnosis("model_file_not_gguf", f"the {what} file `{path}` is not a usable GGUF file ({facts})", error.hint)


def _role_problem(key: str, path: Path, header: Header) -> Diagnosis | None:
    is_projector = header.architecture == PROJECTOR
    if key == "mmproj" and not is_projector:
        message = f"`{path}` is not a projector but a model of architecture `{header.architecture}`"
        return Diagnosis("mmproj_not_a_projector", message, "`mmproj` needs the mmproj-….gguf of this model")
    if key == "model" and is_projector:
        message = f"`{path}` is a projector, not a language model"
        return Diagnosis("not_a_main_model", message, "name it with `mmproj`, and the language model with `model`")
    return None


def _paths(value: Option) -> list[Path]:
    parts = value if isinstance(value, tuple) else (value,)
    return [Path(piece) for part in parts if isinstance(part, str) for piece in part.split(",") if piece]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
