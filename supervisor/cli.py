"""The commands: serving, looking at a config, and talking to a running service.

Each imports what it needs itself: the shortest take no longer than Python.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from supervisor import command_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from supervisor.config.values import Config

DEFAULT_URL = "http://127.0.0.1:8080"


def main(arguments: Sequence[str] | None = None) -> None:
    """The `llama-supervise` command."""
    _collect_seldom()
    options = command_line.parsed(sys.argv[1:] if arguments is None else arguments)
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
            return _health(options)
        return _with_service(options)
    except ConfigInvalid as exc:
        from supervisor.told_config import config_path

        odd(exc.warnings)
        for problem in exc.problems:
            complain(str(problem))
        source = exc.source or getattr(options, "file", None) or config_path(options)
        complain(f"`{source}` cannot be used: {len(exc.problems)} problem(s)")
        return 2


def _given_url(options: argparse.Namespace) -> str | None:
    url = options.url or os.environ.get("LLAMA_SUPERVISE_URL")
    return None if url is None else str(url)


def _health(options: argparse.Namespace) -> int:
    from supervisor.health_command import health

    if (url := _given_url(options)) is None:
        from supervisor.told_config import config_of, url_of

        url = url_of(config_of(options))
    return health(url)


def _with_config(options: argparse.Namespace) -> int:
    from supervisor.told_config import config_files, config_of

    if options.command == "serve":
        from supervisor.serve_command import serve

        return serve(config_files(options))
    if options.command == "doctor":
        return _doctor(options)
    from supervisor import local_commands

    config = config_of(options)
    match options.command:
        case "check":
            return local_commands.check(config, as_json=options.json)
        case _:
            return local_commands.command(config, options.model)


def _doctor(options: argparse.Namespace) -> int:
    """A report is wanted most where the config is broken."""
    from supervisor import local_commands
    from supervisor.config.problems import ConfigInvalid
    from supervisor.told_config import config_of, sources_of, url_of

    config: Config | ConfigInvalid
    try:
        config = config_of(options)
    except ConfigInvalid as exc:
        config = exc
    url = _given_url(options) or (DEFAULT_URL if isinstance(config, ConfigInvalid) else url_of(config))
    return local_commands.doctor(config, sources_of(options), url=url, output=options.output)


def _with_service(options: argparse.Namespace) -> int:
    from supervisor import remote_commands
    from supervisor.access.keys import KeyRing
    from supervisor.told_config import config_if_needed, url_of

    given = _given_url(options)
    config = config_if_needed(options, is_url_given=given is not None)
    url = given or url_of(config)
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
    from supervisor.told_config import config_of, config_path

    commands = ServiceCommands(is_user=options.user)
    if options.action == "uninstall":
        return commands.uninstall(dry_run=options.dry_run)
    given = {"-c": config_path(options), "--config-dir": options.config_dir}
    sources = {option: path for option, path in given.items() if path is not None}
    return commands.install(config_of(options), sources, dry_run=options.dry_run)


if __name__ == "__main__":
    main()
