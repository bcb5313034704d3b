"""What is wrong with the head of a request although the parser lets it through (spec: python-io.md, Serving)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from supervisor.errors import HeadTooLarge, InvalidRequest

if TYPE_CHECKING:
    from supervisor.errors import SupervisorError
    from supervisor.proxy.client import Client
    from supervisor.proxy.heads import Fields, Headers

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head, and of what else may come without being part of a body."""
HEADER_LIMIT = 200
"""Headers of a request."""


class Head(NamedTuple):
    """A head that will not become a `Client`."""

    raw_path: bytes
    query: bytes
    headers: Headers
    fields: Fields
    version: str


def objection(client: Client | Head) -> SupervisorError | None:
    """What is wrong with a head that the parser lets through."""
    headers, fields = client.headers, client.fields
    hosts, encoding = int(b"host" in fields), fields.get(b"transfer-encoding")
    size = sum(map(len, fields)) + sum(map(len, fields.values()))
    if len(fields) < len(headers):  # there are some of the same name
        names = [name for name, _ in headers]
        hosts = names.count(b"host")
        encoding = encoding if names.count(b"transfer-encoding") <= 1 else b"twice"
        size = sum(map(len, names)) + sum(len(value) for _, value in headers)
    size += 4 * len(headers) + len(client.raw_path) + len(client.query)
    if size > HEAD_LIMIT or len(headers) > HEADER_LIMIT:
        return head_too_large()
    if hosts > 1 or (not hosts and client.version == "1.1"):
        return InvalidRequest(f"the request has {hosts} Host headers; HTTP asks for one")
    if encoding is not None and (encoding.lower() != b"chunked" or client.version == "1.0"):
        return InvalidRequest("the body's Transfer-Encoding is none we take", hint="send a length, or `chunked`")
    if not client.raw_path.startswith(b"/") and client.raw_path != b"*":
        return InvalidRequest("the request's target has to be a path", hint="this service is no forward proxy")
    return None


def head_too_large() -> SupervisorError:
    """More than anybody needs."""
    return HeadTooLarge(f"the head of a request may have {HEAD_LIMIT // 1024} KiB and {HEADER_LIMIT} headers")
