"""What can be known of a model without loading it: its binary, its flags, its files."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from supervisor.config.problems import nearest
from supervisor.config.schema import MODEL
from supervisor.llama import trial
from supervisor.llama.binary import (
    BinaryNotFound,
    NotExecutable,
    answers,
    check_executable,
    find_binary,
    is_llama_server,
)
from supervisor.llama.command import (
    PATHS,
    SECRETS,
    Surroundings,
    child_environment,
    llama_command,
    model_options,
    resolved,
)
from supervisor.llama.diagnosis import Diagnosis, first_known, found
from supervisor.llama.downloads import download_warnings
from supervisor.llama.endpoint import UnixEndpoint
from supervisor.llama.files import ROLES, Files, paths_of
from supervisor.llama.flags import check_options
from supervisor.llama.help_cache import HelpFailed, catalogue_of
from supervisor.llama.warnings import ModelWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from supervisor.config.values import Model, Option
    from supervisor.llama.gguf import Header
    from supervisor.llama.help_text import Catalogue

LONGEST_SOCKET_PATH = 107
"""Bytes; what sockaddr_un holds (unix(7)), without the final zero."""

BOUNDED = frozenset({"parallel", "np", "main-gpu", "mg"})
"""Options whose number llama-server itself checks while it reads its arguments."""

Fingerprint = tuple[object, ...]
"""What a model's start depends on outside its config: the identities of its files."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a look at a model found."""

    problems: tuple[Diagnosis, ...] = ()
    warnings: tuple[ModelWarning, ...] = ()
    binary: Path | None = None
    catalogue: Catalogue | None = None
    """The flags of its llama-server; None for a wrapper or another server."""
    header: Header | None = None
    projector: Header | None = None
    size: int | None = None
    """Bytes of the model's files on disk, splits and projector included."""


@dataclass(slots=True)
class Inspector:
    """Looks at models; remembers what it has read as long as the files stay the same."""

    around: Surroundings
    cache_dir: Path | None
    _files: Files = field(default_factory=Files)
    _binaries: dict[str | None, Path] = field(default_factory=dict)
    _trials: trial.Trials = field(default_factory=trial.Trials)

    async def inspect(self, model: Model) -> Inspection:
        """What a start needs to know, and everything that would make it fail. Takes no time that a swap would feel."""
        if model.cmd:
            problem = self._program_problem(model)
            return Inspection(problems=(problem,) if problem else ())
        try:
            binary = self._binary(model.binary)
            check_executable(binary)
            catalogue = await self._catalogue(binary, model)
        except (BinaryNotFound, NotExecutable, HelpFailed) as exc:
            return Inspection(problems=(_binary_problem(exc),))
        options = model_options(model, self.around)
        problems = [*_flag_problems(catalogue, options), *self._socket_problems(model)]
        seen = await anyio.to_thread.run_sync(self._files.look, options, abandon_on_cancel=True)
        problems += seen.problems
        problems += await self._gpu_problems(model, binary, options)
        return Inspection(
            problems=tuple(problems),
            warnings=tuple(await self._warnings(model, binary, catalogue, options)),
            binary=binary,
            catalogue=catalogue,
            header=seen.header,
            projector=seen.projector,
            size=seen.size,
        )

    async def examine(self, model: Model) -> Inspection:
        """As `inspect`, and lets the binary itself judge its arguments: 20 to 60 ms, for when nobody waits."""
        seen = await self.inspect(model)
        if seen.problems or seen.binary is None or seen.catalogue is None:
            return seen
        # Without what makes each model another one, so that a thousand models of one kind are one trial.
        options = {key: value for key, value in model.options.items() if _is_worth_a_trial(key, value)}
        stand_in = replace(model, id="trial", options=options)
        command = llama_command(
            stand_in, self.around, binary=seen.binary, catalogue=seen.catalogue, endpoint=self._endpoint()
        )
        problem = await self._trials.problem(command, identity=str(self.fingerprint(stand_in)))
        return replace(seen, problems=(problem,)) if problem else seen

    def fingerprint(self, model: Model) -> Fingerprint:
        """Changes when the binary or a file of this model changes."""
        try:
            program = self._on_path(model.cmd[0], model) if model.cmd else self._binary(model.binary)
        except BinaryNotFound:
            program = Path()
        options = {} if model.cmd else model_options(model, self.around)
        paths = [program, *(path for key in sorted(PATHS & options.keys()) for path in paths_of(key, options[key]))]
        parts = self._files.parts(options.get("model"))
        return tuple((str(path), *_identity(path)) for path in (*paths, *parts))

    def weights(self, model: Model) -> tuple[Path, ...]:
        """The files a start of this model reads as a whole, in the order it reads them."""
        options = model_options(model, self.around)
        first = [path for key in ("model", "mmproj") if key in options for path in paths_of(key, options[key])]
        return tuple(dict.fromkeys((*first, *self._files.parts(options.get("model")))))

    def _binary(self, named: str | None) -> Path:
        """Searching takes 2 ms, which a swap need not pay again."""
        known = self._binaries.get(named)
        if known is None or not answers(known.exists):
            around = self.around
            known = find_binary(named, base=around.base, environ=around.environ, home=around.home)
            self._binaries[named] = known
        return known

    async def _catalogue(self, binary: Path, model: Model) -> Catalogue | None:
        if not is_llama_server(binary):
            return None
        env = {**child_environment(self.around), **model.env}
        return await catalogue_of(binary, cache_dir=self.cache_dir, env=env)

    def _on_path(self, program: str, model: Model) -> Path:
        """A program as the child's own PATH finds it."""
        path = {**self.around.environ, **model.env}.get("PATH", os.defpath)
        return Path(shutil.which(program, path=path) or program)

    def _program_problem(self, model: Model) -> Diagnosis | None:
        program = model.cmd[0]
        path = self._on_path(program, model)
        if "/" in program:
            path = resolved(program, self.around)
        elif not path.is_absolute():
            message = f"the program `{program}` of `cmd` is not on PATH"
            return found("binary_not_found", message=message, hint="give `cmd` the absolute path of the program")
        try:
            check_executable(path)
        except NotExecutable as exc:
            return _binary_problem(exc)
        return None

    def _endpoint(self) -> UnixEndpoint:
        return UnixEndpoint(self.around.private_dir / "0.sock")

    def _socket_problems(self, model: Model) -> Iterator[Diagnosis]:
        path = str(self.around.private_dir / "99999999.sock")
        if model.transport.value == "unix" and len(path.encode()) > LONGEST_SOCKET_PATH:
            yield found("socket_path_too_long", path=path)

    async def _gpu_problems(self, model: Model, binary: Path, options: dict[str, Option]) -> list[Diagnosis]:
        if model.require_gpu and is_llama_server(binary) and await self._sees_no_gpu(model, binary):
            return [found("gpu_required")]
        return []

    async def _warnings(
        self, model: Model, binary: Path, catalogue: Catalogue | None, options: dict[str, Option]
    ) -> list[ModelWarning]:
        environ = {**self.around.environ, **model.env}
        warnings = [
            *_draft_warnings(catalogue, options),
            *download_warnings(options, environ, self.around.home),
        ]
        if catalogue and _wants_gpu(options) and not model.require_gpu and await self._sees_no_gpu(model, binary):
            message = "layers were asked for the GPU, but this llama-server sees none: the model runs on the processor"
            hint = "check driver and build; `require_gpu = true` makes this a failure"
            warnings.append(ModelWarning("no_usable_gpu", message, hint))
        return warnings

    async def _sees_no_gpu(self, model: Model, binary: Path) -> bool:
        devices = await self.devices(model, binary)
        return devices is not None and not devices  # a binary that does not say so is not accused

    async def devices(self, model: Model, binary: Path, *, none_for: float = trial.NONE_FOR) -> Sequence[str] | None:
        """The devices this model's llama-server sees, a line each; None when it does not say.

        That there is none is asked again after `none_for` seconds.
        """
        env = {**child_environment(self.around), **model.env}
        return await self._trials.devices(binary, env, none_for=none_for)


