"""From a model's config to the command line, environment and directory of its child. Starts nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from supervisor.config.secrets import redacted
from supervisor.llama import flags, protocol
from supervisor.llama.endpoint import Endpoint, TcpEndpoint, UnixEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from supervisor.config.values import Model, Option
    from supervisor.llama.help_text import Catalogue

SCRUBBED = re.compile(r"LLAMA_ARG_|LLAMA_API_KEY$|LLAMA_SERVER_|LLAMA_APP_CMD$|AIP_|LD_PRELOAD$")
"""Variables of ours that would change a child behind its config (spec: llama-server.md 4; LD_PRELOAD is for us)."""

SECRETS = {"api-key": "LLAMA_API_KEY", "hf-token": "HF_TOKEN", "hft": "HF_TOKEN"}
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


@dataclass(frozen=True, slots=True)
class Command:
    """Everything there is to know to start a child."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    endpoint: Endpoint
    speaks_protocol: bool
    """Whether the child reports on stdout and leaves when stdin closes."""

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
) -> Command:
    """The command of a llama-server; `catalogue` None means a wrapper whose flags and protocol are unknown.

    `added` are options of ours, in the place of the model's own.
    """
    options = {**model_options(model, around), **(added or {})}
    options = {key: value for key, value in options.items() if key not in SECRETS}
    if not {"alias", "a"} & options.keys() and "," not in model.id:
        options["alias"] = model.id
    speaks_protocol = catalogue is not None
    secrets = {SECRETS[key]: _joined(value) for key, value in model.options.items() if key in SECRETS}
    mode = {protocol.SWITCH: "0"} if speaks_protocol else {}
    return Command(
        argv=(str(binary), *flags.argv(catalogue, options), *_listen(endpoint)),
        env={**child_environment(around), **secrets, **mode, **model.env},
        cwd=around.base,
        endpoint=endpoint,
        speaks_protocol=speaks_protocol,
    )


def raw_command(model: Model, around: Surroundings, *, endpoint: TcpEndpoint) -> Command:
    """The command line the config gives for any other server."""
    argv = [part.replace("${PORT}", str(endpoint.port)) for part in model.cmd]
    program = argv[0]
    if program.startswith("~/") or ("/" in program and not program.startswith("/")):
        argv[0] = str(resolved(program, around))
    return Command(tuple(argv), {**child_environment(around), **model.env}, around.base, endpoint, False)


def model_options(model: Model, around: Surroundings) -> dict[str, Option]:
    """The llama-server options of a model, recommended sampling included, its files as absolute paths."""
    options = {**model.options, **model.sampling}
    return {key: _absolute(key, value, around) if key in PATHS else value for key, value in options.items()}


def child_environment(around: Surroundings) -> dict[str, str]:
    """Our environment without what would change a child that did not ask for it."""
    env = {name: value for name, value in around.environ.items() if not SCRUBBED.match(name)}
    return {**env, "GGML_NO_BACKTRACE": "1", "XDG_CONFIG_HOME": str(around.private_dir / "config")}


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
