"""Keys that stand in files of their own, such as those systemd and container engines hand over."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.config.clients import digest_of
from supervisor.config.problems import ConfigInvalid, Problem, path_of

if TYPE_CHECKING:
    from supervisor.config.clients import ClientKey
    from supervisor.config.values import Config


def with_keys(config: Config) -> Config:
    """The config with the keys that are in files; raises `ConfigInvalid`."""
    problems: list[Problem] = []
    keys = {name: _read(key, config.base, problems) for name, key in config.keys.items()}
    digests = [key.digest for key in keys.values() if key.digest]
    if len(set(digests)) < len(digests) and not problems:
        same = next(name for name, key in keys.items() if key.file and digests.count(key.digest) > 1)
        problems.append(Problem(_place(same), "a key that no other table has"))
    if problems:
        raise ConfigInvalid(problems)
    found = frozenset(key.secret for key in keys.values() if key.secret)
    return replace(config, keys=keys, secrets=config.secrets | found)


def _read(key: ClientKey, base: Path, problems: list[Problem]) -> ClientKey:
    if key.file is None:
        return key
    path = base / Path(key.file).expanduser()
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "it is no text in UTF-8"
        problems.append(Problem(_place(key.name), "a file that can be read", os.fspath(path), reason))
        return key
    if not secret or any(character.isspace() for character in secret):
        problems.append(Problem(_place(key.name), "a file with one key in it that has no spaces", os.fspath(path)))
        return key
    return replace(key, secret=secret, digest=digest_of(secret))


def _place(name: str) -> str:
    return f"{path_of('keys', name)}.file"
