"""Of what lines and tables for people consist, whoever draws them."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Part: TypeAlias = str | tuple[str, str]
"""A text, perhaps with the style that it has on a terminal."""


class Column(NamedTuple):
    """Of a table."""

    heading: str
    is_number: bool = False
    is_prose: bool = False
    """Whether its cells are broken into lines rather than cut."""
    style: str = ""
