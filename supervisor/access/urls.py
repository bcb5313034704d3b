"""URLs in a request that a model's server would fetch, and whether they lead into private networks.

Read with suspicion: whoever fetches may read a URL otherwise than we do, so one that can be read in two ways counts as
private. What a name leads to is asked of somebody else, for that is no pure question.
"""

from __future__ import annotations

import ipaddress
import json
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.access.hosts import ALWAYS, HOME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.access.hops import Address

FIELDS = frozenset(
    (
        *("url", "uri", "image_url", "audio_url", "video_url", "file_url"),
        *("input_audio", "input_image", "image", "images", "audio", "video", "data"),
    )
)
"""Fields that hold what is fetched, in the requests of OpenAI's, Anthropic's and llama-server's clients."""
DEEPEST = 100
SHOWN = 200
_UNREADABLE = "http:"
_HAS_HOST = re.compile(r"\s*(?:https?:|[a-z][a-z0-9+.-]*:[\\/]{2})", re.ASCII | re.IGNORECASE)
_AUTHORITY = re.compile(
    r"\s*[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s@/?#\\\[\]]*@)?(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s@/?#\\\[\]:%]+))"
    r"(?::\d{0,5})?(?:[/?#].*)?\s*",
    re.ASCII | re.DOTALL,
)
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]*|[0-9]+", re.ASCII)
_OCTAL = re.compile(r"(?:^|\.)0[0-9]", re.ASCII)
"""Some take it for decimal."""
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_LOCAL_ENDS = (*HOME, ".internal", ".localdomain", ".intranet", ".corp", ".home")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A URL in a request."""

    field: str
    """Where it stands, such as `messages[0].content[1].image_url.url`."""
    host: str | None
    """A name that has to be looked up; None if the URL is private as it stands."""


def may_hold_urls(body: bytes) -> bool:
    """Whether it is worth reading a body for URLs, whichever way its JSON spells them."""
    return b":/" in body or b"\\u00" in body or b"\0" in body or b"http" in body.lower()


def fetched(body: bytes) -> list[Fetched]:
    """The URLs in a JSON body that are private, or lead to a name that may be; none in what is no JSON."""
    try:
        # Numbers do not matter, and Python would refuse some that others read.
        fields = json.loads(body, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
    except RecursionError:
        return [Fetched("the body", None)]  # others may get to its end
    except ValueError:
        return []  # whoever reads it next refuses it
    return [found for path, url in _urls(fields, "", 0) if (found := _judged(path, url)) is not None]


class _Pairs(list[tuple[str, object]]):
    """An object of JSON with all its fields: where one comes twice, nobody knows which the server takes."""


def _urls(value: object, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > DEEPEST:
        yield path[:SHOWN], _UNREADABLE
    elif isinstance(value, _Pairs):
        for name, inner in value:
            here = f"{path}.{name}" if path else name
            if isinstance(inner, str):
                if name.lower() in FIELDS and _HAS_HOST.match(inner):
                    yield here, inner
            else:
                yield from _urls(inner, here, depth + 1)
    elif isinstance(value, list):
        is_of_urls = path.rpartition(".")[2].lower() in FIELDS
        for index, inner in enumerate(value):
            if isinstance(inner, str):
                if is_of_urls and _HAS_HOST.match(inner):
                    yield f"{path}[{index}]", inner
            else:
                yield from _urls(inner, f"{path}[{index}]", depth + 1)


def _judged(path: str, url: str) -> Fetched | None:
    """A URL that is private, or has a name; None for a public address."""
    host = host_of(url)
    if host is None or is_local_name(host):
        return Fetched(path, None)
    address = address_in(host)
    if address is None:
        return Fetched(path, host)
    return None if is_public(address) else Fetched(path, None)


def host_of(url: str) -> str | None:
    """The host of a URL, in small letters; None if it is not certain which that is."""
    match = _AUTHORITY.fullmatch(url)
    if match is None:
        return None
    if match["ipv6"] is not None:
        return match["ipv6"].lower()
    # Resolvers take other digits, letters and dots for the plain ones.
    name = unicodedata.normalize("NFKC", match["name"]).replace("\u3002", ".").lower()
    name = name.removesuffix(".")
    return name if name and not _OCTAL.search(name) and not set(name) & set(" /\\?#@:[]%") else None


def is_local_name(host: str) -> bool:
    """Whether a name is one of this machine or of a private network, whatever it leads to."""
    is_plain = "." not in host and ":" not in host and address_in(host) is None
    return is_plain or host in ALWAYS or host.endswith(_LOCAL_ENDS)


def address_in(host: str) -> Address | None:
    """The address that a host is, in any spelling that the C library takes: `127.1`, `0x7f000001`, `017700000001`."""
    try:
        return ipaddress.IPv6Address(host) if ":" in host else _ipv4(host)
    except ValueError:
        return None


def _ipv4(host: str) -> ipaddress.IPv4Address | None:
    """As inet_aton(3): one to four numbers, the last of which fills what is left."""
    parts = host.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    *first, last = map(_number, parts)
    if any(each > 255 for each in first) or last >= 256 ** (4 - len(first)):
        return None
    return ipaddress.IPv4Address(sum(each << (24 - 8 * index) for index, each in enumerate(first)) + last)


def _number(text: str) -> int:
    return int(text[2:] or "0", 16) if text[:2].lower() == "0x" else int(text[:20])


def is_public(address: Address) -> bool:
    """Whether an address is out in the world, and no disguise of one that is not."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _TRANSLATED or address in _COMPATIBLE:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved
