"""What a config file says, as frozen values. Where the text came from, and how it was checked, is not known here."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from supervisor.config.clients import ClientKey
    from supervisor.config.problems import Problem
    from supervisor.config.routing import Groups, Matrix

Scalar: TypeAlias = bool | int | float | str
Option: TypeAlias = Scalar | tuple[Scalar, ...]
"""The value of a llama-server option: `true` is the bare flag, `false` its `--no-` form, a list repeats it."""

Json: TypeAlias = "Scalar | tuple[Json, ...] | Mapping[str, Json] | None"


STATIC_ASSETS = r"\.(?:js|json|css|png|gif|jpg|jpeg|ico|txt)$"
"""Paths that a browser asks for by itself."""


class Management(Enum):
    """Who may load, unload and read logs without a key."""

    LOCAL = "local"
    PRIVATE = "private"
    OPEN = "open"


class Transport(Enum):
    """How we reach a child: a unix socket only we can open, or a TCP port on loopback."""

    UNIX = "unix"
    TCP = "tcp"


class Overload(Enum):
    """What becomes of a request beyond a model's `concurrency`."""

    WAIT = "wait"
    REFUSE = "refuse"
    """It is answered 429; those that wait for a load count too."""


class Spread(Enum):
    """Which of several GPUs a model goes to."""

    PACK = "pack"
    """The one that it fills best, so that a large one stays empty for a large model."""
    SPREAD = "spread"
    """The emptiest."""


class Console(Enum):
    """Whose log goes to our own output."""

    PROXY = "proxy"
    UPSTREAM = "upstream"
    BOTH = "both"
    NONE = "none"


class LogFormat(Enum):
    """How we write our own log."""

    TEXT = "text"
    JSON = "json"
    """One object per line, and one line for each request."""


