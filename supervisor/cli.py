"""The commands: serving, looking at a config, and talking to a running service."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config.values import Config
    from supervisor.runtime.config_files import ConfigFiles

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
DEFAULT_CONFIG = Path("models.toml")
DEFAULT_URL = "http://127.0.0.1:8080"
TLS_PORT = 8443
"""Where llama-swap serves with TLS if nobody says where."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The `llama-supervise` command."""
    _collect_seldom()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(_with_command(_with_two_dashes(given)))
    try:
        sys.exit(_run(options))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `llama-supervise logs … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _collect_seldom() -> None:
    """Imports, configs and requests leave hardly any cycles behind; looking for them every 700 objects costs more."""
    gc.set_threshold(20_000, 20, 20)


def _with_two_dashes(given: list[str]) -> list[str]:
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


def _with_command(given: list[str]) -> list[str]:
    """The command's name first: `serve` is implied, and options may stand before the name."""
    for place, word in enumerate(given):
        if word in COMMANDS and (place == 0 or given[place - 1] not in VALUED):
            return [word, *given[:place], *given[place + 1 :]]
    return given if set(given) & {"-h", "--help", "--version", "-version"} else ["serve", *given]


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-c", "--config", type=Path, metavar="FILE", help="the config; models.toml or llama-swap's")
    common.add_argument("--config-dir", type=Path, metavar="DIR", help="llama-swap's files here are added to it")
    talking = argparse.ArgumentParser(add_help=False, parents=[common])
    talking.add_argument("--url", help="the running service; by default where the config says it listens")
    talking.add_argument("--json", action="store_true", help="print JSON for scripts")

    parser = argparse.ArgumentParser(
        prog="llama-supervise",
        description="One OpenAI-compatible endpoint for all models in models.toml.",
        epilog="`serve` is implied: `llama-supervise -c models.toml` serves.",
    )
    parser.add_argument("--version", action="version", version=f"llama-supervise {__version__}")
    parser.add_argument("-version", action="version", version=_version(), help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

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
    return parser


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


def _run(options: argparse.Namespace) -> int:
    from supervisor.config.problems import ConfigInvalid
    from supervisor.console import complain, odd

    if getattr(options, "log_format", None) == "json":
        from supervisor.log_output import set_up_logging

        set_up_logging("info", as_json=True)
    try:
        if options.command == "import":
            from supervisor import import_command

            return import_command.run(options.file, output=options.output, force=options.force)
        if options.command in {"serve", "check", "command", "doctor"}:
            return _with_config(options)
        if options.command == "service":
            return _as_service(options)
        if options.command == "health":
            from supervisor.health_command import health

            return health(_given_url(options) or _url_of(_config(options)))
        return _with_service(options)
    except ConfigInvalid as exc:
        odd(exc.warnings)
        for problem in exc.problems:
            complain(str(problem))
        source = exc.source or getattr(options, "file", None) or _config_path(options)
        complain(f"`{source}` cannot be used: {len(exc.problems)} problem(s)")
        return 2


def _with_config(options: argparse.Namespace) -> int:
    if options.command == "serve":
        from supervisor.serve_command import serve

        return serve(_config_files(options))
    if options.command == "doctor":
        return _doctor(options)
    from supervisor import local_commands

    config = _config(options)
    match options.command:
        case "check":
            return local_commands.check(config, as_json=options.json)
        case _:
            return local_commands.command(config, options.model)


def _doctor(options: argparse.Namespace) -> int:
    """A report is wanted most where the config is broken."""
    from supervisor import local_commands
    from supervisor.config.problems import ConfigInvalid

    config: Config | ConfigInvalid
    try:
        config = _config(options)
    except ConfigInvalid as exc:
        config = exc
    url = _given_url(options) or (DEFAULT_URL if isinstance(config, ConfigInvalid) else _url_of(config))
    return local_commands.doctor(config, _sources(options), url=url, output=options.output)


def _with_service(options: argparse.Namespace) -> int:
    from supervisor import remote_commands
    from supervisor.access.keys import KeyRing

    config = _config_if_needed(options)
    url = _given_url(options) or _url_of(config)
    key = os.environ.get("LLAMA_SUPERVISE_KEY") or KeyRing.of(config).own()
    with remote_commands.Remote(url, as_json=options.json, key=key) as remote:
        match options.command:
            case "ps":
                return remote.ps()
            case "load":
                return remote.load(options.model)
            case "unload":
                return remote.unload(options.model, force=options.force)
            case "logs":
                return remote.logs(options.model, follow=options.follow)
            case "plan":
                return remote.plan()
            case _:
                return remote.why(options.model)


def _as_service(options: argparse.Namespace) -> int:
    from supervisor.service_commands import ServiceCommands

    commands = ServiceCommands(is_user=options.user)
    if options.action == "uninstall":
        return commands.uninstall(dry_run=options.dry_run)
    given = {"-c": _config_path(options), "--config-dir": options.config_dir}
    sources = {option: path for option, path in given.items() if path is not None}
    return commands.install(_config(options), sources, dry_run=options.dry_run)


def _config_if_needed(options: argparse.Namespace) -> Config:
    """The config; where the service's address is given, one that cannot be used is as good as none."""
    from supervisor.config.problems import ConfigInvalid
    from supervisor.config.values import Config

    try:
        return _config(options)
    except ConfigInvalid:
        if _given_url(options) is None:
            raise
        return Config(Path())


def _given_url(options: argparse.Namespace) -> str | None:
    url = options.url or os.environ.get("LLAMA_SUPERVISE_URL")
    return None if url is None else str(url)


def _url_of(config: Config) -> str:
    """Where a service with this config answers."""
    server = config.server
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    scheme = "https" if server.tls_cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"


def _config_path(options: argparse.Namespace) -> Path | None:
    """The config file; None if there is only a folder."""
    path: Path | None = options.config
    return DEFAULT_CONFIG if path is None and options.config_dir is None else path


def _sources(options: argparse.Namespace) -> list[Path]:
    """Every file of the config, as far as there are any."""
    from supervisor.config.loader import YAML

    path, folder = _config_path(options), options.config_dir
    found = sorted(each for each in folder.iterdir() if each.suffix in YAML) if folder and folder.is_dir() else []
    return [*([path] if path else []), *found]


def _config_files(options: argparse.Namespace) -> ConfigFiles:
    """The config as it can be read again, with the command line's word each time."""
    from supervisor.runtime.config_files import ConfigFiles

    path = _config_path(options)
    return ConfigFiles(
        lambda: _config(options), [path] if path else [], options.config_dir, are_watched=options.watch_config
    )


def _config(options: argparse.Namespace) -> Config:
    from supervisor.config.loader import YAML, load, load_yaml
    from supervisor.config.problems import ConfigInvalid, Problem

    path, folder = _config_path(options), options.config_dir
    if folder is None:
        assert path is not None
        config = load(path, environ=os.environ)
    elif path is not None and path.suffix not in YAML:
        raise ConfigInvalid([Problem("--config-dir", "a config that is llama-swap's, in .yaml or .yml", str(path))])
    else:
        config = load_yaml(path, folder=folder, environ=os.environ)
    return _as_told(config, options, is_swap=path is None or path.suffix in YAML)


def _as_told(config: Config, options: argparse.Namespace, *, is_swap: bool) -> Config:
    """The config with what the command line says in its place."""
    from supervisor.config.problems import ConfigInvalid, Mismatch, Problem
    from supervisor.config.quantities import Address, listen_address
    from supervisor.config.values import LogFormat

    server, problems = config.server, []
    if getattr(options, "log_format", None) is not None:
        server = replace(server, log_format=LogFormat(options.log_format))
    listen, certificate, key = (getattr(options, name, None) for name in ("listen", "tls_cert_file", "tls_key_file"))
    if certificate and key:
        server = replace(
            server, tls_cert_file=str(Path(certificate).absolute()), tls_key_file=str(Path(key).absolute())
        )
    elif certificate or key:
        given, missing = ("--tls-cert-file", "--tls-key-file") if certificate else ("--tls-key-file", "--tls-cert-file")
        problems.append(Problem(given, f"`{missing}` as well", hint="one is nothing without the other"))
    address = Address(server.host, TLS_PORT if is_swap and server.tls_cert_file else server.port)
    if listen:
        try:
            address = listen_address(listen)
        except Mismatch as exc:
            problems.append(Problem("--listen", exc.expected, listen, exc.hint))
    if problems:
        raise ConfigInvalid(problems)
    return replace(config, server=replace(server, host=address.host, port=address.port))


if __name__ == "__main__":
    main()
