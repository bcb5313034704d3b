"""What a model's filters do to the JSON of a request. Bodies without filters are never decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from supervisor.errors import InvalidRequest

if TYPE_CHECKING:
    from supervisor.config.values import Filters


def apply(filters: Filters, body: bytes) -> bytes:
    """The body with fields stripped, defaults filled in and forced ones set; `model` is never touched."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc
    if not isinstance(fields, dict):
        return body
    for name in filters.strip:
        fields.pop(name, None)
    for name, value in filters.defaults.items():
        fields.setdefault(name, value)
    fields.update(filters.force)
    return msgspec.json.encode(fields)
