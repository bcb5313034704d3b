"""What may be said on the command line: our commands and options, and those of llama-swap in its spelling."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    "serve",
    "check",
    "command",
    "doctor",
    "import",
    "ps",
    "load",
    "unload",
    "logs",
    "why",
    "plan",
    "health",
    "service",
)
VALUED = {
    "-c",
    "--config",
    "--config-dir",
    "--listen",
    "--tls-cert-file",
    "--tls-key-file",
    "--url",
    "-o",
    "--output",
    "--log-format",
}
ONE_DASH = {"-config", "-config-dir", "-listen", "-tls-cert-file", "-tls-key-file", "-watch-config", "-version"}
"""The options of llama-swap, which may be written with one dash or two."""
SWITCHES = {"--watch-config", "--version", "-version"}
FALSE = {"0", "f", "F", "false", "False", "FALSE"}


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """What these words say; exits with what is wrong with them."""
    return parser().parse_args(with_command(with_two_dashes(words)))


def with_two_dashes(given: Sequence[str]) -> list[str]:
    """llama-swap's options as ours; a switch may have a value, as in `-watch-config=false`."""
    words: list[str] = []
    for word in given:
        name, equals, value = word.partition("=")
        if name in ONE_DASH - {"-version"} and not (words and words[-1] in VALUED):
            name = f"-{name}"
        if name not in SWITCHES:
            words.append(f"{name}{equals}{value}")
        elif value not in FALSE:
            words.append(name)
    return words


def with_command(given: Sequence[str]) -> list[str]:
    """The command's name first: `serve` is implied, and options may stand before the name."""
    for place, word in enumerate(given):
        if word in COMMANDS and (place == 0 or given[place - 1] not in VALUED):
            return [word, *given[:place], *given[place + 1 :]]
    is_asking = bool(set(given) & {"-h", "--help", "--version", "-version"})
    return list(given) if is_asking else ["serve", *given]


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-c", "--config", type=Path, metavar="FILE", help="the config; models.toml or llama-swap's")
    common.add_argument("--config-dir", type=Path, metavar="DIR", help="llama-swap's files here are added to it")
    talking = argparse.ArgumentParser(add_help=False, parents=[common])
    talking.add_argument("--url", help="the running service; by default where the config says it listens")
    talking.add_argument("--json", action="store_true", help="print JSON for scripts")

    whole = argparse.ArgumentParser(
        prog="llama-supervise",
        description="One OpenAI-compatible endpoint for all models in models.toml.",
        epilog="`serve` is implied: `llama-supervise -c models.toml` serves.",
    )
    whole.add_argument("--version", action="version", version=f"llama-supervise {__version__}")
    whole.add_argument("-version", action="version", version=_version(), help=argparse.SUPPRESS)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[common], help="serve the models")
    serve.add_argument("--listen", metavar="HOST:PORT", help="instead of `server.listen`")
    serve.add_argument("--tls-cert-file", metavar="FILE", help="serve HTTPS with this certificate")
    serve.add_argument("--tls-key-file", metavar="FILE", help="the key of that certificate")
    serve.add_argument("--log-format", choices=("text", "json"), help="instead of `server.log_format`")
    serve.add_argument("--watch-config", action="store_true", help="read the config again whenever it changes")
    check = commands.add_parser("check", parents=[common], help="look at config, binaries and files; start nothing")
    check.add_argument("--json", action="store_true", help="print JSON for scripts")
    _model(commands.add_parser("command", parents=[common], help="print the command line of a model"))
    doctor = commands.add_parser(
        "doctor", parents=[common], help="write a report to attach to an issue, without secrets"
    )
    doctor.add_argument("--url", help="the running service; by default where the config says it listens")
    doctor.add_argument(
        "-o", "--output", type=Path, default=Path("llama-supervise-doctor.md"), metavar="FILE", help="`-` is stdout"
    )
    moving = commands.add_parser("import", help="write models.toml for another tool's config")
    moving.add_argument("file", type=Path, metavar="FILE", help="config.yaml, presets.ini or a folder of models")
    moving.add_argument("-o", "--output", type=Path, metavar="FILE", help="where to; by default it is printed")
    moving.add_argument("--force", action="store_true", help="replace the file that is there")
    commands.add_parser("ps", parents=[talking], help="what every model does")
    _model(commands.add_parser("load", parents=[talking], help="load a model and wait until it is ready"))
    unload = commands.add_parser("unload", parents=[talking], help="unload a model, or all")
    unload.add_argument("model", nargs="?")
    unload.add_argument("--force", action="store_true", help="do not wait for requests in flight")
    logs = _model(commands.add_parser("logs", parents=[talking], help="what a model printed"), optional=True)
    logs.add_argument("-f", "--follow", action="store_true", help="go on as more comes")
    _model(commands.add_parser("why", parents=[talking], help="why a model failed last"))
    health = commands.add_parser("health", parents=[common], help="exit code 0 if the service answers")
    health.add_argument("--url", help="the running service; by default where the config says it listens")
    _service(commands.add_parser("service", help="run it under systemd"))
    commands.add_parser(
        "plan", parents=[talking], help="what a reload of the running service would change; exit code 3 if anything"
    )
    return whole


def _service(parser: argparse.ArgumentParser) -> None:
    target = argparse.ArgumentParser(add_help=False)
    target.add_argument("--user", action="store_true", help="a service of yours instead of the system's")
    target.add_argument("--dry-run", action="store_true", help="change nothing, print what would be")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = actions.add_parser("install", parents=[target], help="write the unit, enable and start it")
    install.add_argument("-c", "--config", type=Path, metavar="FILE", help="the config; models.toml or llama-swap's")
    install.add_argument("--config-dir", type=Path, metavar="DIR", help="llama-swap's files here are added to it")
    actions.add_parser("uninstall", parents=[target], help="stop and disable the unit, and remove it")


def _version() -> str:
    """As llama-swap says it; what is not built from a commit cannot name one."""
    return f"version: {__version__} (unknown), built at unknown"


def _model(parser: argparse.ArgumentParser, *, optional: bool = False) -> argparse.ArgumentParser:
    if optional:
        parser.add_argument("model", nargs="?", default="proxy", help="a model; without one, the service's own log")
    else:
        parser.add_argument("model")
    return parser
