"""What first starts have taught about `--fit`, kept in one small file; a start that is known need not fit again."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

logger = logging.getLogger("supervisor.fits")

MOST = 2000
"""Starts remembered; the oldest are forgotten."""
MARGIN = 1.1
"""Free memory asked for, as a multiple of what the first start took: a cache may have grown since it was measured."""


class Fit(msgspec.Struct, frozen=True):
    """A start that fitting left as it was asked for."""

    host_bytes: int
    """Memory of the process when it became ready, mapped files included."""
    beside: int
    """Other children that were there, and may have held memory of the same devices."""


class Fits:
    """Known starts by key; a key names all that a start depends on."""

    def __init__(self, cache_dir: Path | None) -> None:
        self._path = cache_dir / "fits.json" if cache_dir else None
        self._known = self._load()

    def can_skip(self, key: str, *, available: int | None, beside: int, has_devices: bool) -> bool:
        """Whether a start may leave fitting out, for it changed nothing before and there is as much room now.

        How much of a device is free nobody has told us: there, more company than at the first start is too much.
        """
        fit = self._known.get(key)
        if fit is None or available is None or available < fit.host_bytes * MARGIN:
            return False
        return not has_devices or beside <= fit.beside

    def learn(self, key: str, fit: Fit) -> None:
        """Remember a start that fitting left as it was."""
        if self._known.get(key) != fit:
            self._known.pop(key, None)
            self._known[key] = fit
            self._save()

    def forget(self, key: str) -> None:
        """It did not hold."""
        if self._known.pop(key, None) is not None:
            self._save()

    def _load(self) -> dict[str, Fit]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Fit]) if self._path else {}
        except (OSError, ValueError):
            return {}  # never written, or by another version: it will be learned again

    def _save(self) -> None:
        while len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        if self._path is None:
            return
        unfinished = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(msgspec.json.encode(self._known))
            unfinished.replace(self._path)
        except OSError as exc:
            with suppress(OSError):
                unfinished.unlink()
            logger.warning("cannot keep what starts have taught in %s: %s", self._path, exc)


def key_of(parts: Iterable[object]) -> str:
    """One short key for all that a start depends on."""
    return hashlib.sha256(repr(tuple(parts)).encode(errors="surrogateescape")).hexdigest()[:32]
