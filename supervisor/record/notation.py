"""Values of the planner as JSON, and back: each object says what it is, so that a line can be read without the others.

An object with the key `""` is a value of the type that stands there, written without what is as by default. Any other
is a mapping. Times may be infinite, which JSON has no word for.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from math import inf, isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor import errors
from supervisor.config import expressions, routing
from supervisor.config import values as config
from supervisor.errors import ModelFailed, SupervisorError
from supervisor.fleet import actions, books, decisions, events, memory, queue, values
from supervisor.fleet.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TYPE = ""
_TYPES: dict[str, Any] = {
    name: each
    for module in (errors, config, routing, expressions, memory, books, decisions, queue, actions, events, values)
    for name, each in vars(module).items()
    if isinstance(each, type) and each.__module__ == module.__name__
}


class Unreadable(ValueError):
    """Raised when something is not in this notation."""


def plain(value: object, hide: Callable[[str], str] = str) -> Any:
    """What JSON has words for; `hide` takes secrets out of texts."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return {TYPE: str(value)} if isinf(value) else value
        case str():
            return hide(value)
        case Enum():
            return {TYPE: f"{type(value).__name__}.{value.name}"}
        case Path():
            return {TYPE: "Path", "path": str(value)}
        case SupervisorError():
            return _error(value, hide)
        case Queue() | frozenset():
            name = "Queue" if isinstance(value, Queue) else "frozenset"
            items = [plain(each, hide) for each in value]
            return {TYPE: name, "items": sorted(items) if name == "frozenset" else items}
        case list() | tuple():
            return [plain(each, hide) for each in value]
        case dict():
            return _mapping(value, hide)
        case _ if is_dataclass(value):
            told = {each.name: getattr(value, each.name) for each in fields(value)}
            told = {each.name: told[each.name] for each in fields(value) if not is_default(each, told[each.name])}
            return {TYPE: type(value).__name__} | {name: plain(each, hide) for name, each in told.items()}
        case _:
            raise TypeError(f"{value!r} has no notation")


def _mapping(value: Mapping[Any, object], hide: Callable[[str], str]) -> dict[str, Any]:
    if all(isinstance(key, str) and key != TYPE for key in value):
        return {key: plain(each, hide) for key, each in value.items()}
    return {TYPE: "mapping", "items": [[key, plain(each, hide)] for key, each in value.items()]}


def _error(error: SupervisorError, hide: Callable[[str], str]) -> dict[str, Any]:
    what = (
        {"failure": error.failure} if isinstance(error, ModelFailed) else {"message": error.message, "hint": error.hint}
    )
    told = {**what, "retry_after": error.retry_after}
    return {TYPE: type(error).__name__} | {name: plain(each, hide) for name, each in told.items()}


def is_default(each: Field[Any], value: object) -> bool:
    """Whether this field of a value need not be written."""
    if each.default_factory is not MISSING:
        return bool(value == each.default_factory())
    return each.default is not MISSING and type(value) is type(each.default) and value == each.default


def value_of(noted: Any) -> Any:
    """What was noted; raises `Unreadable`."""
    if isinstance(noted, list):
        return tuple(map(value_of, noted))
    if not isinstance(noted, dict):
        return noted
    if TYPE not in noted:
        return {key: value_of(each) for key, each in noted.items()}
    try:
        return _value(noted[TYPE], {key: each for key, each in noted.items() if key != TYPE})
    except (TypeError, ValueError, KeyError, AttributeError) as exc:
        raise Unreadable(f"no `{noted[TYPE]}` is written like this: {exc}") from exc


def _value(name: str, rest: dict[str, Any]) -> Any:
    match name:
        case "inf" | "-inf":
            return inf if name == "inf" else -inf
        case "Path":
            return Path(rest["path"])
        case "frozenset":
            return frozenset(rest["items"])
        case "Queue":
            return Queue(map(value_of, rest["items"]))
        case "mapping":
            return {key: value_of(each) for key, each in rest["items"]}
    kind, _, member = name.partition(".")
    found = _TYPES[kind]
    if member:
        return found[member]
    told = {key: value_of(each) for key, each in rest.items()}
    if issubclass(found, ModelFailed):
        return found(told["failure"], retry_after=told["retry_after"])
    if issubclass(found, SupervisorError):
        return found(told.pop("message"), **told)
    return found(**told)
