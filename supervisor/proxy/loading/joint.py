"""Where a child's stream is joined to ours: taken apart into its events, each of which goes on as it should be now."""

from __future__ import annotations

import re
from typing import Any

import msgspec.json

LONGEST_HELD = 16 * 1024**2
"""Bytes of an unfinished event after which it is let through as it is."""

Event = dict[str, Any]
_END = re.compile(rb"\r?\n\r?\n")


class EventJoint:
    """A stream that comes in any pieces and goes on in whole events."""

    def __init__(self) -> None:
        self.holds = b"\n"
        """Never empty, so that every chunk comes through `feed`."""
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may go on now."""
        self._held += chunk
        done: list[bytes] = []
        while end := _END.search(self._held):
            done.append(self._rewritten(self._held[: end.end()]))
            self._held = self._held[end.end() :]
        if len(self._held) > LONGEST_HELD:
            done.append(self.rest())
        return b"".join(done)

    def rest(self) -> bytes:
        """What was held back, when the stream ended well."""
        rest, self._held = self._held, b""
        return rest

    def _rewritten(self, raw: bytes) -> bytes:
        data = b"\n".join(line[5:].strip() for line in raw.split(b"\n") if line.startswith(b"data:"))
        try:
            joined = self._joined(data)
        except msgspec.DecodeError:  # a comment, or something of another kind
            return raw
        return raw if joined is None else joined

    def _joined(self, data: bytes) -> bytes | None:
        """The event with this data as it goes on, nothing if it does not; None: as it came."""
        raise NotImplementedError


class NamedJoint(EventJoint):
    """A stream whose events are named by their type."""

    def _joined(self, data: bytes) -> bytes | None:
        event = msgspec.json.decode(data)
        if not isinstance(event, dict) or "type" not in event:
            return None
        changed = self._changed(event)
        return b"" if changed is None else named(changed)

    def _changed(self, event: Event) -> Event | None:
        """What it says now; None if it has been said."""
        raise NotImplementedError


def unnamed(event: object) -> bytes:
    """An event as chat completions have it."""
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def named(event: Event) -> bytes:
    """An event as the newer APIs have it."""
    return b"event: " + str(event["type"]).encode() + b"\n" + unnamed(event)
