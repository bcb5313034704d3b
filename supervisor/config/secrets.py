"""What must never be shown: keys, tokens and passwords, found by the names they go by."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from supervisor.config.problems import Problem
    from supervisor.config.values import Config, Model

SHOWN_INSTEAD = "[redacted]"
SHORTEST = 6
"""Characters; hiding shorter values would make every text unreadable and protects nothing."""

_NAME = re.compile(r"(?:key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
_SECRETIVE_KEY = re.compile(r"(?:keys?|token|secrets?|password|passwd|credentials?)$", re.IGNORECASE)
_INDEX = re.compile(r"\[\d+\]")
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s\"']+@")
_VARIABLE = re.compile(r"\$\{env[:.]([^}]*)\}")
_BEARER = re.compile(r"(?P<kind>\b(?:bearer|basic) +)[\w.~+/=-]{6,}", re.IGNORECASE)
_QUERY = re.compile(r"(?P<name>[?&][\w-]*(?:key|token|secret|password)=)[^&\s\"']+", re.IGNORECASE)
_SHORT_FLAGS = frozenset({"-hft"})
_IN_TOML = re.compile(
    r"""(?P<name>["']?[\w.-]*(?:keys?|token|secrets?|password|passwd|credentials?|sha256)["']?\s*=\s*)"""
    r"""(?:"{3}.*?"{3}|'{3}.*?'{3}|\[(?:"[^"\n]*"|'[^'\n]*'|[^\]"'])*\]|"[^"\n]*"|'[^'\n]*'|[^\n]+)""",
    re.IGNORECASE | re.DOTALL,
)
_SECRETIVE = r"[\w.-]*(?:keys?|token|secrets?|password|passwd|credentials?)"
_VALUE = r"""(?P<value>"[^"]*"?|'[^']*'?|[^\s"',]+)"""
_KEY_IN_YAML = re.compile(
    rf"""(?P<shown>.*?(?:^|[\s{{,"'#-]){_SECRETIVE}["']?\s*:(?=[\s"']|$))(?P<value>.*)""", re.IGNORECASE
)
_WORDS_IN_YAML = (
    # `- NAME=VALUE`, `"NAME=VALUE"`, NAME=VALUE, and what follows a flag, perhaps in the next line.
    re.compile(rf"""(?P<shown>^[\s#]*-\s+{_SECRETIVE}=)(?P<value>.+)""", re.IGNORECASE | re.MULTILINE),
    re.compile(rf"""(?P<shown>(?P<quote>["']){_SECRETIVE}=)(?P<value>(?:(?!(?P=quote)).)+)""", re.IGNORECASE),
    re.compile(rf"""(?P<shown>\b{_SECRETIVE}=){_VALUE}""", re.IGNORECASE),
    re.compile(rf"""(?P<shown>(?:^|(?<=[\s"'\[,]))--?(?:{_SECRETIVE}|hft)["']?[\s,\\]+){_VALUE}""", re.I | re.M),
)
_REFERENCE = re.compile(r"\*(?P<anchor>[^\s,\]}]+)|\$\{(?P<macro>[\w-]+)\}")
_IN_COMMAND = re.compile(
    r"(?P<flag>--?[\w-]*(?:key|token|secret|password|passwd)(?:[ =]|\"\s*,\s*\"))(?P<value>[^\s\"',]+)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Redactor:
    """Takes known secrets out of any text."""

    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config) -> Redactor:
        """The secrets of a config, `${env:…}` already replaced by what it stood for."""
        found = config.secrets | {value for model in config.models.values() for value in _secrets(model)}
        return cls(tuple(sorted((value for value in found if len(value) >= SHORTEST), key=len, reverse=True)))

    def and_of(self, config: Config) -> Redactor:
        """These secrets, and those of another config."""
        values = {*self.values, *Redactor.of(config).values}
        return Redactor(tuple(sorted(values, key=len, reverse=True)))

    def __call__(self, text: str) -> str:
        """The text without them."""
        for value in self.values:
            if value in text:
                text = text.replace(value, SHOWN_INSTEAD)
        return text


class Secrets:
    """Takes the secrets of each config so far out of any text: children of a former one may still tell its."""

    def __init__(self, config: Config) -> None:
        self._redact = Redactor.of(config)

    def adopt(self, config: Config) -> None:
        """Those of this config are secret, too."""
        self._redact = self._redact.and_of(config)

    def with_key(self, key: str) -> Redactor:
        """Takes this key out as well, and what is known so far."""
        return Redactor((*self._redact.values, key))

    def __call__(self, text: str) -> str:
        """The text without them."""
        return self._redact(text)


def redacted(argv: Iterable[str]) -> tuple[str, ...]:
    """The arguments with keys, tokens and URL credentials replaced."""
    shown: list[str] = []
    hide_next = False
    for part in argv:
        name, equals, _ = part.partition("=")
        is_secret = part in _SHORT_FLAGS or (_NAME.search(name) is not None and (part.startswith("-") or equals != ""))
        if hide_next:
            shown.append(SHOWN_INSTEAD)
        elif is_secret and equals:
            shown.append(f"{name}={SHOWN_INSTEAD}")
        else:
            shown.append(_without_credentials(part))
        hide_next = is_secret and not equals
    return tuple(shown)


def variables(text: str, environ: Mapping[str, str]) -> frozenset[str]:
    """What the variables a text names stand for, where their names say that it is secret."""
    return frozenset(environ.get(name, "") for name in _VARIABLE.findall(text) if _NAME.search(name)) - {""}


def keys(config: Config) -> frozenset[str]:
    """Those that clients bring and that peers get, in a header or in their URL."""
    peers = config.peers.values()
    passwords = {word for peer in peers for word in _passwords(peer.proxy)}
    clients = (*config.server.api_keys, *(key.secret or "" for key in config.keys.values()))
    return frozenset({*clients, *(peer.api_key or "" for peer in peers), *passwords}) - {""}


def shown_problem(problem: Problem) -> Problem:
    """A problem as it may be shown to whoever reads logs: what stands where a secret should is not repeated."""
    name = _INDEX.sub("", problem.path).rpartition(".")[2]
    return replace(problem, found=SHOWN_INSTEAD) if problem.found and _SECRETIVE_KEY.search(name) else problem


def redacted_toml(text: str) -> str:
    """A config file as it may be shown to strangers."""
    text = _IN_TOML.sub(rf'\g<name>"{SHOWN_INSTEAD}"', text)
    return _without_credentials(text)


def redacted_yaml(text: str) -> str:
    """A llama-swap file as it may be shown to strangers, even if it is no YAML: rather too little than too much."""
    words = "\n".join(match["value"] for pattern in _WORDS_IN_YAML for match in pattern.finditer(text))
    for pattern in _WORDS_IN_YAML:
        text = pattern.sub(rf"\g<shown>{SHOWN_INSTEAD}", text)
    names: frozenset[str] = frozenset()
    while True:
        shown, hidden = _redacted_lines(text, names)
        further = names | {match["anchor"] or match["macro"] for match in _REFERENCE.finditer(words + hidden)}
        if further == names:
            return _without_credentials(shown)
        names = further  # what stands where they are defined is a secret too


def _redacted_lines(text: str, names: Collection[str]) -> tuple[str, str]:
    """The text without the values of secretive keys, and those values."""
    shown: list[str] = []
    hidden: list[str] = []
    block = _Hidden()
    for line in text.splitlines():
        if block.goes_on(line):
            hidden.append(line)
            continue
        match = _KEY_IN_YAML.match(line) or _defined(line, names)
        if match is None:
            shown.append(line)
            continue
        shown.append(f"{match['shown']} {SHOWN_INSTEAD}")
        hidden.append(match["value"])
        block = _Hidden(_indentation(line), match["value"])
    return "\n".join(shown) + "\n", "\n".join(hidden)


def _defined(line: str, names: Collection[str]) -> re.Match[str] | None:
    """The definition of an anchor or a macro that stands for a secret."""
    for name in names:
        word = re.escape(name)
        found = re.match(rf"(?P<shown>.*?(?:&{word}(?=[\s,\]}}]|$)|\b{word}[\"']?\s*:))(?P<value>.*)", line)
        if found:
            return found
    return None


class _Hidden:
    """The lines below a secretive key that belong to its value."""

    def __init__(self, indentation: int = -1, value: str = "") -> None:
        self._indentation = indentation
        self._value = value.strip()

    def goes_on(self, line: str) -> bool:
        if self._indentation < 0:
            return False
        belongs = (
            not line.strip()
            or _indentation(line) > self._indentation
            or (_indentation(line) == self._indentation and line.lstrip().startswith(("- ", "]", "}")))
            or self._is_open
        )
        self._value += f"\n{line}"
        if not belongs:
            self._indentation = -1
        return belongs

    @property
    def _is_open(self) -> bool:
        """Whether a bracket or a quote waits for its end."""
        quote = self._value[:1]
        if quote in {'"', "'"}:
            return self._value.count(quote) % 2 == 1
        return any(self._value.count(left) > self._value.count(right) for left, right in ("[]", "{}"))


def _indentation(line: str) -> int:
    """Of the key in a line: that of a list's entry is where its key begins."""
    return len(line) - len(line.lstrip(" -\t#"))


def _without_credentials(text: str) -> str:
    """Secrets inside a longer text: flags of a shell line, URLs, headers."""
    text = _IN_COMMAND.sub(rf"\g<flag>{SHOWN_INSTEAD}", text)
    text = _BEARER.sub(rf"\g<kind>{SHOWN_INSTEAD}", text)
    text = _QUERY.sub(rf"\g<name>{SHOWN_INSTEAD}", text)
    return _URL_CREDENTIALS.sub(f"{SHOWN_INSTEAD}@", text)


def _secrets(model: Model) -> Iterator[str]:
    for name, value in (*model.options.items(), *model.env.items()):
        if _NAME.search(name):
            yield from map(str, value if isinstance(value, tuple) else (value,))
    argv = (*model.cmd, *model.cmd_stop, model.proxy or "")
    for flag, value in pairwise(argv):
        if flag.startswith("-") and _NAME.search(flag):
            yield value
    for part in argv:
        name, equals, value = part.partition("=")
        if equals and _NAME.search(name):
            yield value
        yield from (match["value"] for match in _IN_COMMAND.finditer(part))
        yield from _passwords(part)
        yield from (match[0].split()[-1] for match in _BEARER.finditer(part))


def _passwords(text: str) -> Iterator[str]:
    """What stands before the `@` of URLs, without the user's name."""
    return (match[0].rpartition(":")[2].rstrip("@") for match in _URL_CREDENTIALS.finditer(text))
