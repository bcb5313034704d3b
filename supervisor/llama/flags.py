"""Options of a config against what one binary takes: which are wrong, and the arguments the right ones become.

Pure. A false alarm would keep a good model from starting, so whatever the help leaves open is accepted.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.llama.help_text import Catalogue, Flag, parse_help

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from supervisor.config.values import Option, Scalar

__all__ = ["Catalogue", "Flag", "FlagProblem", "argv", "check_options", "parse_help", "replacement"]

RESERVED = frozenset({"host", "port"})

_REPLACEMENTS = {
    # llama.cpp PR #28334 took these away in September 2026.
    "mmap": 'load-mode = "mmap"',
    "no-mmap": 'load-mode = "none"',
    "mlock": 'load-mode = "mlock"',
    "no-mlock": 'load-mode = "auto"',
    "direct-io": 'load-mode = "dio"',
    "dio": 'load-mode = "dio"',
    "no-direct-io": 'load-mode = "auto"',
    "ndio": 'load-mode = "auto"',
    "draft": "spec-draft-n-max",
    "draft-n": "spec-draft-n-max",
    "draft-max": "spec-draft-n-max",
    "draft-min": "spec-draft-n-min",
    "draft-n-min": "spec-draft-n-min",
    "draft-p-min": "spec-draft-p-min",
    "draft-p-split": "spec-draft-p-split",
    "model-draft": "spec-draft-model",
    "hf-repo-draft": "spec-draft-hf",
    "device-draft": "spec-draft-device",
    "gpu-layers-draft": "spec-draft-ngl",
    "n-gpu-layers-draft": "spec-draft-ngl",
    "cache-type-k-draft": "spec-draft-type-k",
    "cache-type-v-draft": "spec-draft-type-v",
    "threads-draft": "spec-draft-threads",
    "spec-ngram-size-n": "spec-ngram-simple-size-n",
    "spec-ngram-size-m": "spec-ngram-simple-size-m",
    "spec-ngram-min-hits": "spec-ngram-simple-min-hits",
    "webui": "ui",
    "no-webui": "ui = false",
    "webui-config": "ui-config",
    "webui-config-file": "ui-config-file",
    "webui-mcp-proxy": "ui-mcp-proxy",
    # Other programs' words for the same thing.
    "context-length": "ctx-size",
    "n-ctx": "ctx-size",
    "num-ctx": "ctx-size",
    "num-gpu": "n-gpu-layers",
}

_NUMBER_HINTS = frozenset({"N", "P", "INDEX", "SEED", "SECONDS", "SIMILARITY"})
_QUOTED_WORD = re.compile(r"""(['"])([A-Za-z]\w*)\1""")
_ON_OFF = {"on", "enabled", "true", "1", "off", "disabled", "false", "0"}
_BEGINS_A_NUMBER = re.compile(r"[+-]?\d")
_THOUSANDS = re.compile(r"(\d+)\s*[kK]")


@dataclass(frozen=True, slots=True)
class FlagProblem:
    """Why one option cannot be given to this binary."""

    key: str
    cause: str
    """`unknown_flag`, `bad_flag_value`, `missing_flag_value` or `reserved_flag`."""
    message: str
    hint: str = ""
    is_misread: bool = False
    """Whether the binary takes the value all the same, and reads another one."""


def replacement(name: str) -> str | None:
    """What to write instead of an option that llama-server took away or renamed."""
    return _REPLACEMENTS.get(name.replace("_", "-").strip("-"))


def check_options(catalogue: Catalogue, options: Mapping[str, Option]) -> tuple[FlagProblem, ...]:
    """Every option this binary would refuse or silently misread."""
    found = (_problem(catalogue, key, value) for key, value in options.items())
    return tuple(problem for problem in found if problem)


def argv(catalogue: Catalogue | None, options: Mapping[str, Option]) -> list[str]:
    """The options as arguments, in the order of the mapping: llama-server lets the last one win."""
    catalogue = catalogue or Catalogue()
    return [argument for key, value in options.items() for argument in _arguments(catalogue, key, value)]


def _problem(catalogue: Catalogue, key: str, value: Option) -> FlagProblem | None:
    if key.replace("_", "-") in RESERVED:
        hint = "remove it; `[server]` says where the service listens"
        return FlagProblem(key, "reserved_flag", f"`{key}` is chosen by the supervisor for every run", hint)
    flag = catalogue.find(key)
    if flag is None:
        return _unknown(catalogue, key, value) if catalogue.flags else None
    if flag.removed:
        return FlagProblem(
            key, "unknown_flag", f"`{key}` was removed from this llama-server", _instead(catalogue, key, value)
        )
    if flag.is_bare:
        return _switch_problem(key, value)
    return _value_problem(flag, key, value)


def unknown_message(catalogue: Catalogue, key: str) -> str:
    """That this binary has no such option."""
    version = f" ({catalogue.version})" if catalogue.version else ""
    return f"this llama-server{version} has no option `{key}`"


def _unknown(catalogue: Catalogue, key: str, value: Option) -> FlagProblem:
    return FlagProblem(key, "unknown_flag", unknown_message(catalogue, key), _instead(catalogue, key, value))


def _instead(catalogue: Catalogue, key: str, value: Option) -> str:
    successor = replacement(_negated(key) if value is False else key)
    if successor and catalogue.find(successor.partition(" ")[0]):
        return f"write `{successor}` instead"
    nearest = catalogue.nearest(key)
    return f"did you mean `{nearest}`?" if nearest else "`llama-server --help` lists its options"


def _negated(key: str) -> str:
    return key[3:] if key.startswith("no-") else f"no-{key}"


def _switch_problem(key: str, value: Option) -> FlagProblem | None:
    if isinstance(value, bool):
        return None
    message = f"`{key}` is a switch without a value, got {_shown(value)}"
    return FlagProblem(key, "bad_flag_value", message, f"write `{key} = true` or `{key} = false`")


def _value_problem(flag: Flag, key: str, value: Option) -> FlagProblem | None:
    if isinstance(value, bool):
        return _missing(flag, key) if value and _toggle(flag, on=True) is None else None
    if flag.arity > 1:
        return _count_problem(flag, key, value)
    for item in _items(flag, value):
        if flag.choices and not all(map(str.isdigit, flag.choices)):
            problem = _choice_problem(flag, key, item)
        else:
            problem = _number_problem(flag, key, item)
        if problem:
            return problem
    return None


def _missing(flag: Flag, key: str) -> FlagProblem:
    message = f"`{key}` needs a value: `{flag.hint}`"
    return FlagProblem(key, "missing_flag_value", message, f"its help says: {flag.help}"[:200])


def _count_problem(flag: Flag, key: str, value: Option) -> FlagProblem | None:
    if len(_parts(value)) == flag.arity:
        return None
    message = f"`{key}` needs {flag.arity} values (`{flag.hint}`), got {_shown(value)}"
    return FlagProblem(key, "bad_flag_value", message, f"write a list of {flag.arity}")


def _choice_problem(flag: Flag, key: str, item: str) -> FlagProblem | None:
    if item in flag.choices or (flag.hint.startswith("[") and _is_on_off(flag, item)):
        return None
    message = f"`{key}` must be one of {', '.join(flag.choices)}, got {_shown(item)}"
    near = difflib.get_close_matches(item, flag.choices, n=1)
    return FlagProblem(key, "bad_flag_value", message, f'write `{key} = "{(near or flag.choices)[0]}"`')


def _is_on_off(flag: Flag, item: str) -> bool:
    return "on" in flag.choices and (item in _ON_OFF or (item == "-1" and "auto" in flag.choices))


def _number_problem(flag: Flag, key: str, item: str) -> FlagProblem | None:
    is_number = flag.hint in _NUMBER_HINTS or flag.choices
    if not is_number or _is_number(item) or item in _words(flag):
        return None
    hint = "write a plain number"
    if thousands := _THOUSANDS.fullmatch(item):
        hint = f"llama-server would read {thousands[1]}; write `{key} = {int(thousands[1]) * 1024}`"
    message = f"`{key}` must be a number, got {_shown(item)}"
    return FlagProblem(key, "bad_flag_value", message, hint, is_misread=bool(_BEGINS_A_NUMBER.match(item)))


def _is_number(item: str) -> bool:
    try:
        float(item)
    except ValueError:
        return False
    return True


def _words(flag: Flag) -> set[str]:
    return {word for _, word in _QUOTED_WORD.findall(flag.help)}


def _items(flag: Flag, value: Option) -> Iterable[str]:
    if flag.separator is None:
        return _texts(value)
    return [item.strip() for text in _texts(value) for item in text.split(flag.separator)]


def _arguments(catalogue: Catalogue, key: str, value: Option) -> Iterator[str]:
    flag = catalogue.find(key) or Flag(spellings=())
    typed = catalogue.spelling(key) or ("-" if len(key) == 1 else "--") + key
    if value is False:
        yield from _switched_off(catalogue, flag, typed)
    elif value is True:
        toggle = _toggle(flag, on=True)
        yield from (typed,) if toggle is None else (typed, toggle)
    elif flag.arity > 1:
        yield from (typed, *_parts(value))
    elif flag.separator and isinstance(value, tuple):
        yield from (typed, flag.separator.join(_texts(value))) if value else ()
    else:
        for text in _texts(value):
            yield from (typed, text)


def _switched_off(catalogue: Catalogue, flag: Flag, typed: str) -> tuple[str, ...]:
    if toggle := _toggle(flag, on=False):
        return typed, toggle
    name = typed.lstrip("-")
    names: tuple[str, ...]
    if typed in flag.negatives:
        same = "--" + name.removeprefix("no-")
        names = tuple(other for other in flag.spellings if other not in flag.negatives)
    else:
        same = f"--no-{name}"
        # `mmproj = false` is `--no-mmproj`, although that is the negative of another option.
        names = flag.negatives or ((same,) if catalogue.spelling(same[2:]) == same else ())
    longs = tuple(other for other in names if other.startswith("--"))
    return (same,) if same in names else (longs or names)[:1]


def _toggle(flag: Flag, *, on: bool) -> str | None:
    """The word for true or false of an option that takes one."""
    words = ("on", "off") if "on" in flag.choices else ("1", "0")
    word = words[0] if on else words[1]
    return word if word in flag.choices else None


def _parts(value: Option) -> list[str]:
    return value.split() if isinstance(value, str) else _texts(value)


def _texts(value: Option) -> list[str]:
    return [_text(item) for item in value] if isinstance(value, tuple) else [_text(value)]


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Option) -> str:
    return json.dumps(value, ensure_ascii=False)
