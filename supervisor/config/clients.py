"""The keys that clients bring, and what each is good for, as frozen values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum


class Scope(Enum):
    """What a key is good for."""

    INFERENCE = "inference"
    """Using models."""
    MANAGE = "manage"
    """Seeing what goes on, and loading and unloading."""
    ADMIN = "admin"
    """That, and changing the service itself."""


EVERYTHING = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class ClientKey:
    """One `[keys.NAME]` table, or an entry of `server.api_keys`."""

    name: str
    """What the log calls it; the key itself is never shown."""
    digest: bytes = field(default=b"", repr=False)
    """The SHA-256 of the key; empty, which no key has, until its file was read."""
    scopes: frozenset[Scope] = frozenset({Scope.INFERENCE})
    models: tuple[str, ...] | None = None
    """Names and patterns of the models it may use; None: all."""
    rate: int | None = None
    """Requests a minute; None: any number."""
    concurrency: int | None = None
    """Requests at a time; None: any number."""
    secret: str | None = field(default=None, repr=False)
    """The key, where the config tells more than its digest."""
    file: str | None = None
    """The file that holds it."""

    def allows(self, scope: Scope) -> bool:
        """Whether it is good for this; `admin` includes `manage`, and neither includes `inference`."""
        return scope in self.scopes or (scope is Scope.MANAGE and Scope.ADMIN in self.scopes)


def digest_of(secret: str) -> bytes:
    """What is kept of a key to know it by."""
    return hashlib.sha256(secret.encode()).digest()
