"""The values of a config as the tables of models.toml: what `config.toml` reads, the other way round. Pure.

Only what differs from a default is written. Nothing is checked here: what comes out is read again, and compared.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, assert_never

from supervisor.config.expressions import Either, Included, Single, Together, singles
from supervisor.config.kinds import LARGEST
from supervisor.config.routing import DEFAULT_GROUP, Group
from supervisor.config.schema import CAPABILITIES, GROUP, MODEL, PERFORMANCE, PROFILE, SELECTOR, SERVER, TIMEOUTS
from supervisor.config.values import Capabilities, Filters, Model, Performance, Server, Timeouts
from supervisor.importing.page import Raw

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from supervisor.config.expressions import Expression
    from supervisor.config.kinds import Key
    from supervisor.config.routing import Groups, Matrix
    from supervisor.config.values import Peer, Profile, Selector

Table = dict[str, object]

_WORD = re.compile(r"(?!\+)[^\s&|()]+")
"""What an expression may call a model."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""What TOML's text of several lines cannot have."""

SOURCES = ("model", "hf-repo", "hf-file", "model-url", "docker-repo")
"""Options that say what a model is, before those that say how it runs."""

ELSEWHERE = frozenset({"id", "options", "sampling", "cmd", "shown_cmd", "filters", "filters_by_name", "variants"})
"""Fields of a model that are keys of another name, or of none."""


def server_table(server: Server) -> Table:
    """`[server]`."""
    table = _plain(server, Server(), SERVER)
    if (server.host, server.port) != (Server().host, Server().port):
        host = f"[{server.host}]" if ":" in server.host else server.host
        table = {"listen": f"{host}:{server.port}", **table}
    return table


def model_table(model: Model, *, automatic: Collection[str] = ()) -> Table:
    """`[models.NAME]`; `automatic` are the aliases that come of other keys."""
    said = _plain(model, Model(model.id), MODEL, without=ELSEWHERE)
    if model.cmd_stop:
        said["cmd_stop"] = command_text(model.cmd_stop, shlex.join(model.cmd_stop))
    said["aliases"] = [name for name in model.aliases if name not in automatic]
    first = {key: said.pop(key) for key in ("name", "description", "aliases", "unlisted", "binary") if said.get(key)}
    command = {"cmd": command_text(model.cmd, model.shown_cmd)} if model.cmd else {}
    last = {key: said.pop(key) for key in ("capabilities", "metadata") if said.get(key)}
    said.pop("aliases", None)
    sampling = {"sampling": dict(model.sampling)} if model.sampling else {}
    source = {key: model.options[key] for key in SOURCES if key in model.options}
    return {**first, **source, **dict(model.options), **sampling, **command, **said, **_filters(model), **last}


def command_text(words: Sequence[str], shown: str) -> object:
    """A command as its author laid it out, as far as TOML and its reader have it so; else as words."""
    text = shown or shlex.join(words)
    text = "\n".join(
        line.rstrip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")
    ).strip()
    try:
        is_same = shlex.split(text.replace("\\\n", "")) == list(words)
    except ValueError:
        is_same = False
    if not is_same or "'''" in text or _CONTROL.search(text):
        return list(words)
    return Raw(f"{text}\n") if "\n" in text else text


def peer_table(peer: Peer) -> Table:
    """`[peers.NAME]`."""
    table: Table = {"proxy": peer.proxy, "models": list(peer.models)}
    if peer.api_key is not None:
        table["api_key"] = peer.api_key
    table |= _filters(peer)
    timeouts = _plain(peer.timeouts, Timeouts(response_header=60.0), TIMEOUTS)
    return {**table, **({"timeouts": timeouts} if timeouts else {})}


def selector_table(selector: Selector) -> Table:
    """`[selectors.NAME]`."""
    return _stripped(_plain(selector, None, SELECTOR), {"spillover": 1, "unlisted": False})


def profile_table(profile: Profile) -> Table:
    """`[profiles.NAME]`."""
    table = _stripped(_plain(profile, None, PROFILE), {})
    return {**table, "pins": {name: target or "" for name, target in profile.pins.items()}}


