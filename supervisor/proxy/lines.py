"""An event stream let through line by line, so that an error can follow whole lines only.

A client joins a torn line with whatever comes next, and would report bad JSON instead of our error.
"""

from __future__ import annotations

LONGEST_HELD = 256 * 1024
"""Bytes of an unfinished line after which it is let through all the same."""


class WholeLines:
    """Holds back what follows the last newline; nearly every chunk ends with one."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """The lines that are whole now."""
        if self._held:
            chunk = self._held + chunk
        if chunk.endswith(b"\n") or len(chunk) > LONGEST_HELD:
            self._held = b""
            return chunk
        end = chunk.rfind(b"\n") + 1
        self._held = chunk[end:]
        return chunk[:end]

    def rest(self) -> bytes:
        """What was held back, when the stream ended well."""
        rest, self._held = self._held, b""
        return rest