class Strategy(Enum):
    """How a selector chooses among its targets."""

    PIN = "pin"
    """The first."""
    WARM = "warm"
    """The first that is ready, else the first that is starting, else the first."""
    SPILLOVER = "spillover"
    """Those in use up to `spillover` requests each, then the next."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What happens to the JSON body of a request before the child sees it.

    First `strip`, then `defaults`, then `force`, each in its order. A field is a path: `a.b` is the field `b` of the
    object `a`, `a\\.b` one whose name has a dot.
    """

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
class Timeouts:
    """Seconds that the steps of a request to a server may take; None sets no limit."""

    connect: float | None = 30.0
    keepalive: float | None = 30.0
    """Between the probes of an open TCP connection."""
    response_header: float | None = None
    tls_handshake: float | None = 10.0
    expect_continue: float | None = 1.0
    idle_connection: float | None = 90.0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do, for clients that read the list of models."""

    inputs: tuple[str, ...] = ()
    """Of `text`, `audio` and `image`."""
    outputs: tuple[str, ...] = ()
    tools: bool = False
    reranker: bool = False
    context: int = 0
    """Tokens; 0 if it is not said."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Commands that are run around the life of a model's process; empty: none."""

    before_load: tuple[str, ...] = ()
    """Run to its end before the process is started."""
    after_load: tuple[str, ...] = ()
    """Started once the model is ready; requests do not wait for it."""
    before_unload: tuple[str, ...] = ()
    """Run to its end before the process is told to leave; a crash leaves no time for it."""
    after_unload: tuple[str, ...] = ()
    """Run to its end once the process is gone; until then its memory counts as taken."""
    timeout: float = 30.0
    """Seconds after which a command is killed and has failed."""
    required: bool = False
    """Whether the model is not loaded when `before_load` fails."""


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
    """A whole command line for any other server, `${PORT}` still in it unless `port` is set; empty: llama-server."""
    shown_cmd: str = ""
    """`cmd` as its author laid it out, macros replaced; empty: the words of `cmd`."""
    cmd_stop: tuple[str, ...] = ()
    """The command that stops it, `${PID}` still in it; empty: SIGTERM to its group."""
    proxy: str | None = None
    """The base URL of what `cmd` starts, `${PORT}` still in it unless `port` is set; None: the port on loopback."""
    port: int | None = None
    """The port that its commands and `proxy` name, already replaced in them; None: whichever is free."""
    env: Mapping[str, str] = field(default_factory=dict)
    transport: Transport = Transport.UNIX
    check_endpoint: str = "/health"
    """The path that answers 200 once it is ready; `none`: a connection is enough; empty: it is ready unasked."""
    load_timeout: float = 120.0
    """Seconds without a sign of life after which a start counts as hung."""
    load_limit: float = 3600.0
    """Seconds after which a start is given up, whatever signs of life there are."""
    stall_timeout: float | None = 900.0
    """Seconds without a byte or work for a model that owes an answer, after which it is wedged; None: never."""
    unload_timeout: float | None = None
    """Seconds it gets to leave before SIGKILL; None: `server.stop_timeout`."""
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
    overload: Overload = Overload.WAIT
    timeouts: Timeouts = field(default_factory=Timeouts)
    hooks: Hooks = field(default_factory=Hooks)
    ignore_websockets: bool = False
    """Whether websockets neither start the model nor keep it loaded."""
    send_loading_state: bool = False
    """Whether waiting streams are told as reasoning how the model's load goes."""
    use_model_name: str | None = None
    """The `model` the server gets to see; None: the one the client sent."""
    filters: Filters = field(default_factory=Filters)
    filters_by_name: Mapping[str, Filters] = field(default_factory=dict)
    """What stands in for `filters` in requests by that name."""
    capabilities: Capabilities | None = None
    name: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    variants: Mapping[str, Variant] = field(default_factory=dict)
    unlisted: bool = False
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another service whose models are offered here as `PEER/MODEL`."""

    proxy: str
    """Its base URL."""
    models: tuple[str, ...]
    api_key: str | None = None
    """Sent in place of the client's; None passes the client's on."""
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(response_header=60.0))
    filters: Filters = field(default_factory=Filters)
    filters_by_name: Mapping[str, Filters] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selector:
    """A name that stands for one of several models, chosen for each request."""

    strategy: Strategy
    targets: tuple[str, ...]
    """Models, aliases or peers' models, as they are written."""
    spillover: int = 1
    """Requests a target serves before the next one is taken."""
    name: str = ""
    description: str = ""
    unlisted: bool = False
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """Names that stand for others while the profile is active."""

    pins: Mapping[str, str | None]
    """The name in a request and what it means; None: nothing has that name."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Performance:
    """How the machine is watched."""

    disabled: bool = False
    every: float = 5.0
    """Seconds between samples."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The `[memory]` table: how much of each device all models together may take."""

    reserve: int = 1024**3
    """Bytes left alone of every device that has no budget."""
    budget: Mapping[str, int] = field(default_factory=dict)
    """Bytes by device: `host`, or the name llama-server has for a GPU."""
    spread: Spread = Spread.PACK


