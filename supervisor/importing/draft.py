"""What an import comes to before it is proven: the page to be written, and what was noticed on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.importing.page import Page


@dataclass(frozen=True, slots=True)
class Note:
    """Something about the import that its owner should know."""

    place: str
    """The key in the source."""
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(slots=True)
class Draft:
    """A page, and what it stands for."""

    page: Page
    notes: list[Note] = field(default_factory=list)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What a llama.cpp router gives each model's child, where the source is one's."""
