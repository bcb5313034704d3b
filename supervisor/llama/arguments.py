"""A llama-server's command line as its owner wrote it, read as the binary reads it, and what is wrong with it. Pure."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from supervisor.llama.command import LISTS, PATHS, SECRETS
from supervisor.llama.flags import FlagProblem, argv, check_options, unknown_message

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from supervisor.config.values import Option
    from supervisor.llama.command import Surroundings
    from supervisor.llama.help_text import Catalogue, Flag

_SHELL = frozenset(("&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1", "2>", "&>"))
_OURS = frozenset({"host", "port"})
"""Options that only whoever writes a whole command may give."""
_SHORT = {"m": "model", "mm": "mmproj", "md": "model-draft", "mv": "model-vocoder"}
_QUOTED = re.compile(r"`([\w-]+)(?: = (\"?)([^`\"]*)\2)?`")
_NUMBER = re.compile(r"-?\d{1,18}(?:\.\d{1,18})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Argument:
    """One option of a command line with what follows it, or words that are no option's."""

    typed: str
    flag: Flag | None = None
    """None: this binary has no such option."""
    values: tuple[str, ...] = ()
    follows: str = ""
    """The option before it."""

    @property
    def key(self) -> str:
        """The key of models.toml that says the same."""
        if self.flag is None:
            return self.typed.lstrip("-")
        names = [name[2:] for name in self.flag.longs if name not in self.flag.negatives] or [self.typed.lstrip("-")]
        return next((name for name in names if name in PATHS), names[0])

    @property
    def option(self) -> Option:
        """Its value in models.toml; what looks like a number is one."""
        if self.flag is None or self.flag.is_bare:
            return self.flag is None or self.typed not in self.flag.negatives
        if len(self.values) != 1:
            return self.values
        (value,) = self.values
        return (float(value) if "." in value else int(value)) if _NUMBER.fullmatch(value) else value


def read_arguments(catalogue: Catalogue, words: Sequence[str]) -> tuple[Argument, ...]:
    """The words after the program. An option takes what follows it, whatever that looks like."""
    flags = {typed: flag for flag in catalogue.flags for typed in flag.spellings}
    found: list[Argument] = []
    place = 0
    while place < len(words):
        word = _spelled(words[place])
        flag = flags.get(word)
        end = place + 1 + (flag.arity if flag else 0)
        if flag is None or flag.removed:
            # Nobody knows how many words it was to take.
            end = next((at for at in range(place + 1, len(words)) if words[at].startswith("-")), len(words))
        found.append(Argument(word, flag, tuple(words[place + 1 : end]), found[-1].typed if found else ""))
        place = end
    return tuple(found)


def file_options(words: Sequence[str], around: Surroundings) -> dict[str, Option]:
    """The files a llama-server's command line names, as far as that can be told without knowing its binary."""
    found: dict[str, Option] = {}
    for typed, value in pairwise(words):
        name = _spelled(typed).lstrip("-")
        key = name if typed.startswith("--") else _SHORT.get(name, "")
        if typed.startswith("-") and key in PATHS:
            found[key] = value
    return _with_files(found, around)


def options_of(arguments: Iterable[Argument], around: Surroundings) -> dict[str, Option]:
    """The options as in models.toml, files as absolute paths; a file whose name is not known yet is left out."""
    found: dict[str, Option] = {}
    for each in arguments:
        if each.flag is not None:
            has_more = each.key == "lora" and each.key in found
            found[each.key] = (*_texts(found[each.key]), *each.values) if has_more else each.option
    return _with_files(found, around)


def argument_problems(catalogue: Catalogue, arguments: Sequence[Argument]) -> Iterator[FlagProblem]:
    """What this binary would refuse or misread, in the words of a command line."""
    for each in arguments if catalogue.flags else ():
        if each.flag is None:
            yield _unknown(catalogue, each)
        elif len(each.values) < each.flag.arity and not each.flag.removed:
            yield FlagProblem(each.key, "missing_flag_value", f"`{each.typed}` needs a value: `{each.flag.hint}`")
        else:
            yield from _known(catalogue, each, each.flag)


def in_a_command(catalogue: Catalogue, hint: str) -> str:
    """A hint for models.toml in the words of a command line."""
    return _QUOTED.sub(lambda match: _written(catalogue, match), hint)


def _spelled(word: str) -> str:
    """As the binary looks it up: long names may have underscores."""
    return word.replace("_", "-") if word.startswith("--") and "=" not in word else word


def _unknown(catalogue: Catalogue, argument: Argument) -> FlagProblem:
    typed = argument.typed
    name, equals, _ = typed.partition("=")
    if equals and typed.startswith("-"):
        message = f"`{name}` takes its value as a word of its own, not behind `=`"
        return FlagProblem(name.lstrip("-"), "unknown_flag", message, f"write `{name} VALUE`")
    if not typed.startswith("-"):
        return _stray(argument)
    if other := catalogue.spelling(typed.lstrip("-")):  # `--ngl` for `-ngl`
        return FlagProblem(argument.key, "unknown_flag", unknown_message(catalogue, typed), f"write `{other}`")
    (problem,) = check_options(catalogue, {typed.lstrip("-"): True})
    return _as_typed(catalogue, typed, problem)


def _stray(argument: Argument) -> FlagProblem:
    shown = "a word" if argument.follows.lstrip("-") in SECRETS else f"the word `{argument.typed}`"
    after = f" after `{argument.follows}`" if argument.follows else ""
    hint = "put quotes around what belongs together, or name the option that it is the value of"
    if argument.typed in _SHELL:
        hint = "a command is no shell script; write `sh -c '…'` if it has to be one"
    return FlagProblem(argument.typed, "unknown_flag", f"this llama-server does not take {shown}{after}", hint)


def _known(catalogue: Catalogue, argument: Argument, flag: Flag) -> Iterator[FlagProblem]:
    if argument.key in {*_OURS, *SECRETS} or any("${" in value for value in argument.values):
        return
    value: Option = argument.values[0] if len(argument.values) == 1 else argument.values
    if flag.is_bare or flag.removed:
        value = True
    for problem in check_options(catalogue, {argument.typed.lstrip("-"): value}):
        cause = "removed_flag" if flag.removed else problem.cause
        yield replace(_as_typed(catalogue, argument.typed, problem), cause=cause)


def _as_typed(catalogue: Catalogue, typed: str, problem: FlagProblem) -> FlagProblem:
    message = problem.message.replace(f"`{problem.key}`", f"`{typed}`", 1)
    return replace(problem, message=message, hint=in_a_command(catalogue, problem.hint))


def _written(catalogue: Catalogue, match: re.Match[str]) -> str:
    """A key of models.toml, alone or with its value, as a command line has it."""
    key, quote, value = match.groups()
    spelling = catalogue.spelling(key)
    if spelling is None:
        return match[0]
    if value is None:
        return f"`{spelling}`"
    option: Option = value == "true" if not quote and value in {"true", "false"} else value
    return f"`{shlex.join(argv(catalogue, {key: option}))}`"


def _with_files(options: Mapping[str, Option], around: Surroundings) -> dict[str, Option]:
    """Paths begin where the command is run; no shell puts anything in the place of `~`."""
    found: dict[str, Option] = {}
    for key, value in options.items():
        if key not in PATHS:
            found[key] = value
        else:
            texts = [part for text in _texts(value) for part in (text.split(",") if key in LISTS else [text])]
            found[key] = tuple(str(around.base / text) for text in texts if text and "${" not in text)
    return {key: value[0] if isinstance(value, tuple) and len(value) == 1 else value for key, value in found.items()}


def _texts(value: Option) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)
