"""A key for what is remembered about values that are never changed, only replaced: it compares them by identity.

Whatever else comes in their place is another key, so nothing that is remembered has ever to be made invalid.
"""

from __future__ import annotations


class Same:
    """These very objects, in this order; they live as long as it does, so no other one is taken for them."""

    __slots__ = ("_ids", "_values")

    def __init__(self, *values: object) -> None:
        self._values = values
        self._ids = tuple(map(id, values))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._ids == other._ids

    def __hash__(self) -> int:
        return hash(self._ids)
