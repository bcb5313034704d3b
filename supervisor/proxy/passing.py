"""Chunks that pass by as they are on the wire: nothing of ours is made of one, a parser only watches for the last.

This is for event streams whose lines end with a newline alone, as llama-server writes them. In those a carriage return
belongs to the framing, so that what ends with one of these is a whole number of chunks, and of lines.
"""

from __future__ import annotations

import re

import httptools

LINES_END = b"\n\r\n"
"""Ends a chunk whose last line is whole. The last chunk of all ends so, too."""
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
"""What makes a parser expect chunks."""
_LAST_CHUNK = b"0\r\n\r\n"
_WITH_TRAILERS = re.compile(rb"(?:\A|(?<=\n))0+[^\r\n]*\r\n(?:[^\r\n]+\r\n)+\r\n\Z")


def may_pass(data: bytes, piece: bytes) -> bool:
    """Whether what comes next may: `piece` is what a body's chunks held, `data` the bytes in which they came."""
    return bool(piece) and data.endswith(LINES_END) and b"\r" not in piece


def without_trailers(data: bytes) -> bytes:
    """The last chunks of a body without the very last one, if that has headers behind it: no client reads those."""
    if data == _LAST_CHUNK or data.endswith(b"\n" + _LAST_CHUNK):
        return data
    found = _WITH_TRAILERS.search(data)
    return data if found is None else data[: found.start()]


class PassingChunks:
    """The chunks of one body, from a place between two of them on."""

    __slots__ = ("_parser", "is_complete")

    def __init__(self) -> None:
        self.is_complete = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(CHUNKED_HEAD)

    def feed(self, data: bytes) -> None:
        """Some have come; raises `httptools.HttpParserError` where they are none."""
        self._parser.feed_data(data)

    def are_whole(self) -> bool:
        """Whether all that has come is whole chunks. To be asked once, and nothing can be fed after that.

        The parser takes the end of a body only between two chunks.
        """
        try:
            self._parser.feed_data(_LAST_CHUNK)
        except httptools.HttpParserError:
            return False
        return self.is_complete

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError("more than the body")  # httptools makes it an error of the parser

    def on_message_complete(self) -> None:
        self.is_complete = True
