"""What can be known of a model without loading it: its binary, its flags, its files."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from supervisor.llama import trial
from supervisor.llama.arguments import file_options, in_a_command, options_of, read_arguments
from supervisor.llama.binary import (
    NAME,
    BinaryNotFound,
    NotExecutable,
    answers,
    check_executable,
    find_binary,
    is_llama_server,
)
from supervisor.llama.command import (
    PATHS,
    Surroundings,
    child_environment,
    llama_command,
    model_options,
    raw_command,
    resolved,
)
from supervisor.llama.diagnosis import Diagnosis, found
from supervisor.llama.downloads import download_warnings
from supervisor.llama.endpoint import UnixEndpoint
from supervisor.llama.files import DRAFTS, Files, paths_of
from supervisor.llama.help_cache import HelpFailed, catalogue_of
from supervisor.llama.judgement import (
    binary_problem,
    draft_warnings,
    flag_problems,
    from_home,
    is_worth_a_trial,
    trial_words,
    wants_gpu,
    words_problems,
)
from supervisor.llama.warnings import ModelWarning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from supervisor.config.values import Model, Option
    from supervisor.llama.gguf import Header
    from supervisor.llama.help_text import Catalogue

LONGEST_SOCKET_PATH = 107
"""Bytes; what sockaddr_un holds (unix(7)), without the final zero."""

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
    draft: Header | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    """Its llama-server options, files as absolute paths; of a command line, as far as it is a llama-server's."""

    @property
    def problem(self) -> Diagnosis | None:
        """The first problem, with the others named in its hint."""
        if len(self.problems) < 2:
            return next(iter(self.problems), None)
        first, *others = self.problems
        return replace(first, hint=f"{first.hint}; also: {'; '.join(other.message for other in others)}")


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
            return await self._inspect_command(model)
        try:
            binary = self._binary(model.binary)
            check_executable(binary)
            catalogue = await self._catalogue(binary, model)
        except (BinaryNotFound, NotExecutable, HelpFailed) as exc:
            return Inspection(problems=(binary_problem(exc),))
        options = model_options(model, self.around)
        problems = [*flag_problems(catalogue, options), *self._socket_problems(model)]
        seen = await self._looked(model, binary, catalogue, options)
        return replace(seen, problems=(*problems, *seen.problems))

    async def _inspect_command(self, model: Model) -> Inspection:
        """What can be known of any program, and of a llama-server as much as if its options were in the config."""
        asked = Inspection(warnings=tuple(self._stop_warnings(model)))
        if problem := self._program_problem(model.cmd, model):
            return replace(asked, problems=(problem,))
        binary = self._program(model.cmd, model)
        if not binary.name.startswith(NAME) or not is_llama_server(binary):
            return asked
        try:
            catalogue = await self._catalogue(binary, model)
        except HelpFailed as exc:
            return replace(asked, problems=(binary_problem(exc),))
        assert catalogue is not None
        arguments = read_arguments(catalogue, model.cmd[1:])
        problems, misread = words_problems(catalogue, arguments)
        seen = await self._looked(model, binary, catalogue, options_of(arguments, self.around))
        # Without a model it is a router, or its environment names one.
        broken = [from_home(each, self.around) for each in seen.problems if each.cause != "no_model_given"]
        warnings = [replace(each, hint=in_a_command(catalogue, each.hint)) for each in seen.warnings]
        return replace(seen, problems=(*problems, *broken), warnings=(*asked.warnings, *misread, *warnings))

    def _stop_warnings(self, model: Model) -> Iterator[ModelWarning]:
        if model.cmd_stop and (problem := self._program_problem(model.cmd_stop, model)):
            message = f"it cannot be stopped as told, only by a signal: {problem.message}"
            yield ModelWarning("stop_command_missing", message, problem.hint)

    async def _looked(
        self, model: Model, binary: Path, catalogue: Catalogue | None, options: dict[str, Option]
    ) -> Inspection:
        """At the files these options name, and at what else speaks against a start."""
        seen = await anyio.to_thread.run_sync(self._files.look, options, abandon_on_cancel=True)
        return Inspection(
            problems=(*seen.problems, *await self._gpu_problems(model, binary)),
            warnings=tuple(await self._warnings(model, binary, catalogue, options)),
            binary=binary,
            catalogue=catalogue,
            header=seen.header,
            projector=seen.projector,
            size=seen.size,
            draft=self._files.known(next((options[key] for key in DRAFTS if key in options), None)),
            options=options,
        )

    async def examine(self, model: Model) -> Inspection:
        """As `inspect`, and lets the binary itself judge its arguments: 20 to 60 ms, for when nobody waits."""
        seen = await self.inspect(model)
        if seen.problems or seen.binary is None or seen.catalogue is None:
            return seen
        # Without what makes each model another one, so that a thousand models of one kind are one trial.
        if model.cmd:
            arguments = read_arguments(seen.catalogue, model.cmd[1:])
            stand_in = replace(model, cmd=(model.cmd[0], *trial_words(arguments)))
            command = raw_command(stand_in, self.around, port=0, program=seen.binary)
        else:
            options = {key: value for key, value in model.options.items() if is_worth_a_trial(key, value)}
            stand_in = replace(model, id="trial", options=options)
            command = llama_command(
                stand_in, self.around, binary=seen.binary, catalogue=seen.catalogue, endpoint=self._endpoint()
            )
        problem = await self._trials.problem(command, identity=str(self.fingerprint(stand_in)))
        return replace(seen, problems=(problem,)) if problem else seen

    def fingerprint(self, model: Model) -> Fingerprint:
        """Changes when the binary or a file of this model changes."""
        try:
            program = self._program(model.cmd, model) if model.cmd else self._binary(model.binary)
        except BinaryNotFound:
            program = Path()
        options = file_options(model.cmd, self.around) if model.cmd else model_options(model, self.around)
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

    def _program(self, words: Sequence[str], model: Model) -> Path:
        """The program of a command: a path of the config, or as the child's own PATH finds it."""
        program = words[0]
        if "/" in program:
            return resolved(program, self.around)
        path = {**self.around.environ, **model.env}.get("PATH", os.defpath)
        return Path(shutil.which(program, path=path) or program)

    def _program_problem(self, words: Sequence[str], model: Model) -> Diagnosis | None:
        path = self._program(words, model)
        if "/" not in words[0] and not path.is_absolute():
            message = f"the program `{words[0]}` is not on PATH"
            return found("binary_not_found", message=message, hint="give the absolute path of the program")
        try:
            check_executable(path)
        except NotExecutable as exc:
            return binary_problem(exc)
        return None

    def _endpoint(self) -> UnixEndpoint:
        return UnixEndpoint(self.around.private_dir / "0.sock")

    def _socket_problems(self, model: Model) -> Iterator[Diagnosis]:
        path = str(self.around.private_dir / "99999999.sock")
        if model.transport.value == "unix" and len(path.encode()) > LONGEST_SOCKET_PATH:
            yield found("socket_path_too_long", path=path)

    async def _gpu_problems(self, model: Model, binary: Path) -> list[Diagnosis]:
        if model.require_gpu and is_llama_server(binary) and await self._sees_no_gpu(model, binary):
            return [found("gpu_required")]
        return []

    async def _warnings(
        self, model: Model, binary: Path, catalogue: Catalogue | None, options: dict[str, Option]
    ) -> list[ModelWarning]:
        environ = {**self.around.environ, **model.env}
        warnings = [
            *draft_warnings(catalogue, options),
            *download_warnings(options, environ, self.around.home),
        ]
        if catalogue and wants_gpu(options) and not model.require_gpu and await self._sees_no_gpu(model, binary):
            message = "layers were asked for the GPU, but this llama-server sees none: the model runs on the processor"
            hint = "check driver and build; in models.toml, `require_gpu = true` makes this a failure"
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

    async def listing(self, model: Model, binary: Path) -> Sequence[str] | None:
        """All that this model's llama-server prints about the devices it sees; None when it does not say."""
        env = {**child_environment(self.around), **model.env}
        return await self._trials.listing(binary, env, none_for=math.inf)


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, for every request to a broken model
    except OSError:
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)
