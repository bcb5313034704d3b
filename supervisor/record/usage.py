"""What an answer says of its tokens and speeds: of OpenAI's and Anthropic's `usage`, llama-server's `timings`, vLLM's
`metrics`. Pure, and run after the answer is out (spec: llama-swap.md, section 5).

Of a long answer only the beginning and the end are known. What cannot be read whole is searched for these objects.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import msgspec
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNKNOWN = -1
LONGEST_MESSAGE = 500
"""Characters of an error that are kept."""
MOST_UNPACKED = 8 * 1024**2
"""Bytes; an answer that was compressed may become much larger."""

Fields: TypeAlias = "Mapping[str, object]"

_NAMES = (b'"usage"', b'"timings"', b'"metrics"')
_OBJECT = re.compile(rb'(?<!\\)"(?P<name>usage|timings|metrics)"\s*:\s*(?=\{)')
_LONGEST_OBJECT = 4096
_MARKS = re.compile(rb"\r\n[0-9a-fA-F]+\r\n")
"""Between two chunks of a stream that has passed as it was."""
_ENCODINGS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 47}
"""The window sizes that zlib wants; with 47 it finds out by itself."""


class Usage(msgspec.Struct, frozen=True):  # it is made faster than a dataclass, and there is one for each request
    """Tokens and speeds of one answer. Nothing was said: all is 0; what is left open where something was: -1."""

    cache_tokens: int = 0
    """Of the prompt, those that were there already."""
    draft_tokens: int = 0
    draft_acc_tokens: int = 0
    """Drafted tokens that were accepted."""
    input_tokens: int = 0
    """As llama-swap counts: of llama-server without those that were there already, of others with them."""
    output_tokens: int = 0
    prompt_per_second: float = 0
    tokens_per_second: float = 0


NOTHING = Usage()


class _Document(msgspec.Struct, frozen=True):
    """The places where an answer may say it; the rest is skipped, not decoded."""

    usage: object = None
    timings: object = None
    metrics: object = None
    response: object = None
    message: object = None


_DECODER = msgspec.json.Decoder(_Document)


@dataclass(slots=True)
class _Found:
    """What has been found so far; later pieces of a stream win."""

    usage: dict[str, object]
    timings: Fields
    metrics: Fields

    def add(self, name: str, value: object) -> None:
        if not isinstance(value, dict) or not value:
            return
        if name == "usage":
            # Anthropic tells the prompt first and the answer last, with zeros between.
            self.usage.update({key: each for key, each in value.items() if key not in self.usage or each})
        elif name == "timings":
            self.timings = value
        else:
            self.metrics = value


def usage_of(pieces: Sequence[bytes], *, is_stream: bool, is_whole: bool = True) -> tuple[Usage, float]:
    """What an answer says, and the milliseconds that llama-server says it took, 0 if it says none.

    Without `is_whole` something is missing between the pieces.
    """
    found = _Found({}, {}, {})
    texts = [b"".join(pieces)] if is_whole else pieces
    for text in texts:
        if is_stream:
            _read_events(text, found)
        elif is_whole:
            _read(text, found)
        else:
            _search(text, found)
    return _usage(found)


def unpacked(body: bytes, encoding: bytes) -> bytes | None:
    """A body as it was before it was compressed, as far as it goes; None if that is beyond us."""
    window = _ENCODINGS.get(encoding.strip().lower())
    if window is None:
        return None
    try:
        return zlib.decompressobj(window).decompress(body, MOST_UNPACKED)
    except zlib.error:
        return None


def error_message(status: int, body: bytes) -> str:
    """What an answer that is no success says, or the name of its status."""
    try:
        fields = msgspec.json.decode(body)
    except msgspec.DecodeError:
        fields = None
    if isinstance(fields, dict):
        error = fields.get("error")
        inner = error.get("message") if isinstance(error, dict) else None
        for text in (inner, error, fields.get("message"), fields.get("detail")):
            if isinstance(text, str) and text:
                return text[:LONGEST_MESSAGE]
    return status_line(status)


def status_line(status: int) -> str:
    """`502 Bad Gateway`."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _read_events(text: bytes, found: _Found) -> None:
    """The events of a stream that say something; the first may be torn."""
    text = _MARKS.sub(b"", text)
    end = 0
    while (place := _first_name(text, end)) >= 0:
        start = text.rfind(b"\n", end, place) + 1 or end
        end = text.find(b"\n", place)
        if end < 0:
            end = len(text)
        for line in text[start:end].splitlines():  # one, unless lines end as nobody ends them
            _read(line.removeprefix(b"data:"), found)


def _first_name(text: bytes, start: int) -> int:
    """Where it may say something; -1: nowhere. Most lines do not, and to look at each of them costs more."""
    places = [place for name in _NAMES if (place := text.find(name, start)) >= 0]
    return min(places, default=-1)


