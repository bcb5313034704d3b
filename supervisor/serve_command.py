"""`llama-supervise serve`: what is said before the service begins and when it listens, and how it may fail to."""

from __future__ import annotations

import ipaddress
import logging
import os
from typing import TYPE_CHECKING

from supervisor import console, listening, model_words, server, systemd
from supervisor.api.fleet_status import fleet_status
from supervisor.config.secrets import Redactor
from supervisor.config.values import LogFormat
from supervisor.log_output import set_up_logging
from supervisor.runtime.budgets import too_long_for_systemd
from supervisor.runtime.terminal import give_up_terminal

if TYPE_CHECKING:
    from supervisor.api.service import Service
    from supervisor.runtime.config_files import ConfigFiles

logger = logging.getLogger("supervisor.server")


def serve(files: ConfigFiles) -> int:
    """Serve until told to stop; raises `ConfigInvalid`."""
    config = files.read()
    offer = systemd.take_offer(os.environ, os.getpid())
    level, time_format = config.server.log_level, config.server.log_time_format
    as_json = config.server.log_format is LogFormat.JSON
    set_up_logging(level, time_format, as_json=as_json, redact=Redactor.of(config))
    console.odd(config.warnings)
    if not (config.server.api_keys or config.keys) and not _is_loopback(config.server.host):
        console.caution(f"without API keys, whoever reaches port {config.server.port} may use every model")
    if (advice := too_long_for_systemd(config, os.environ)) is not None:
        console.caution(advice)
    give_up_terminal()
    try:
        server.run(config, files, on_listening=_greet_in_log if as_json else _greet, offer=offer)
    except listening.AddressTaken as exc:
        console.complain(str(exc), "stop the other program, or give `--listen HOST:PORT`")
        return 1
    except (listening.TlsUnusable, systemd.SocketUnusable) as exc:
        console.complain(str(exc), exc.hint)
        return 2
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _greet(service: Service, url: str) -> None:
    shown = fleet_status(service)["models"]
    assert isinstance(shown, list)
    model_words.models_table(shown)
    console.say(f"listening on {url}")


def _greet_in_log(service: Service, url: str) -> None:
    logger.info("listening on %s", url, extra={"address": url})
