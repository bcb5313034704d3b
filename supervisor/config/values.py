"""What a config file says, as frozen values. Where the text came from, and how it was checked, is not known here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Scalar: TypeAlias = bool | int | float | str
Option: TypeAlias = Scalar | tuple[Scalar, ...]
"""The value of a llama-server option: `true` is the bare flag, `false` its `--no-` form, a list repeats it."""

Json: TypeAlias = "Scalar | tuple[Json, ...] | Mapping[str, Json] | None"


class Management(Enum):
    """Who may load, unload and read logs without a key."""

    LOCAL = "local"
    PRIVATE = "private"
    OPEN = "open"


class Transport(Enum):
    """How we reach a child: a unix socket only we can open, or a TCP port on loopback."""

    UNIX = "unix"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Filters:
    """What happens to the JSON body of a request before the child sees it."""

    strip: tuple[str, ...] = ()
    """Fields removed, whoever set them."""
    defaults: Mapping[str, Json] = field(default_factory=dict)
    """Fields set only where the client sent none (a variant's sampling)."""
    force: Mapping[str, Json] = field(default_factory=dict)
    """Fields set whatever the client sent."""

    def __bool__(self) -> bool:
        return bool(self.strip or self.defaults or self.force)


@dataclass(frozen=True, slots=True)
class Variant:
    """Another name for a model, with other request parameters, on the same process."""

    filters: Filters = field(default_factory=Filters)
    description: str = ""
    unlisted: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """One `[models.NAME]` table with `[defaults]` already under it."""

    id: str
    options: Mapping[str, Option] = field(default_factory=dict)
    """llama-server options by long name without dashes; unchecked, for no binary is known here."""
    sampling: Mapping[str, Option] = field(default_factory=dict)
    """The recommended parameters, by llama-server's option names (`temp`, `top-k`, …)."""
    binary: str | None = None
    cmd: tuple[str, ...] = ()
    """A whole command line for any other server, `${PORT}` still in it; empty for a llama-server."""
    env: Mapping[str, str] = field(default_factory=dict)
    transport: Transport = Transport.UNIX
    check_endpoint: str = "/health"
    load_timeout: float = 120.0
    """Seconds without a sign of life after which a start counts as hung."""
    load_limit: float = 3600.0
    """Seconds after which a start is given up, whatever signs of life there are."""
    stall_timeout: float | None = 900.0
    """Seconds without a byte or work for a model that owes an answer, after which it is wedged; None: never."""
    require_gpu: bool = False
    """Whether it is a failure if llama-server sees no GPU."""
    ttl: float | None = None
    """Seconds of idleness after which the model is unloaded; None keeps it."""
    pinned: bool = False
    fit_cache: bool = True
    """Whether llama-server's `--fit` is left out where it is known to change nothing."""
    prefetch: bool = True
    """Whether the files are read into the page cache ahead of a start."""
    concurrency: int | None = None
    """Requests at a time; None leaves queueing to the child."""
    filters: Filters = field(default_factory=Filters)
    name: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    variants: Mapping[str, Variant] = field(default_factory=dict)
    unlisted: bool = False
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Server:
    """The `[server]` table."""

    host: str = "127.0.0.1"
    """An address or a name; empty is every interface."""
    port: int = 8080
    default_model: str | None = None
    max_loaded: int = 1
    """Models that may be in memory at the same time."""
    max_queue: int = 1000
    """Requests that may wait; the next one is answered 429."""
    max_wait: float = 60.0
    """Seconds for which later requests may overtake a waiting one."""
    drain_timeout: float = 30.0
    """Seconds an unload waits for requests in flight before it cuts them."""
    stop_timeout: float = 10.0
    """Seconds a server that is no llama-server gets to leave before SIGKILL."""
    comment_after: float = 5.0
    """Seconds after which a waiting stream is told by comments how its model's load goes."""
    max_body: int = 256 * 1024**2
    """Bytes of a request body; more is answered 413."""
    log_buffer: int = 256 * 1024
    """Bytes of output kept per model."""
    management: Management = Management.LOCAL
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """A whole config file. Comparable, so that a reload can tell what changed."""

    base: Path
    """The directory relative paths start from."""
    server: Server = field(default_factory=Server)
    models: Mapping[str, Model] = field(default_factory=dict)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    """What variables with secretive names stood for, wherever the file used them."""

    @property
    def default_model(self) -> str | None:
        """The model of a request that names none: `default_model`, or the only one there is."""
        if self.server.default_model is None and len(self.models) == 1:
            return next(iter(self.models))
        return self.server.default_model
