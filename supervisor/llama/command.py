"""From a model's config to the command line, environment and directory of its child. Starts nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from supervisor.config.quantities import Address
from supervisor.config.secrets import redacted
from supervisor.llama import flags, protocol
from supervisor.llama.endpoint import Endpoint, HttpEndpoint, TcpEndpoint, UnixEndpoint, endpoint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from supervisor.config.values import Model, Option
    from supervisor.llama.help_text import Catalogue

SCRUBBED = re.compile(
    r"LLAMA_ARG_|LLAMA_API_KEY$|LLAMA_SERVER_|LLAMA_APP_CMD$|AIP_|LD_PRELOAD$"
    r"|NOTIFY_SOCKET$|WATCHDOG_(?:PID|USEC)$|LISTEN_(?:PID|PIDFDID|FDS|FDNAMES)$"
)
"""Variables of ours that would change a child behind its config (spec: llama-server.md 4; LD_PRELOAD is for us), or let
it speak to systemd in our name (podman would)."""

KEY_VARIABLE = "LLAMA_API_KEY"
SECRETS = {"api-key": KEY_VARIABLE, "hf-token": "HF_TOKEN", "hft": "HF_TOKEN"}
"""Options that go through the environment: argv can be read by every user of the machine."""

PATHS = frozenset(
    (
        "api-key-file",
        "chat-template-file",
        "control-vector",
        "grammar-file",
        "json-schema-file",
        "log-file",
        "lookup-cache-dynamic",
        "lookup-cache-static",
        "lora",
        "media-path",
        "mmproj",
        "model",
        "model-draft",
        "model-vocoder",
        "path",
        "slot-save-path",
        "spec-draft-model",
        "ssl-cert-file",
        "ssl-key-file",
    )
)
"""Options whose value is a file, given relative to the config file."""

LISTS = frozenset({"control-vector", "lora"})
"""Those of them that take several, with commas between; in any other a comma is part of the name."""

GIVES_A_MODEL = frozenset(
    ("-m", "--model", "-mu", "--model-url", "-dr", "--docker-repo", "-hf", "-hfr", "--hf", "--hf-repo")
)
"""A llama-server without any of these is a router, which says nothing on stdout."""
_HERE = re.compile(r"localhost|127\.[\d.]+|0\.0\.0\.0|::1?")
_ON_LOOPBACK = "http://127.0.0.1:${PORT}"


@dataclass(frozen=True, slots=True)
class Command:
    """Everything there is to know to start a child."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    endpoint: Endpoint
    speaks_protocol: bool
    """Whether the child reports on stdout and leaves when stdin closes."""
    address: Address | None = None
    """Where on this machine it is to listen, and nobody else; None if its command does not say so."""
    stop: tuple[str, ...] = ()
    """What stops it, `${PID}` still in it; empty: a signal, or the end of its stdin."""

    api_key: str | None = field(default=None, repr=False)
    """What it wants to be sent with each request, and only we know; None: it asks for none, or for its owner's."""
    redact: Callable[[str], str] = field(default=str, compare=False)
    """Takes out the secrets that no flag gives away."""

    @property
    def shown(self) -> tuple[str, ...]:
        """The argv as it may be shown to anybody."""
        return tuple(map(self.redact, redacted(self.argv)))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a command depends on besides the config: given in, so that building one stays pure."""

    base: Path
    """Where relative paths start: the directory of the config file."""
    home: Path
    environ: Mapping[str, str]
    private_dir: Path
    """Ours alone: sockets, and the config directory that children see instead of the user's."""


def llama_command(
    model: Model,
    around: Surroundings,
    *,
    binary: Path,
    catalogue: Catalogue | None,
    endpoint: Endpoint,
    added: Mapping[str, Option] | None = None,
    key: str | None = None,
) -> Command:
    """The command of a llama-server; `catalogue` None means a wrapper whose flags and protocol are unknown.

    `added` are options of ours, in the place of the model's own. `key` closes a TCP port to everybody but us, unless
    the owner has given keys.
    """
    options = {**model_options(model, around), **(added or {})}
    options = {key: value for key, value in options.items() if key not in SECRETS}
    if not {"alias", "a"} & options.keys() and "," not in model.id:
        options["alias"] = model.id
    speaks_protocol = catalogue is not None
    secrets = {SECRETS[key]: _joined(value) for key, value in model.options.items() if key in SECRETS}
    mode = {protocol.SWITCH: "0"} if speaks_protocol else {}
    has_keys = bool({"api-key", "api-key-file"} & model.options.keys()) or KEY_VARIABLE in model.env
    key = key if isinstance(endpoint, TcpEndpoint) and not has_keys else None
    return Command(
        argv=(str(binary), *flags.argv(catalogue, options), *_listen(endpoint)),
        env={**child_environment(around), **secrets, **_closed(key), **mode, **model.env},
        cwd=around.base,
        endpoint=endpoint,
        speaks_protocol=speaks_protocol,
        address=Address(endpoint.host, endpoint.port) if isinstance(endpoint, TcpEndpoint) else None,
        api_key=key,
    )