@dataclass(frozen=True, slots=True)
class Server:
    """The `[server]` table."""

    host: str = "127.0.0.1"
    """An address or a name; empty is every interface."""
    port: int = 8080
    default_model: str | None = None
    max_loaded: int | None = None
    """Models that may be in memory at the same time; None: as many as fit."""
    min_residency: float | None = None
    """Seconds that a busy model may go on taking requests before it makes room; None: as long as its load took."""
    on_idle: str | None = None
    """The model to have loaded when nothing is asked for."""
    max_queue: int = 1000
    """Requests that may wait; the next one is answered 429."""
    max_wait: float = 30.0
    """Seconds for which later requests may overtake a waiting one."""
    drain_timeout: float = 30.0
    """Seconds an unload waits for requests in flight before it cuts them."""
    stop_timeout: float = 10.0
    """Seconds a server that is no llama-server gets to leave before SIGKILL."""
    comment_after: float = 5.0
    """Seconds after which a waiting stream is told by comments how its model's load goes."""
    max_body: int = 256 * 1024**2
    """Bytes of a request body; more is answered 413."""
    body_memory: int = 512 * 1024**2
    """Bytes that the bodies of all requests may hold in memory; a further large one is answered 503."""
    max_connections: int = 4096
    """Connections of clients; fewer if we may open fewer files. The next one is answered 503."""
    log_buffer: int = 256 * 1024
    """Bytes of output kept per model."""
    log_dir: str | None = None
    """Where our log and each model's output are written to files, too; None: nowhere."""
    log_file_size: int = 10 * 1024**2
    """Bytes after which a log file is put aside and a new one begun."""
    log_file_count: int = 5
    """Log files kept that were put aside, for each model and for us."""
    decision_log: str | None = None
    """The file that every step of the planner is written to; None: none."""
    management: Management = Management.LOCAL
    log_level: str = "info"
    log_format: LogFormat = LogFormat.TEXT
    log_time_format: str | None = None
    """The name of a layout of Go's `time`, in small letters; empty: lines without a time; None: lines of our own."""
    log_to_stdout: Console = Console.PROXY
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    api_keys: tuple[str, ...] = ()
    """Who sends none of them, and no key of `Config.keys`, is answered 401; without any, nobody needs one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names in Host besides those that nobody else can give us; `*` is any."""
    are_hosts_checked_for_models: bool = True
    """Whether names in Host matter for what pages of any site may ask, too."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of reverse proxies that are believed about who asked them."""
    prefix: str = ""
    """What stands before the paths of requests that come through a reverse proxy."""
    block_private_urls: bool = False
    """Whether requests are refused that would make a child fetch from private networks."""
    ignore_paths: tuple[str, ...] = (STATIC_ASSETS,)
    """Patterns of paths below `/upstream/MODEL` that do not load a model."""
    aliases_in_list: bool = False
    """Whether aliases are entries of their own where models are listed."""
    start_port: int = 5800
    """The port of the first model that names `${PORT}`, where ports are fixed."""
    preload: tuple[str, ...] = ()
    """Models that are loaded at the start, one after the other."""
    activity: bool = True
    """Whether requests are recorded and counted."""
    metrics_max_in_memory: int = 1000
    """Rows of activity kept without a `store`."""
    capture_buffer: int = 0
    """Bytes of requests and answers kept to look at; 0 keeps none."""
    store: str | None = None
    """The SQLite file activity is kept in; None: memory."""
    session_id_headers: tuple[str, ...] = ("X-Session-ID", "X-Litellm-Session-Id")
    """Request headers that tell which requests belong together."""
    performance: Performance = field(default_factory=Performance)


@dataclass(frozen=True, slots=True)
class Config:
    """A whole config file. Comparable, so that a reload can tell what changed."""

    base: Path
    """The directory relative paths start from."""
    server: Server = field(default_factory=Server)
    models: Mapping[str, Model] = field(default_factory=dict)
    peers: Mapping[str, Peer] = field(default_factory=dict)
    selectors: Mapping[str, Selector] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    keys: Mapping[str, ClientKey] = field(default_factory=dict)
    """The keys of clients, besides `server.api_keys`."""
    routing: Groups | Matrix | None = None
    """Which models may be loaded together, beside `max_loaded`; None: any."""
    memory: Memory | None = None
    """How memory decides who may run; None, as for every llama-swap file: it does not."""
    priorities: Mapping[str, int] = field(default_factory=dict)
    """Models whose requests go first, the highest number foremost; 0 for the others."""
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    """What variables with secretive names stood for, wherever the file used them, and keys of clients and peers."""
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    """What is odd about the file but does not stop it."""

    @property
    def default_model(self) -> str | None:
        """The model of a request that names none: `default_model`, or the only one there is."""
        if self.server.default_model is None and len(self.models) == 1:
            return next(iter(self.models))
        return self.server.default_model
