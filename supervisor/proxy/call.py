"""A request on its way to a backend: what is asked of it, and in which words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.proxy.heads import request_head

if TYPE_CHECKING:
    from supervisor.fleet.names import Target
    from supervisor.proxy.client import Client
    from supervisor.proxy.heads import Forwarding, Headers
    from supervisor.proxy.loading_state import Telling


@dataclass(slots=True)
class Call:
    """One request."""

    method: bytes
    target: bytes
    """Path and query as the backend gets them, but for what stands before its every path."""
    headers: Headers
    body: bytes
    """All of it, or what has come so far; not kept once an answer has begun."""
    model: Target
    wakes: bool = True
    streams: bool = False
    length: int | None = None
    """Of the whole body, where more of it is to come."""
    telling: Telling | None = None
    """In whose words its stream may be told how the model loads."""

    def head(self, forwarding: Forwarding, client: Client) -> bytes:
        """The bytes before the body."""
        method, length = self.method, self.length
        if length is None and (self.body or method in {b"POST", b"PUT", b"PATCH"}):
            length = len(self.body)
        name, fields = client.request_id, client.fields
        return request_head(method, self.target, self.headers, length, forwarding, client.address, name, fields)
