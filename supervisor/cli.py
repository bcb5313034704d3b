"""The commands: serving, looking at a config, and talking to a running service."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config.values import Config

VALUED = {"-c", "--config", "-config", "--listen", "-listen", "--url", "-o", "--output"}
COMMANDS = ("serve", "check", "command", "doctor", "ps", "load", "unload", "logs", "why")


def main(arguments: Sequence[str] | None = None) -> None:
    """The `llama-supervise` command."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(_with_command(given))
    try:
        sys.exit(_run(options))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `llama-supervise logs … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _with_command(given: list[str]) -> list[str]:
    """The command's name first: `serve` is implied, and options may stand before the name."""
    for place, word in enumerate(given):
        if word in COMMANDS and (place == 0 or given[place - 1] not in VALUED):
            return [word, *given[:place], *given[place + 1 :]]
    return given if set(given) & {"-h", "--help", "--version", "-version"} else ["serve", *given]


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "-c", "--config", "-config", type=Path, default=Path("models.toml"), metavar="FILE", help="the config"
    )
    talking = argparse.ArgumentParser(add_help=False, parents=[common])
    talking.add_argument("--url", help="the running service; by default where the config says it listens")
    talking.add_argument("--json", action="store_true", help="print JSON for scripts")

    parser = argparse.ArgumentParser(
        prog="llama-supervise",
        description="One OpenAI-compatible endpoint for all models in models.toml.",
        epilog="`serve` is implied: `llama-supervise -c models.toml` serves.",
    )
    parser.add_argument("--version", "-version", action="version", version=f"llama-supervise {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[common], help="serve the models")
    serve.add_argument("--listen", "-listen", metavar="HOST:PORT", help="instead of `server.listen`")
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
    commands.add_parser("ps", parents=[talking], help="what every model does")
    _model(commands.add_parser("load", parents=[talking], help="load a model and wait until it is ready"))
    unload = commands.add_parser("unload", parents=[talking], help="unload a model, or all")
    unload.add_argument("model", nargs="?")
    unload.add_argument("--force", action="store_true", help="do not wait for requests in flight")
    logs = _model(commands.add_parser("logs", parents=[talking], help="what a model printed"), optional=True)
    logs.add_argument("-f", "--follow", action="store_true", help="go on as more comes")
    _model(commands.add_parser("why", parents=[talking], help="why a model failed last"))
    return parser


def _model(parser: argparse.ArgumentParser, *, optional: bool = False) -> argparse.ArgumentParser:
    if optional:
        parser.add_argument("model", nargs="?", default="proxy", help="a model; without one, the service's own log")
    else:
        parser.add_argument("model")
    return parser


def _run(options: argparse.Namespace) -> int:
    from supervisor.config.problems import ConfigInvalid
    from supervisor.console import complain

    try:
        if options.command in {"serve", "check", "command", "doctor"}:
            return _with_config(options)
        return _with_service(options)
    except ConfigInvalid as exc:
        for problem in exc.problems:
            complain(str(problem))
        complain(f"`{options.config}` cannot be used: {len(exc.problems)} problem(s)")
        return 2


def _with_config(options: argparse.Namespace) -> int:
    from supervisor import local_commands

    config = _config(options)
    match options.command:
        case "serve":
            return local_commands.serve(config)
        case "check":
            return local_commands.check(config, as_json=options.json)
        case "doctor":
            return local_commands.doctor(config, options.config, url=_url(options), output=options.output)
        case _:
            return local_commands.command(config, options.model)


def _with_service(options: argparse.Namespace) -> int:
    from supervisor import remote_commands

    with remote_commands.Remote(_url(options), as_json=options.json) as remote:
        match options.command:
            case "ps":
                return remote.ps()
            case "load":
                return remote.load(options.model)
            case "unload":
                return remote.unload(options.model, force=options.force)
            case "logs":
                return remote.logs(options.model, follow=options.follow)
            case _:
                return remote.why(options.model)


def _url(options: argparse.Namespace) -> str:
    """Where the service answers: as told, or where its config says."""
    url = options.url or os.environ.get("LLAMA_SUPERVISE_URL")
    if url is not None:
        return str(url)
    server = _config(options).server
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}"


def _config(options: argparse.Namespace) -> Config:
    from supervisor.config.loader import load
    from supervisor.config.problems import ConfigInvalid, Problem
    from supervisor.config.quantities import listen_address

    config = load(options.config, environ=os.environ)
    if not getattr(options, "listen", None):
        return config
    try:
        address = listen_address(options.listen)
    except ValueError as exc:
        raise ConfigInvalid([Problem("--listen", str(exc), repr(options.listen))]) from exc
    return replace(config, server=replace(config.server, host=address.host, port=address.port))
