"""The keys and values of a GGUF file, and what can be asked of them. None of them need have the type it should."""

from __future__ import annotations

Value = bool | int | float | str
Numbers = int | tuple[int, ...]


class Facts:
    """Keys and values as they stand in the file: numbers, the few texts we want, and the lengths of arrays."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.lengths: dict[str, int] = {}
        self.lists: dict[str, tuple[int, ...]] = {}

    def text(self, key: str, default: str = "") -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else default

    def number(self, key: str) -> int | None:
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    def numbers(self, architecture: str) -> dict[str, Numbers]:
        """All integers of this architecture."""
        prefix = f"{architecture}."
        found: dict[str, Numbers] = {}
        for key in (key for key in (*self.values, *self.lists) if key.startswith(prefix)):
            value = self.lists.get(key) or self.number(key)
            if value is not None:
                found[key.removeprefix(prefix)] = value
        return found

    def is_true(self, key: str) -> bool:
        return self.values.get(key) is True
