"""What a model's filters do to the JSON of a request. Bodies without filters are never decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from supervisor.config.filters import path
from supervisor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config.filters import Step
    from supervisor.config.values import Filters

_NOTHING = object()
"""What is where nothing is; null is something."""


def apply(filters: Filters, body: bytes, *, model: str | None = None) -> bytes:
    """The body with fields stripped, defaults filled in and forced ones set; `model` only where another is given."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc
    if not isinstance(fields, dict):
        return body
    if model is not None:
        fields["model"] = model
    for name in filters.strip:
        _remove(fields, path(name))
    for name, value in filters.defaults.items():
        if not _has(fields, path(name)):
            fields = _with(fields, path(name), value, name)
    for name, value in filters.force.items():
        fields = _with(fields, path(name), value, name)
    return msgspec.json.encode(fields)


def _has(value: object, steps: Sequence[Step]) -> bool:
    for step in steps:
        value = _inside(value, step)
    return value is not _NOTHING


def _remove(value: object, steps: Sequence[Step]) -> None:
    """Of a list, -1 is the last."""
    for step in steps[:-1]:
        value = _inside(value, step)
    last = steps[-1]
    if isinstance(value, dict):
        value.pop(last.name, None)
    elif isinstance(value, list) and last.place is not None and last.place < len(value):
        del value[last.place : last.place + 1 or None]


def _with(value: object, steps: Sequence[Step], new: object, name: str) -> object:
    """The value with a new one in this place; what is on the way is copied, for it may be the config's own.

    Objects and lists on the way are made where there are none. Raises `InvalidRequest` for a name in a list.
    """
    if not steps:
        return new
    step, rest = steps[0], steps[1:]
    if isinstance(value, Mapping):
        return {**value, step.name: _with(_inside(value, step), rest, new, name)}
    if not isinstance(value, list | tuple):
        return _with({} if step.place is None else [], steps, new, name)
    if step.place is None:
        raise InvalidRequest(f"this model's filter `{name}` leads to `{step.name}` in an object, and there is a list")
    items, made = list(value), _with(_inside(value, step), rest, new, name)
    if 0 <= step.place < len(items):
        items[step.place] = made
        return items
    return [*items, *[None] * (step.place - len(items)), made]


def _inside(value: object, step: Step) -> object:
    """What a step leads to."""
    if isinstance(value, Mapping):
        return value.get(step.name, _NOTHING)
    if isinstance(value, list | tuple) and step.place is not None and 0 <= step.place < len(value):
        return value[step.place]
    return _NOTHING