def raw_command(
    model: Model, around: Surroundings, *, port: int, program: Path | None = None, key: str | None = None
) -> Command:
    """The command line the config gives for any other server, `port` in place of `${PORT}`.

    `program` is given if it is a llama-server all the same: what it is told stays, but it reports how it loads, and its
    port is closed with `key`, unless the owner has given keys.
    """
    argv = _words(model.cmd, around, port)
    endpoint = endpoint_of((model.proxy or _ON_LOOPBACK).replace("${PORT}", str(port)))
    speaks_protocol = program is not None and not GIVES_A_MODEL.isdisjoint(argv)
    inherited = child_environment(around) if program else _inherited(around)
    mode = {protocol.SWITCH: "0"} if speaks_protocol else {}
    is_ours = program is not None and isinstance(endpoint, TcpEndpoint) and not _has_keys(argv, model.env)
    key = key if is_ours else None
    is_named = _HERE.fullmatch(endpoint.host) and _names(endpoint.port, (*argv, *model.env.values()))
    return Command(
        argv=argv,
        env={**inherited, **_closed(key), **mode, **model.env},
        cwd=around.base,
        endpoint=endpoint,
        speaks_protocol=speaks_protocol,
        address=Address(endpoint.host, endpoint.port) if is_named else None,
        stop=_words(model.cmd_stop, around, port),
        api_key=key,
    )


def _closed(key: str | None) -> dict[str, str]:
    """What makes a llama-server ask for a key: its argv could be read by every user of the machine."""
    return {KEY_VARIABLE: key} if key is not None else {}


def _has_keys(argv: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a llama-server's owner has said which keys it takes, or that it takes any."""
    flags_given = any(word.partition("=")[0] in {"--api-key", "--api-key-file"} for word in argv)
    return flags_given or bool({KEY_VARIABLE, "LLAMA_ARG_API_KEY_FILE"} & env.keys())


def _words(words: Sequence[str], around: Surroundings, port: int) -> tuple[str, ...]:
    """A command of the config as argv."""
    argv = [word.replace("${PORT}", str(port)) for word in words]
    program = argv[0] if argv else "/"
    if program.startswith("~/") or ("/" in program and not program.startswith("/")):
        argv[0] = str(resolved(program, around))
    return tuple(argv)


def _names(port: int, words: Iterable[str]) -> bool:
    number = re.compile(rf"(?<![0-9]){port}(?![0-9])")
    return any(number.search(word) for word in words)


def model_options(model: Model, around: Surroundings) -> dict[str, Option]:
    """The llama-server options of a model, recommended sampling included, its files as absolute paths."""
    options = {**model.options, **model.sampling}
    return {key: _absolute(key, value, around) if key in PATHS else value for key, value in options.items()}


def child_environment(around: Surroundings) -> dict[str, str]:
    """Our environment without what would change a llama-server that did not ask for it."""
    return {**_inherited(around), "XDG_CONFIG_HOME": str(around.private_dir / "config")}


def _inherited(around: Surroundings) -> dict[str, str]:
    """The same for any program: podman and others keep their own settings where `XDG_CONFIG_HOME` says."""
    env = {name: value for name, value in around.environ.items() if not SCRUBBED.match(name)}
    return {**env, "GGML_NO_BACKTRACE": "1"}


def resolved(path: str, around: Surroundings) -> Path:
    """A path of the config as an absolute one."""
    if path == "~" or path.startswith("~/"):
        return around.home / path[2:]
    return around.base / path


def _absolute(key: str, value: Option, around: Surroundings) -> Option:
    if isinstance(value, str) and value:
        return ",".join(str(resolved(part, around)) for part in (value.split(",") if key in LISTS else [value]))
    if isinstance(value, tuple):
        return tuple(str(resolved(part, around)) if isinstance(part, str) else part for part in value)
    return value


def _joined(value: Option) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _listen(endpoint: Endpoint) -> tuple[str, ...]:
    # The port is always given: llama.cpp plans to change its default (PR #26508).
    match endpoint:
        case UnixEndpoint(path):
            return ("--host", str(path), "--port", "0")
        case TcpEndpoint(port, host):
            return ("--host", host, "--port", str(port))
        case HttpEndpoint():
            raise ValueError("a llama-server of ours listens where we say")
        case _:
            assert_never(endpoint)
