"""The keys of `models.toml` that say who may ask: the tables `[keys.NAME]`, and what `[server]` says of it.

What is written where a key belongs is never repeated in a problem.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, TypeVar

from supervisor.config.clients import ClientKey, Scope, digest_of
from supervisor.config.kinds import BOOLEAN, FILLED, Key, Kind, integer, list_of, not_empty, of, one_of
from supervisor.config.place import CONTROL, VARIABLE
from supervisor.config.problems import Mismatch, shown
from supervisor.config.secrets import SHOWN_INSTEAD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.place import Place

T = TypeVar("T")

NAME_LENGTH = 64
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_HOST = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]*[A-Za-z0-9_~-])+")
_FORMS = ("key", "file", "sha256")


def hidden(kind: Kind[str]) -> Kind[str]:
    """The same kind of text, of which no problem says what was found."""

    def read(place: Place) -> str:
        try:
            return kind.read(place)
        except Mismatch as mismatch:
            written = place.written
            is_reference = isinstance(written, str) and VARIABLE.fullmatch(written)
            place.refuse(mismatch.expected, mismatch.hint, found=shown(written) if is_reference else SHOWN_INSTEAD)
            return ""

    return Kind(read, kind.json)


def _api_key(value: object) -> str:
    if isinstance(value, str) and value and not any(character.isspace() for character in value):
        return value
    raise Mismatch("a key that is neither empty nor has spaces")


def _digest(value: object) -> str:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value
    raise Mismatch("64 hexadecimal digits", "`printf %s KEY | sha256sum` prints them")


def _allowed_host(value: object) -> str:
    text = value.lower().rstrip(".") if isinstance(value, str) else ""
    if _HOST.fullmatch(text):
        return text
    raise Mismatch('a host name, "*.example.com" or "*"', "without scheme, port and path; addresses are always allowed")


def _network(value: object) -> str:
    try:
        return str(ipaddress.ip_network(value if isinstance(value, str) else "", strict=False))
    except ValueError:
        raise Mismatch('an address or a network such as "10.0.0.0/8"') from None


def _prefix(value: object) -> str:
    if isinstance(value, str) and (value == "" or _PREFIX.fullmatch(value)):
        return value
    raise Mismatch('the beginning of a path such as "/llm"', "with a slash before it and none behind it")


def key_name(place: Place) -> str:
    """The name of a `[keys.NAME]`, which stands in logs."""
    name = str(place.key)
    if not name or CONTROL.search(name) or len(name) > NAME_LENGTH:
        raise Mismatch(f"a name of 1 to {NAME_LENGTH} characters, none of them a control character")
    return name


API_KEY = hidden(of(_api_key, {"type": "string", "pattern": r"^\S+$"}))

KEY = {
    "key": Key(API_KEY, "The key, best as `${env:NAME}`: then it does not stand in the file."),
    "file": Key(FILLED, "The file that holds the key and nothing else, in place of `key`."),
    "sha256": Key(
        hidden(of(_digest, {"type": "string", "pattern": r"^[0-9a-fA-F]{64}$|\$\{env:"})),
        "The SHA-256 of the key in hexadecimal digits, in place of `key`.",
    ),
    "scopes": Key(
        not_empty(list_of(one_of({each.value: each for each in Scope}))),
        "What it is good for: `inference` to use models, `manage` to see, load and unload, `admin` to change the "
        "service too. `admin` includes `manage`; `/upstream` takes `manage` and `inference`.",
        ["inference"],
    ),
    "models": Key(
        not_empty(list_of(FILLED)),
        "The models it may use, as names or patterns such as `qwen*`; without this all. What concerns every model at "
        "once is closed to it then.",
    ),
    "rate": Key(integer(1), "Requests a minute; so many may come at once. The next one is answered 429."),
    "concurrency": Key(integer(1), "Requests at a time; the next one is answered 429."),
}

SERVER = {
    "allowed_hosts": Key(
        list_of(of(_allowed_host, {"type": "string"})),
        'More names under which clients may ask for this service, `*.example.com` for all below one; "*" allows any. '
        "Addresses, `localhost`, this machine's name and names of home networks need no mention.",
    ),
    "trusted_proxies": Key(
        list_of(of(_network, {"type": "string"})),
        "Addresses and networks of reverse proxies that add the client's address to `X-Forwarded-For` or `Forwarded`.",
    ),
    "prefix": Key(of(_prefix, {"type": "string"}), "What a reverse proxy puts before every path, such as `/llm`.", ""),
    "block_private_urls": Key(
        BOOLEAN,
        "Refuse requests with URLs of images and the like that lead into private networks: the model's server would "
        "fetch them.",
        False,
    ),
}


def check_keys(root: Place, tables: Mapping[str, Mapping[str, object]]) -> None:
    """Each key is given in one form, and no two are the same."""
    seen: dict[bytes, str] = {}
    for name, fields in tables.items():
        place = root.at("keys", name)
        written = place.written if isinstance(place.written, dict) else {}
        if sum(form in written for form in _FORMS) != 1:
            place.refuse("one of `key`, `file` and `sha256`", found=", ".join(map(str, written)))
        digest = client_key(name, fields).digest
        if digest and seen.setdefault(digest, name) != name:
            place.refuse("a key that no other table has", found=f"that of `keys.{seen[digest]}`")


def client_key(name: str, fields: Mapping[str, object]) -> ClientKey:
    """The value of a checked table; where the key is in a file, that is read later."""
    rest = {key: value for key, value in fields.items() if key not in {"key", "sha256", "scopes"}}
    if "scopes" in fields:
        rest["scopes"] = frozenset(fields["scopes"])  # type: ignore[call-overload] # checked by its kind
    match fields:
        case {"key": str(secret)} if secret:
            rest |= {"secret": secret, "digest": digest_of(secret)}
        case {"sha256": str(digits)} if digits:
            rest["digest"] = bytes.fromhex(digits)
        case _:
            pass
    return ClientKey(name, **rest)  # type: ignore[arg-type] # the same
