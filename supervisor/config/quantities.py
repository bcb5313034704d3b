"""Durations, sizes and addresses as people write them.

Each function returns the value or raises `Mismatch`, a `ValueError`, with what was expected.
The patterns are plain enough to serve as ECMA-262 ones in the JSON Schema too.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from supervisor.config.problems import Mismatch

NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)"
DURATION_PATTERN = rf"(?:{NUMBER}d)?(?:{NUMBER}h)?(?:{NUMBER}m)?(?:{NUMBER}s)?(?:{NUMBER}ms)?"
SIZE_PATTERN = rf"{NUMBER} ?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)"

_DURATION = re.compile(DURATION_PATTERN)
_SIZE = re.compile(SIZE_PATTERN)
_NUMBER = re.compile(NUMBER)
_PORT = re.compile(r"[0-9]{1,5}")
_HOST = re.compile(r"[A-Za-z0-9._-]+")

_SECONDS = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_BYTES = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}
_LARGEST = 10**15  # more overflows a timer or a C library somewhere below us

DURATION = 'a duration such as "30m"'
LIFETIME = 'a duration such as "30m", or "never"'
SIZE = 'a size such as "256MiB"'
ADDRESS = 'an address such as "127.0.0.1:8080"'
URL = 'a URL such as "http://localhost:8000"'


class Address(NamedTuple):
    """Where to listen; an empty host means every interface."""

    host: str
    port: int


def duration(value: object) -> float:
    """Seconds, from a number of them or from text such as `1h30m`, `500ms`, `90`."""
    number = _number(value)
    if number is not None:
        return number
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        raise Mismatch(DURATION)
    return sum(float(count) * unit for count, unit in zip(match.groups(), _SECONDS, strict=True) if count)


def positive_duration(value: object) -> float:
    """A duration that is not zero."""
    seconds = duration(value)
    if seconds == 0:
        raise Mismatch(f"{DURATION} that is longer than nothing")
    return seconds


def lifetime(value: object) -> float | None:
    """A duration, or None for `never` and for zero."""
    if value == "never":
        return None
    try:
        return duration(value) or None
    except Mismatch:
        raise Mismatch(LIFETIME) from None


def size(value: object) -> int:
    """Bytes, from a number of them or from text such as `8GiB`, `256MB`."""
    number = _number(value)
    if number is not None and number.is_integer():
        return int(number)
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Mismatch(SIZE)
    return int(float(match[1]) * _BYTES[match[2]])


def positive_size(value: object) -> int:
    """A size that is not zero."""
    count = size(value)
    if count == 0:
        raise Mismatch(f"{SIZE} of at least one byte")
    return count


def _number(value: object) -> float | None:
    """A plain number that is neither negative nor absurd, written bare or as text; `True` is none, though an `int`."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST:
        return float(value)
    return None


def listen_address(value: object) -> Address:
    """`HOST:PORT`, `:PORT` for every interface, `[IPV6]:PORT`."""
    if not isinstance(value, str):
        raise Mismatch(ADDRESS)
    host, colon, port = value.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise Mismatch(ADDRESS, "write a host, a colon and a port up to 65535")
    return Address(_host(host), int(port))


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    if ":" in text:
        raise Mismatch(ADDRESS, 'write an IPv6 address in brackets, such as "[::1]:8080", and no scheme')
    if text and not _HOST.fullmatch(text):
        raise Mismatch(ADDRESS)
    return text


def _ipv6(text: str) -> str:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise Mismatch(ADDRESS, "there is no IPv6 address between the brackets") from None
    return text


def base_url(value: object) -> str:
    """The URL of an HTTP service, perhaps with a path; `${PORT}` may stand in for its port."""
    if not isinstance(value, str) or any(character.isspace() or ord(character) < 32 for character in value):
        raise Mismatch(URL)
    try:
        parts = urlsplit(value.replace("${PORT}", "1"))
        is_whole = bool(parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0))
    except ValueError:  # a port that is none, brackets without an address
        is_whole = False
    if not is_whole or parts.query or parts.fragment:
        raise Mismatch(URL)
    return value
