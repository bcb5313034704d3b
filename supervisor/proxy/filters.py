"""What a model's filters do to the JSON of a request. Bodies without filters are never decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from supervisor.config.filters import path
from supervisor.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config.values import Filters


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
            _set(fields, path(name), value)
    for name, value in filters.force.items():
        _set(fields, path(name), value)
    return msgspec.json.encode(fields)


def _has(value: object, steps: Sequence[str]) -> bool:
    for step in steps:
        if not isinstance(value, dict) or step not in value:
            return False
        value = value[step]
    return True


def _remove(value: object, steps: Sequence[str]) -> None:
    for step in steps[:-1]:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value.pop(steps[-1], None)


def _set(fields: dict[str, object], steps: Sequence[str], value: object) -> None:
    """Objects on the way are made where there are none, and copied where there are: one may be the config's own."""
    for step in steps[:-1]:
        there = fields.get(step)
        fields[step] = dict(there) if isinstance(there, Mapping) else {}
        fields = fields[step]  # type: ignore[assignment] # the line before made it one
    fields[steps[-1]] = value