def _read(text: bytes, found: _Found) -> None:
    try:
        document = _DECODER.decode(text)
    except msgspec.DecodeError:
        array = _last_of_array(text)
        if array is None:
            _search(text, found)
        else:
            _take(array, found)
        return
    found.add("usage", document.usage)
    for each in (document.response, document.message):
        if isinstance(each, dict):
            found.add("usage", each.get("usage"))
    found.add("timings", document.timings)
    found.add("metrics", document.metrics)


def _last_of_array(text: bytes) -> Fields | None:
    """The last element of a list of objects, which is how `/infill` answers."""
    if not text.lstrip().startswith(b"["):
        return None
    try:
        values = msgspec.json.decode(text, type=list[dict[str, object]])
    except msgspec.DecodeError:
        return None
    return values[-1] if values else None


def _take(fields: Fields, found: _Found) -> None:
    for name in ("usage", "timings", "metrics"):
        found.add(name, fields.get(name))


def _search(text: bytes, found: _Found) -> None:
    """Find the objects in a text with a torn end or beginning. A quote within a string has a backslash before it."""
    for match in _OBJECT.finditer(text):
        start = match.end()
        piece = text[start : start + _LONGEST_OBJECT].decode(errors="replace")
        try:
            value, _ = json.JSONDecoder().raw_decode(piece)
        except ValueError:
            continue
        found.add(match["name"].decode(), value)


def _usage(found: _Found) -> tuple[Usage, float]:
    if not (found.usage or found.timings or found.metrics):
        return NOTHING, 0.0
    told = found.usage
    usage = Usage(
        cache_tokens=_cached(told) if told else UNKNOWN,
        draft_tokens=UNKNOWN,
        draft_acc_tokens=UNKNOWN,
        input_tokens=_count(told, "prompt_tokens", "input_tokens", default=0),
        output_tokens=_count(told, "completion_tokens", "output_tokens", default=0),
        prompt_per_second=UNKNOWN,
        tokens_per_second=UNKNOWN,
    )
    if found.metrics:
        usage = _with_metrics(usage, found.metrics)
    if not found.timings:
        return usage, 0.0
    took = _number(found.timings, "prompt_ms", 0.0) + _number(found.timings, "predicted_ms", 0.0)
    return _with_timings(usage, found.timings), took


def _cached(told: Fields) -> int:
    for name in ("input_tokens_details", "prompt_tokens_details"):
        details = told.get(name)
        if isinstance(details, dict) and "cached_tokens" in details and "cache_read_input_tokens" not in told:
            return _count(details, "cached_tokens", default=UNKNOWN)
    return _count(told, "cache_read_input_tokens", default=UNKNOWN)


def _with_timings(usage: Usage, timings: Fields) -> Usage:
    """llama-server measures where the work is done."""
    has_draft = "draft_n" in timings and "draft_n_accepted" in timings
    return Usage(
        _count(timings, "cache_n", default=usage.cache_tokens),
        _count(timings, "draft_n", default=UNKNOWN) if has_draft else usage.draft_tokens,
        _count(timings, "draft_n_accepted", default=UNKNOWN) if has_draft else usage.draft_acc_tokens,
        _count(timings, "prompt_n", default=usage.input_tokens),
        _count(timings, "predicted_n", default=usage.output_tokens),
        _number(timings, "prompt_per_second", usage.prompt_per_second),
        _number(timings, "predicted_per_second", usage.tokens_per_second),
    )


def _with_metrics(usage: Usage, metrics: Fields) -> Usage:
    """vLLM's."""
    first, between = _number(metrics, "time_to_first_token_ms", 0.0), _number(metrics, "mean_itl_ms", 0.0)
    fresh = usage.input_tokens - max(usage.cache_tokens, 0)
    drafts = metrics.get("speculative_decoding")
    drafts = drafts if isinstance(drafts, dict) else {}
    has_draft = "num_draft_tokens" in drafts and "num_accepted_draft_tokens" in drafts
    return replace(
        usage,
        prompt_per_second=fresh * 1000 / first if first > 0 and fresh > 0 else usage.prompt_per_second,
        tokens_per_second=1000 / between if between > 0 else usage.tokens_per_second,
        draft_tokens=_count(drafts, "num_draft_tokens", default=UNKNOWN) if has_draft else UNKNOWN,
        draft_acc_tokens=_count(drafts, "num_accepted_draft_tokens", default=UNKNOWN) if has_draft else UNKNOWN,
    )


def _count(fields: Fields, name: str, other: str = "", *, default: int) -> int:
    """The first of these that is a number; numbers of a strange size would not fit into the database."""
    value = fields.get(name)
    if _is_number(value) and 0 <= value < 2**53:
        return int(value)
    return _count(fields, other, default=default) if other else default


def _number(fields: Fields, name: str, default: float) -> float:
    value = fields.get(name)
    return float(value) if _is_number(value) and 0 <= value < 1e15 else default


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) is int or type(value) is float  # True is none
