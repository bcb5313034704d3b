"""Finding out whose key a request brings, and what that allows. Keys are known by their digests only."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING

from supervisor.config.clients import EVERYTHING, ClientKey, Scope, digest_of
from supervisor.errors import ModelForbidden

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.config.values import Config

CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))
"""Headers in which clients send keys, to us or to others."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of one config."""

    keys: tuple[ClientKey, ...] = ()

    @classmethod
    def of(cls, config: Config) -> KeyRing:
        """Those of `server.api_keys`, good for everything, and those with a name."""
        plain = (
            ClientKey(f"api_keys[{index}]", digest_of(secret), EVERYTHING, secret=secret)
            for index, secret in enumerate(config.server.api_keys)
        )
        return cls((*plain, *config.keys.values()))

    def owner_of(self, secret: bytes | None) -> ClientKey | None:
        """The key that this is."""
        if not secret:
            return None
        digest, found = sha256(secret).digest(), None
        # All of them, and each in constant time: how long it takes tells nothing of a key.
        for key in self.keys:
            if compare_digest(digest, key.digest):
                found = key
        return found

    def own(self) -> str | None:
        """A key that our own commands may bring: for all models, and for the service if there is one."""
        able = [key for key in self.keys if key.allows(Scope.MANAGE) and key.models is None and key.secret is not None]
        best = next((key for key in able if key.allows(Scope.ADMIN)), able[0] if able else None)
        return best.secret if best is not None else None

    def is_in(self, name: bytes, value: bytes) -> bool:
        """Whether a header holds a key of ours in any form that somebody may read one from."""
        return name in CREDENTIALS and any(self.owner_of(part) for part in _parts(value.strip()))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"<KeyRing [{', '.join(key.name for key in self.keys)}]>"


NO_KEYS = KeyRing()


def key_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key a request brings: the password of Basic, else a Bearer token, else `x-api-key`."""
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    match scheme.lower():
        case b"basic":
            user = _user(value.strip())
            if user is not None:
                return user[1]
        case b"bearer":
            return value.strip()
    return headers.get(b"x-api-key")


def is_basic(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser may have added the key by itself."""
    return headers.get(b"authorization", b"")[:6].lower() == b"basic "


def require_model(key: ClientKey | None, *names: str | None) -> None:
    """Raise `ModelForbidden` unless a key may use the model with these names, or there are no keys."""
    if key is not None and not may_use(key, *names):
        raise ModelForbidden(f"the key `{key.name}` may not use the model `{next(filter(None, names), '')[:200]}`")


def may_use(key: ClientKey, *names: str | None) -> bool:
    """Whether a key allows any of the names by which a request means a model."""
    return key.models is None or any(_fits(name, key.models) for name in names if name)


@lru_cache(maxsize=4096)
def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name is one of these, or of the kind that one of these describes."""
    return any(re.match(translate(each), name) for each in patterns)


def _parts(value: bytes) -> Iterable[bytes]:
    """What follows the scheme of a credential, the whole of it, and the halves of Basic."""
    _, _, rest = value.partition(b" ")
    rest = rest.strip() or value
    yield rest
    if rest != value:
        yield value
    with contextlib.suppress(binascii.Error):
        decoded = base64.b64decode(rest)
        yield from (decoded, *decoded.split(b":", 1))


def _user(encoded: bytes) -> tuple[bytes, bytes] | None:
    """The name and the password of Basic."""
    try:
        name, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
    except binascii.Error:
        return None
    return (name, password) if colon else None
