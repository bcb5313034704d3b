"""Where a child listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """A socket file in a directory only we can enter."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A port on loopback."""

    port: int
    host: str = "127.0.0.1"

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}"


Endpoint: TypeAlias = UnixEndpoint | TcpEndpoint
