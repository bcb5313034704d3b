"""A llama-server's arguments as keys of models.toml, and two command lines compared by what the binary reads. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.config.options import OPTIONS, SAMPLING
from supervisor.config.schema import MODEL
from supervisor.llama.arguments import Argument, argument_problems, read_arguments
from supervisor.llama.command import LISTS, PATHS, SECRETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from supervisor.config.values import Option
    from supervisor.llama.help_text import Catalogue

ADDRESS = frozenset({"host", "port"})
"""Where a child listens is for us to say."""
NUMBERS = frozenset({"N", "P", "INDEX", "SEED", "SECONDS", "SIMILARITY"})
"""What the help calls the value of an option that is a number, however it is spelled."""

REPEATED = frozenset(
    ("dry-sequence-breaker", "logit-bias", "lora", "lora-scaled", "control-vector-scaled", "override-kv")
)
"""Options that are given once for each of several values, where the help does not tell how to join them."""


class Unsayable(Exception):
    """Raised when keys cannot say what a command line says; the message tells what and why."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a command line comes to in models.toml."""

    options: dict[str, Option] = field(default_factory=dict)
    sampling: dict[str, Option] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()
    """Options of which only the last one holds."""
    address: Mapping[str, str] = field(default_factory=dict)
    """Where it was told to listen."""


def keys_of(catalogue: Catalogue, words: Sequence[str]) -> Keys:
    """The words after the program as keys; raises `Unsayable`."""
    arguments = read_arguments(catalogue, words)
    for problem in argument_problems(catalogue, arguments):
        if problem.cause != "bad_flag_value":  # a key is refused for the same reason, and says so
            raise Unsayable(problem.message)
    options: dict[str, Option] = {}
    repeated: list[str] = []
    for each in arguments:
        key = key_of(each)
        option = _option(each)
        if key in options and _adds_up(each):
            option = _both(each, options[key], option)
        elif key in options:
            repeated.append(each.typed)
        if key.replace("-", "_") in MODEL:
            raise Unsayable(f"`{each.typed}` would be taken for the key `{key}` of ours")
        options[key] = option
    address = {key: str(options.pop(key)) for key in sorted(ADDRESS & options.keys())}
    for key, value in options.items():
        if "${" in str(value).replace("${env:", ""):
            raise Unsayable(f"`{value}` of `{key}` is known only when it starts")
    sampling = {key: options.pop(key) for key in [key for key in options if key in SAMPLING]}
    return Keys(options, sampling, tuple(repeated), address)


def key_of(argument: Argument) -> str:
    """The name of an option that people know it by, where it has several."""
    if argument.flag is None:
        return argument.key
    names = [name[2:] for name in argument.flag.longs if name not in argument.flag.negatives]
    return next((name for names_of in (PATHS, OPTIONS, SAMPLING) for name in names if name in names_of), argument.key)


def key_named(catalogue: Catalogue, word: str) -> str | None:
    """The key of the option a word is; None if this binary has no such option."""
    (argument, *_) = read_arguments(catalogue, [word])
    return key_of(argument) if argument.flag is not None else None


def _adds_up(argument: Argument) -> bool:
    """Whether a binary may keep what it is told first when it is told more."""
    return argument.flag is not None and (argument.flag.separator is not None or key_of(argument) in REPEATED)


def _both(argument: Argument, before: Option, option: Option) -> Option:
    """The value of an option that is there again; some builds add up what others take the last of."""
    if option == before:
        return before
    if argument.flag is None or argument.flag.separator is not None:
        raise Unsayable(f"`{argument.typed}` is there more than once, which llama-servers read differently")
    return (
        *(before if isinstance(before, tuple) else (before,)),
        *(option if isinstance(option, tuple) else (option,)),
    )


def _option(argument: Argument) -> Option:
    """The value of a key; a number only where that loses nothing of its spelling that counts."""
    option = argument.option
    is_number = isinstance(option, int | float) and not isinstance(option, bool)
    if is_number and str(option) != argument.values[0] and not _takes_a_number(argument):
        return argument.values[0]
    return option


def _takes_a_number(argument: Argument) -> bool:
    return argument.flag is not None and argument.flag.hint in NUMBERS


@dataclass(frozen=True, slots=True)
class Setting:
    """One option as a binary reads it."""

    shown: str
    value: tuple[str, ...]


def settings_of(catalogue: Catalogue, words: Sequence[str], *, base: Path) -> dict[str, Setting]:
    """What the words after the program tell a binary, but for where it listens; the last word on an option counts."""
    settings: dict[str, Setting] = {}
    for each in read_arguments(catalogue, words):
        if each.key in ADDRESS:
            continue
        shown = f"{each.typed} …" if each.key in SECRETS else " ".join((each.typed, *each.values))
        key, value = SECRETS.get(each.key, each.key), _value(each, base)
        if key in settings and _adds_up(each) and settings[key].value != value:
            shown, value = f"{settings[key].shown} {shown}", settings[key].value + value
        settings[key] = Setting(shown, value)
    return settings


def _value(argument: Argument, base: Path) -> tuple[str, ...]:
    option = argument.option
    if isinstance(option, bool):
        return (str(option),)
    if _takes_a_number(argument) and isinstance(option, int | float):
        return (str(float(option)),)
    if argument.key in PATHS:
        texts = [part for text in argument.values for part in (text.split(",") if argument.key in LISTS else [text])]
        return tuple(str(base / text) for text in texts)
    return argument.values


def differences(first: Mapping[str, Setting], second: Mapping[str, Setting]) -> tuple[list[str], list[str]]:
    """What only the first says, and what only the second does."""
    return (
        [each.shown for key, each in first.items() if key not in second or second[key].value != each.value],
        [each.shown for key, each in second.items() if key not in first or first[key].value != each.value],
    )


def shared_keys(catalogue: Catalogue, texts: Iterable[Sequence[str]]) -> dict[str, Option]:
    """The keys that pieces of command lines stand for; what is no whole option of this binary is left out."""
    found: dict[str, Option] = {}
    for words in texts:
        start = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
        for each in read_arguments(catalogue, words[start:]):
            is_whole = each.flag is not None and not each.flag.removed and len(each.values) == each.flag.arity
            if is_whole and each.key not in ADDRESS | SECRETS.keys():
                found[key_of(each)] = _option(each)
    return found
