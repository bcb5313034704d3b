"""An event stream let through line by line, so that an error can follow whole lines only.

A client joins a torn line with whatever comes next, and would report bad JSON instead of our error.
"""

from __future__ import annotations

LONGEST_HELD = 256 * 1024
"""Bytes of an unfinished line after which it is let through all the same."""


class WholeLines:
    """Holds back what follows the last newline; nearly every chunk ends with one."""

    __slots__ = ("holds",)

    def __init__(self) -> None:
        self.holds = b""
        """The line that is not whole yet."""

    def feed(self, chunk: bytes) -> bytes:
        """The lines that are whole now."""
        if self.holds:
            chunk = self.holds + chunk
        if chunk.endswith(b"\n") or len(chunk) > LONGEST_HELD:
            self.holds = b""
            return chunk
        end = chunk.rfind(b"\n") + 1
        self.holds = chunk[end:]
        return chunk[:end]

    def rest(self) -> bytes:
        """What was held back, when the stream ended well."""
        rest, self.holds = self.holds, b""
        return rest