def _flag_problems(catalogue: Catalogue | None, options: dict[str, Option]) -> Iterator[Diagnosis]:
    if catalogue is None:
        return
    known = {key: value for key, value in options.items() if key not in SECRETS}
    for problem in check_options(catalogue, known):
        flag = catalogue.find(problem.key)
        if flag is not None and flag.removed:
            yield found("removed_flag", message=problem.message, hint=problem.hint)
            continue
        ours = nearest(problem.key.replace("-", "_"), MODEL) if problem.cause == "unknown_flag" else None
        hint = f"did you mean our own key `{ours}`?" if ours else problem.hint
        yield found(problem.cause, message=problem.message, hint=hint, flag=problem.key)


def _draft_warnings(catalogue: Catalogue | None, options: dict[str, Option]) -> Iterator[ModelWarning]:
    """A draft model without a kind of speculation is loaded and never used, and only a trace log says so."""
    has_draft = options.keys() & {"spec-draft-model", "model-draft", "md"}
    if has_draft and "spec-type" not in options and catalogue and catalogue.find("spec-type"):
        message = "the draft model is loaded but not used unless it is of a kind that llama-server recognises"
        yield ModelWarning("draft_unused", message, 'set `spec-type = "draft-simple"`')


def _is_worth_a_trial(key: str, value: Option) -> bool:
    """Files have been looked at and names are free; numbers are mostly right, but a few have bounds."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return key not in ROLES and key != "alias" and not (is_number and key not in BOUNDED)


def _wants_gpu(options: dict[str, Option]) -> bool:
    if options.get("device", options.get("dev")) == "none":
        return False
    layers = next((options[key] for key in ("n-gpu-layers", "gpu-layers", "ngl") if key in options), 0)
    return layers == "all" or (isinstance(layers, int) and layers > 0)


def _binary_problem(exc: BinaryNotFound | NotExecutable | HelpFailed) -> Diagnosis:
    match exc:
        case BinaryNotFound():
            return found("binary_not_found", message=exc.message, hint=exc.hint, evidence=exc.looked)
        case NotExecutable():
            return found(exc.cause, message=exc.message, hint=exc.hint)
        case HelpFailed():
            lines = exc.stderr.splitlines()
            if isinstance(exc.__cause__, OSError):
                lines.append(f"{exc.binary}: {exc.__cause__.strerror}")
            return first_known(lines) or found("binary_does_not_run", message=exc.message, evidence=lines[-5:])


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, for every request to a broken model
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)
