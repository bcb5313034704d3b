"""The config as the command line has it: which files are read, what options stand in its place, where it is served."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.config.loader import YAML, load, load_yaml
from supervisor.config.problems import ConfigInvalid, Mismatch, Problem
from supervisor.config.quantities import Address, listen_address
from supervisor.config.values import Config, LogFormat

if TYPE_CHECKING:
    import argparse

    from supervisor.runtime.config_files import ConfigFiles

DEFAULT_CONFIG = Path("models.toml")
TLS_PORT = 8443
"""Where llama-swap serves with TLS if nobody says where."""


def config_of(options: argparse.Namespace) -> Config:
    """The config, read from its files; raises `ConfigInvalid`."""
    path, folder = config_path(options), options.config_dir
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


def config_if_needed(options: argparse.Namespace, *, is_url_given: bool) -> Config:
    """The config; where the service's address is given, one that cannot be used is as good as none."""
    try:
        return config_of(options)
    except ConfigInvalid:
        if not is_url_given:
            raise
        return Config(Path())


def config_files(options: argparse.Namespace) -> ConfigFiles:
    """The config as it can be read again, with the command line's word each time."""
    from supervisor.runtime.config_files import ConfigFiles  # for serving alone

    path = config_path(options)
    return ConfigFiles(
        lambda: config_of(options), [path] if path else [], options.config_dir, are_watched=options.watch_config
    )


def config_path(options: argparse.Namespace) -> Path | None:
    """The config file; None if there is only a folder."""
    path: Path | None = options.config
    return DEFAULT_CONFIG if path is None and options.config_dir is None else path


def sources_of(options: argparse.Namespace) -> list[Path]:
    """Every file of the config, as far as there are any."""
    path, folder = config_path(options), options.config_dir
    found = sorted(each for each in folder.iterdir() if each.suffix in YAML) if folder and folder.is_dir() else []
    return [*([path] if path else []), *found]


def url_of(config: Config) -> str:
    """Where a service with this config answers."""
    server = config.server
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)
    scheme = "https" if server.tls_cert_file else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"
