"""`llama-supervise import`: read another tool's config, write models.toml, prove that both say the same."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from supervisor import console
from supervisor.config import toml
from supervisor.config.loader import YAML, load_yaml, text_of
from supervisor.config.problems import ConfigInvalid, Problem
from supervisor.config.secrets import Redactor
from supervisor.config.values import Config, Model
from supervisor.importing import folder, llama_swap, preset, proof
from supervisor.importing.preset import Preset
from supervisor.importing.source import Source
from supervisor.importing.wrapped import unwrapped
from supervisor.llama.command import KEY_VARIABLE
from supervisor.local_commands import launcher_of
from supervisor.runtime.marks import MARK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.importing.draft import Draft, Note
    from supervisor.importing.proof import Verdict
    from supervisor.llama.command import Command
    from supervisor.llama.help_text import Catalogue
    from supervisor.llama.preflight import Inspection
    from supervisor.runtime.launcher import Launcher

PRESET = ".ini"
SHOWN_NOTES = 100


@dataclass(slots=True)
class Import:
    """A page, proven as far as it can be."""

    source: Path
    draft: Draft
    config: Config
    """What the page comes to when it is read."""
    verdicts: list[Verdict]
    lost: list[Note] = field(default_factory=list)
    redact: Redactor = field(default_factory=Redactor)

    @property
    def notes(self) -> list[Note]:
        return [*self.draft.notes, *self.lost]

    def text(self) -> str:
        """The file, with what had no place in it at its end."""
        if self.lost:
            below = [f"Not carried over from {self.source.name}:", *(f"  {note}" for note in self.lost)]
            self.draft.page.below[:0] = map(self.redact, below)
        return self.draft.page.render()


def run(path: Path, *, output: Path | None, force: bool = False) -> int:
    """Write models.toml for a file or folder of another tool; 1 if a model's command line is not the same."""
    if output is not None and output.exists() and not force:
        console.complain(f"{output} is there already", "name another file, or let it be replaced with `--force`")
        return 2
    home = Path.cwd() if output is None else output.absolute().parent
    if not home.is_dir():
        console.complain(f"the folder {home} is not there", "make it first")
        return 2
    imported = _imported(path, home)
    text = imported.text()
    if output is None:
        sys.stdout.write(text)
    else:
        _write(output, text, like=path)
    _report(imported, output)
    return 0 if all(verdict.is_same for verdict in imported.verdicts) else 1


def _write(output: Path, text: str, *, like: Path) -> None:
    """What stands in the source may be secret: nobody may read more of it here than there."""
    if like.is_file():
        output.touch(like.stat().st_mode & 0o666)
    output.write_text(text, "utf-8")


def _imported(path: Path, home: Path) -> Import:
    if path.is_dir():
        drafted = folder.draft(_seen_from(path, home), _entries(path))
        return anyio.run(_of_router, path, home, drafted)
    if path.suffix in YAML:
        config = unwrapped(load_yaml(path, environ=os.environ))
        return anyio.run(_of_llama_swap, path, home, config, text_of(path))
    if path.suffix == PRESET:
        return anyio.run(_of_preset, path, home, text_of(path))
    expected = "a llama-swap file (.yaml), a preset of llama.cpp (.ini) or a folder of GGUF files"
    raise ConfigInvalid([Problem(str(path), expected)], source=path)


# llama-swap.


async def _of_llama_swap(path: Path, home: Path, config: Config, text: str) -> Import:
    launcher = launcher_of(config)
    inspections = {name: await _seen(launcher, model) for name, model in config.models.items()}
    catalogues = {name: each.catalogue for name, each in inspections.items() if each.catalogue is not None}
    base = None if config.base == home else home
    source = Source(path.name, text, config, dict(os.environ), catalogues=catalogues, base=base)
    commands: dict[str, str] = {}
    while True:
        drafted = llama_swap.draft(source, commands=commands)
        made = toml.parse(drafted.page.render(), base=home, environ=os.environ)
        verdicts = [await _compared(name, launcher, inspections[name], config, made) for name in config.models]
        further = {each.model: _why(each) for each in verdicts if not each.is_same and not made.models[each.model].cmd}
        if not further:
            return Import(path, drafted, made, verdicts, proof.lost(config, made), Redactor.of(config))
        commands |= further


