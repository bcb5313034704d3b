"""Which compressions a client's request may name, where its answer is to be understood for the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supervisor.proxy.heads import Fields, Headers

_USUAL = frozenset((b"gzip, deflate", b"gzip", b"deflate", b"identity", b""))
_UNDERSTOOD = frozenset((b"gzip", b"x-gzip", b"deflate", b"identity"))


def readable(headers: Headers, fields: Fields) -> Headers:
    """The headers, without compressions that we do not understand (spec: llama-swap.md, section 1.9)."""
    if fields.get(b"accept-encoding", b"") in _USUAL and len(fields) == len(headers):
        return headers
    for index, (name, value) in enumerate(headers):
        if name == b"accept-encoding" and value not in _USUAL:
            kept = [each for each in value.split(b",") if each.partition(b";")[0].strip().lower() in _UNDERSTOOD]
            return [*headers[:index], (name, b",".join(kept).strip()), *headers[index + 1 :]]
    return headers
