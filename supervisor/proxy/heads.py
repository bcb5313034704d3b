"""The heads of requests and responses on their way through: what belongs to one hop stays there (RFC 9110, 7.6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from supervisor.access.keys import CREDENTIALS, NO_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.access.keys import KeyRing

Headers = list[tuple[bytes, bytes]]
"""As they came, their names in lower case."""
Fields = Mapping[bytes, bytes]
"""The first value of each header."""

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
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"x-request-id"}
_NOT_RETURNED = HOP_BY_HOP | {
    # llama-server sends these empty or with credentials allowed; ours are added instead.
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"access-control-allow-methods",
    b"access-control-allow-headers",
}
_NAMES_NOTHING = frozenset((b"keep-alive", b"Keep-Alive", b"close"))
_LOCALHOST = b"localhost"
_FORWARDED_FOR = b"x-forwarded-for"


class Trail(Enum):
    """What a server is told of the way a request has come."""

    KEPT = "kept"
    """What the client told."""
    CONTINUED = "continued"
    """That, and the client's address after it."""
    HIDDEN = "hidden"
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """How the head of a request to one server differs from the one that came; by itself as little as possible."""

    host: bytes | None = _LOCALHOST
    """The value of Host; None: the client's."""
    base_path: bytes = b""
    trail: Trail = Trail.KEPT
    api_key: bytes | None = None
    """Sent in place of whatever credentials the client has sent."""
    own_keys: KeyRing = NO_KEYS
    """Keys of ours: credentials with one of them go no further."""
    proxy_authorization: bytes | None = None
    """Sent to a proxy that is asked in the server's place."""

    def rewritten(self, headers: Headers, address: tuple[str, int] | None) -> Headers:
        """What the server gets of the client's headers, and ours after them; `address` is the client's."""
        kept = [(name, value) for name, value in headers if self._passes(name, value)]
        if self.trail is Trail.CONTINUED and (hops := _hops(headers, address)):
            kept.append((_FORWARDED_FOR, hops))
        if self.api_key is not None:
            kept += [(b"authorization", b"Bearer " + self.api_key), (b"x-api-key", self.api_key)]
        return kept

    def _passes(self, name: bytes, value: bytes) -> bool:
        if name in CREDENTIALS:
            is_replaced = self.api_key is not None and name in {b"authorization", b"x-api-key"}
            return not is_replaced and not self.own_keys.is_in(name, value)
        match self.trail:
            case Trail.KEPT:
                return True
            case Trail.CONTINUED:
                return name != _FORWARDED_FOR
            case Trail.HIDDEN:
                return name != b"forwarded" and not name.startswith(b"x-forwarded-")


AS_IT_CAME = Forwarding()
"""To a child of ours."""


def request_head(  # noqa: PLR0917 - called for every request, and by name is slower
    method: bytes,
    target: bytes,
    headers: Headers,
    length: int | None,
    forwarding: Forwarding = AS_IT_CAME,
    address: tuple[str, int] | None = None,
    request_id: str = "",
    fields: Fields | None = None,
) -> bytes:
    """The bytes before the body; header names are lower case, as ASGI gives them.

    `address` is the client's; `request_id` takes the place of one that it may have sent. `fields` are those of
    `headers`, where somebody has them already.
    """
    if fields is None:
        fields = fields_of(headers)
    host = forwarding.host or fields.get(b"host") or _LOCALHOST
    if len(fields) != len(headers) or fields.get(b"connection", b"close") not in _NAMES_NOTHING:
        headers = _without_named_by_connection(headers)
    if forwarding is not AS_IT_CAME:
        headers = forwarding.rewritten(headers, address)
    lines = [b"%b: %b\r\n" % pair for pair in headers if pair[0] not in _NOT_FORWARDED]
    if forwarding.proxy_authorization is not None:
        lines.append(b"proxy-authorization: %b\r\n" % forwarding.proxy_authorization)
    if request_id:
        lines.append(b"x-request-id: %b\r\n" % request_id.encode())
    if length is not None:
        lines.append(b"content-length: %d\r\n" % length)
    path = forwarding.base_path + target
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (method, path, host, b"".join(lines))


def _hops(headers: Headers, address: tuple[str, int] | None) -> bytes:
    """Whom a request has come through, the client that we see at the end."""
    hops = [value for name, value in headers if name == _FORWARDED_FOR]
    if address is not None:
        hops.append(address[0].removeprefix("::ffff:").encode())  # an IPv4 address on a socket for both kinds
    return b", ".join(hops)


def response_headers(status: int, headers: Headers, fields: Fields | None = None, *, is_stream: bool) -> Headers:
    """The server's headers as the client gets them; `fields` are those of `headers`, where somebody has them."""
    if fields is None:
        fields = fields_of(headers)
    if len(fields) != len(headers) or fields.get(b"connection", b"close") not in _NAMES_NOTHING:
        headers = _without_named_by_connection(headers)
    if status in {204, 304}:  # a length would be that of the body which is not sent
        headers = [pair for pair in headers if pair[0] != b"content-length"]
    kept = [pair for pair in headers if pair[0] not in _NOT_RETURNED]
    if is_stream:
        if b"x-accel-buffering" in fields:  # a peer may say it too
            kept = [pair for pair in kept if pair[0] != b"x-accel-buffering"]
        kept.append((b"x-accel-buffering", b"no"))  # nginx in front of us would hold tokens back
    return kept


def is_event_stream(fields: Fields) -> bool:
    """Whether the body is a stream of server-sent events."""
    return fields.get(b"content-type", b"").startswith(b"text/event-stream")


def is_compressed(fields: Fields) -> bool:
    """Whether the body is other bytes than what it says."""
    return fields.get(b"content-encoding", b"identity") != b"identity"


def fields_of(headers: Headers) -> Fields:
    """The first value of each header."""
    return dict(reversed(headers))


def header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The first value of a header, its name in lower case."""
    for name, value in headers:
        if name == wanted:
            return value
    return None


def _without_named_by_connection(headers: Headers) -> Headers:
    """The headers, without those that a Connection header declares to be for this hop only."""
    values = [value for name, value in headers if name == b"connection"]
    named = {token.strip().lower() for token in b",".join(values).split(b",")}
    return [pair for pair in headers if pair[0] not in named]