def _why(verdict: Verdict) -> str:
    return f"as keys it would say {', '.join(verdict.only_after) or 'nothing'} for {', '.join(verdict.only_before)}"


async def _compared(name: str, launcher: Launcher, seen: Inspection, config: Config, made: Config) -> Verdict:
    model = config.models[name]
    before = _unmarked(launcher.commands.of(model, seen, run=1))
    after = await _command(replace(made.models[name], port=model.port), made)
    if made.models[name].cmd or seen.catalogue is None:
        return proof.of_commands(name, before, after)
    words = (str(seen.binary), *before.argv[1:])
    options = proof.of_options(name, words, after, catalogue=seen.catalogue, base=config.base, env=before.env)
    return options + proof.of_environments(name, before, after)


# llama.cpp's router.


async def _of_preset(path: Path, home: Path, text: str) -> Import:
    _, catalogue = await _binary(home)
    here = Path.cwd()
    try:
        drafted = preset.draft(Preset(path.name, text, catalogue, here, None if here == home else home))
    except ConfigInvalid as invalid:
        raise invalid.of(path) from invalid
    return await _of_router(path, home, drafted)


async def _of_router(path: Path, home: Path, drafted: Draft) -> Import:
    made = toml.parse(drafted.page.render(), base=home, environ=os.environ)
    binary, catalogue = await _binary(home)
    verdicts = []
    for name, model in made.models.items():
        after = await _command(model, made)
        words = (str(binary), *drafted.words[name])
        verdict = proof.of_options(name, words, after, catalogue=catalogue, base=Path.cwd(), env=os.environ)
        verdicts.append(verdict)
    return Import(path, drafted, made, verdicts, redact=Redactor.of(made))


async def _binary(home: Path) -> tuple[Path, Catalogue]:
    """The llama-server that models without a binary of their own will be run with."""
    seen = await _seen(launcher_of(Config(home)), Model("import"))
    if seen.binary is None or seen.catalogue is None:
        problem = seen.problems[0]
        raise ConfigInvalid([Problem("llama-server", "one that tells its options", problem.message, problem.hint)])
    return seen.binary, seen.catalogue


def _entries(path: Path) -> Mapping[str, list[str] | None]:
    """What is in a folder: the names of files, and of folders with the names of their files."""
    return {
        each.name: [inner.name for inner in each.iterdir() if inner.is_file()] if each.is_dir() else None
        for each in path.iterdir()
    }


def _seen_from(path: Path, home: Path) -> Path:
    absolute = path.absolute()
    return absolute.relative_to(home) if absolute.is_relative_to(home) else absolute


# Commands.


async def _seen(launcher: Launcher, model: Model) -> Inspection:
    await launcher.check(model)
    return launcher.inspections[model.id]


async def _command(model: Model, config: Config) -> Command:
    """What `llama-supervise command` prints for it."""
    launcher = launcher_of(config)
    return _unmarked(launcher.commands.of(model, await _seen(launcher, model), run=1))


def _unmarked(command: Command) -> Command:
    ours = {MARK, KEY_VARIABLE} if command.api_key is not None else {MARK}
    return replace(command, env={name: value for name, value in command.env.items() if name not in ours})


# What is told.


def _report(imported: Import, output: Path | None) -> None:
    kept = [name for name, model in imported.config.models.items() if model.cmd]
    count = len(imported.config.models)
    models = "1 model" if count == 1 else f"{count} models"
    console.tell(f"{models} from {imported.source}" + (f" in {output}" if output is not None else ""))
    if kept:
        console.tell(f"{count - len(kept)} as keys, {len(kept)} as commands: {', '.join(kept)}")
    for note in imported.notes[:SHOWN_NOTES]:
        console.caution(imported.redact(str(note)))
    differing = [verdict for verdict in imported.verdicts if not verdict.is_same]
    for verdict in differing:
        console.complain(f"models.{verdict.model} has another command line")
        for sign, words in (("-", verdict.only_before), ("+", verdict.only_after)):
            for word in words:
                console.tell(imported.redact(f"  {sign} {word}"))
    if count and not differing:
        console.tell("every command line is the same, but for where children listen")