def group_tables(routing: Groups) -> dict[str, Table]:
    """`[groups.NAME]`, each."""
    return {
        name: {"members": list(group.members), **_plain(group, Group(()), GROUP, without={"members"})}
        for name, group in routing.groups.items()
        if name != DEFAULT_GROUP
    }


def matrix_table(routing: Matrix) -> Table:
    """`[matrix]`, with short names only for models whose own are none in an expression."""
    models = dict.fromkeys(model for each in routing.sets.values() for model in singles(each))
    odd = [model for model in models if not _WORD.fullmatch(model)]
    free = (name for name in (f"m{number}" for number in count(1)) if name not in models)
    short = dict(zip(odd, free, strict=False))
    sets = {name: expression_text(each, short) for name, each in routing.sets.items()}
    return {
        **({"vars": {name: model for model, name in short.items()}} if short else {}),
        "sets": sets,
        **({"evict_costs": dict(routing.evict_costs)} if routing.evict_costs else {}),
    }


def expression_text(expression: Expression, short: Mapping[str, str], *, inside: bool = False) -> str:
    """An expression over models as one would write it."""
    match expression:
        case Single(model):
            return short.get(model, model)
        case Included(name):
            return f"+{name}"
        case Together(parts):
            return " & ".join(expression_text(part, short, inside=True) for part in parts)
        case Either(parts):
            text = " | ".join(expression_text(part, short) for part in parts)
            return f"({text})" if inside else text
        case _:
            assert_never(expression)


def size(count: int) -> object:
    """Bytes as people write them."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return count


def lifetime(seconds: float | None) -> object:
    """Seconds as people write them."""
    if seconds is None:
        return "never"
    if seconds < 60 or seconds % 1:
        return f"{seconds:g}s"
    parts = ((seconds // 3600, "h"), (seconds % 3600 // 60, "m"), (seconds % 60, "s"))
    return "".join(f"{count:.0f}{unit}" for count, unit in parts if count)


def _plain(value: object, default: object, keys: Mapping[str, Key], *, without: Collection[str] = ()) -> Table:
    """The fields that are keys of the same name, as far as they differ from the default."""
    table: Table = {}
    for field in fields(value):  # type: ignore[arg-type] # values are dataclasses
        own = getattr(value, field.name)
        if (
            field.name in keys
            and field.name not in without
            and (default is None or own != getattr(default, field.name))
        ):
            table[field.name] = _written(field.name, own)
    return table


def _written(name: str, value: object) -> object:
    match value:
        case Enum():
            return value.value
        case Timeouts():
            return _plain(value, Timeouts(), TIMEOUTS)
        case Capabilities():
            return _plain(value, Capabilities(), CAPABILITIES)
        case Performance():
            return _plain(value, Performance(), PERFORMANCE)
        case float() | None if name in _DURATIONS:
            return lifetime(value)
        case int() if name in _SIZES:
            return size(value)
        case tuple() | list():
            return [_written("", each) for each in value if _is_sayable(each)]
        case dict():
            return {key: _written("", each) for key, each in value.items() if _is_sayable(each)}
        case _:
            return value


def _is_sayable(value: object) -> bool:
    """Whether TOML has such a value."""
    return value is not None and not (isinstance(value, int) and abs(value) > LARGEST)


_SIZES = frozenset({"capture_buffer"})
_DURATIONS = frozenset(
    (
        *("ttl", "load_timeout", "load_limit", "stall_timeout", "unload_timeout"),
        *("every", "max_wait", "drain_timeout", "stop_timeout", "comment_after", *TIMEOUTS),
    )
)


def _filters(holder: Model | Peer) -> Table:
    own = holder.filters
    by_name = {name: _own_force(each, own) for name, each in holder.filters_by_name.items()}
    table = {
        "strip_params": list(own.strip),
        "set_params": _written("", dict(own.force)),
        "set_params_by_name": by_name,
    }
    return {key: value for key, value in table.items() if value}


def _own_force(by_name: Filters, own: Filters) -> object:
    """What a name sets beyond what every name does."""
    said = {key: value for key, value in by_name.force.items() if key not in own.force or own.force[key] != value}
    return _written("", said)


def _stripped(table: Table, defaults: Table) -> Table:
    empty: tuple[object, ...] = ("", [], {}, None)
    return {key: each for key, each in table.items() if each not in empty and defaults.get(key, table) != each}
