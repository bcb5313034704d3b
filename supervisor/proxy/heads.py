"""The heads of requests and responses on their way through: what belongs to one hop stays there (RFC 9110, 7.6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.proxy.upstream import Headers

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
_NOT_RETURNED = HOP_BY_HOP | {
    # llama-server sends these empty or with credentials allowed; ours are added instead.
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"access-control-allow-methods",
    b"access-control-allow-headers",
}


def request_head(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]], length: int | None) -> bytes:
    """The bytes before the body; header names are lower case, as ASGI gives them."""
    lines = [method, b" ", target, b" HTTP/1.1\r\nhost: localhost\r\n"]
    dropped = _named_by_connection(headers)
    for name, value in headers:
        if name not in _NOT_FORWARDED and name not in dropped:
            lines += (name, b": ", value, b"\r\n")
    if length is not None:
        lines.append(b"content-length: %d\r\n" % length)
    lines.append(b"\r\n")
    return b"".join(lines)


def response_headers(status: int, headers: Headers, *, is_stream: bool) -> Headers:
    """The child's headers as the client gets them."""
    dropped = _named_by_connection(headers)
    if status in {204, 304}:
        dropped |= {b"content-length"}  # of the body that is not sent
    kept = [pair for pair in headers if pair[0] not in _NOT_RETURNED and pair[0] not in dropped]
    if is_stream:
        kept.append((b"x-accel-buffering", b"no"))  # nginx in front of us would hold tokens back
    return kept


def is_event_stream(headers: Headers) -> bool:
    """Whether the body is a stream of server-sent events."""
    kind = header(headers, b"content-type")
    return kind is not None and kind.startswith(b"text/event-stream")


def header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The first value of a header, its name in lower case."""
    for name, value in headers:
        if name == wanted:
            return value
    return None


def _named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The headers that a Connection header declares to be for this hop only."""
    values = [value for name, value in headers if name == b"connection"]
    if not values or values in ([b"keep-alive"], [b"Keep-Alive"], [b"close"]):
        return frozenset()
    return frozenset(token.strip().lower() for token in b",".join(values).split(b","))
