"""Whether a browser sends a request on behalf of a page that is not ours.

Browsers say so in headers that pages cannot change: Sec-Fetch-Site to https and this machine, Origin with what is no
mere look, Referer often. What is no browser sends none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.access.hosts import parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_OURS = frozenset((b"same-origin", b"none"))
"""Our own page, and what a person has typed; `same-site` is another port of this machine."""
_PORTS = {b"http": 80, b"https": 443}


def is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Whether another site's page is behind a request with these headers."""
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site.strip().lower() not in _OURS
    host = headers.get(b"host", b"")
    origin = headers.get(b"origin")
    if origin is not None:
        return not is_same(origin, host)
    referer = headers.get(b"referer")
    return referer is not None and not is_same(referer, host)


def may_be_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Whether it is a browser's, which does not say on behalf of whom: an old one, or one that asks over plain HTTP."""
    told = headers.keys() & {b"sec-fetch-site", b"origin", b"referer"}
    return not told and headers.get(b"user-agent", b"").startswith(b"Mozilla/")


def is_same(origin: bytes, host: bytes) -> bool:
    """Whether an origin, or a URL, is that of the service as the request's Host names it."""
    scheme, colon, rest = origin.partition(b"://")
    standard = _PORTS.get(scheme.lower())
    page, ours = parts_of(rest.partition(b"/")[0]), parts_of(host)
    if not colon or standard is None or page is None or ours is None:
        return False
    return page[0] == ours[0] and (page[1] or standard) == (ours[1] or standard)
