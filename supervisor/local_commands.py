"""The commands that need no running service: serve, check, command."""

from __future__ import annotations

import ipaddress
import os
import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec.json

from supervisor import console, server
from supervisor.api.fleet_status import fleet_status
from supervisor.config.problems import ConfigInvalid
from supervisor.config.secrets import Redactor
from supervisor.doctor import bundle
from supervisor.errors import SupervisorError
from supervisor.fleet.names import Names
from supervisor.llama.command import Surroundings
from supervisor.llama.preflight import Inspector
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.logs import Logs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.api.service import Service
    from supervisor.config.values import Config
    from supervisor.llama.preflight import Inspection


def serve(config: Config, *, watch: bool = False) -> int:
    """Serve until told to stop."""
    console.set_up_logging(config.server.log_level, config.server.log_time_format, redact=Redactor.of(config))
    console.odd(config.warnings)
    if watch:
        console.caution("`--watch-config` does nothing yet: restart the service after a change of its config")
    if not (config.server.api_keys or config.keys) and not _is_loopback(config.server.host):
        console.caution(f"without API keys, whoever reaches port {config.server.port} may use every model")
    try:
        server.run(config, on_listening=_greet)
    except server.AddressTaken as exc:
        console.complain(str(exc), "stop the other program, or give `--listen HOST:PORT`")
        return 1
    except server.TlsUnusable as exc:
        console.complain(str(exc), exc.hint)
        return 2
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check(config: Config, *, as_json: bool) -> int:
    """Everything that can be known without starting a model; 2 when something is wrong."""
    inspections, tls = anyio.run(_inspect_all, config), _tls_problems(config)
    if as_json:
        rows = {name: [_problem(problem) for problem in found.problems] for name, found in inspections.items()}
        warnings = {name: [asdict(warning) for warning in found.warnings] for name, found in inspections.items()}
        service = [{"message": message, "hint": hint} for _, message, hint in tls]
        odd = [asdict(problem) for problem in config.warnings]
        shown = {"models": rows, "warnings": warnings, "server": service, "config": odd}
        sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
    else:
        console.odd(config.warnings)
        console.models_table([_row(config, name, found) for name, found in inspections.items()])
        for name, found in inspections.items():
            console.warn(f"models.{name}", [asdict(warning) for warning in found.warnings])
        problems = [
            (f"models.{name}", problem.message, problem.hint)
            for name, found in inspections.items()
            for problem in found.problems
        ]
        if tls or problems:
            console.problems_table([*tls, *problems])
    return 2 if tls or any(found.problems for found in inspections.values()) else 0


def _tls_problems(config: Config) -> list[tuple[str, str, str]]:
    try:
        server.check_tls(config)
    except server.TlsUnusable as exc:
        return [("server", str(exc), exc.hint)]
    return []


def command(config: Config, name: str) -> int:
    """The exact argv of a model, ready for a shell; the socket's path is a stand-in."""
    try:
        target = Names(config).model(name)
    except SupervisorError as exc:
        console.complain(exc.message, exc.hint)
        return 1
    if target.peer is not None:
        console.complain(f"`{name}` runs on the peer `{target.peer}`", "its own supervisor knows the command")
        return 1
    model = config.models[target.model]
    launcher, inspection = anyio.run(_inspect_one, config, model.id)
    for problem in inspection.problems:
        console.complain(f"models.{model.id}: {problem.message}", problem.hint)
    if inspection.binary is None and not model.cmd:
        return 2
    built = launcher.command(model, inspection, run=1)
    sys.stdout.write(shlex.join(built.shown) + "\n")
    return 2 if inspection.problems else 0


def doctor(config: Config | ConfigInvalid, sources: Sequence[Path], *, url: str, output: Path) -> int:
    """One file with all that helps somebody else to understand what is wrong here, and no secret."""
    inspections = {} if isinstance(config, ConfigInvalid) else anyio.run(_inspect_all, config)
    text = bundle(config, sources, inspections=inspections, url=url)
    if str(output) == "-":
        sys.stdout.write(text)
    else:
        output.write_text(text)
        console.console.print(f"written to {output}; read it before you attach it to an issue")
    return 0


def _greet(service: Service, url: str) -> None:
    shown = fleet_status(service)["models"]
    assert isinstance(shown, list)
    console.models_table(shown)
    console.console.print(f"listening on {url}")


def _launcher(config: Config) -> Launcher:
    around = Surroundings(config.base, Path.home(), dict(os.environ), Path(tempfile.gettempdir()) / "llama-supervise")
    inspector = Inspector(around, cache_dir=server.cache_dir())
    return Launcher(config, around, inspector=inspector, logs=Logs(0))


async def _inspect_all(config: Config) -> dict[str, Inspection]:
    launcher = _launcher(config)
    for model in config.models.values():
        await launcher.check(model)
    return launcher.inspections


async def _inspect_one(config: Config, name: str) -> tuple[Launcher, Inspection]:
    launcher = _launcher(config)
    await launcher.check(config.models[name])
    return launcher, launcher.inspections[name]


def _problem(problem: object) -> dict[str, object]:
    return {name: getattr(problem, name) for name in ("cause", "message", "hint", "permanent")}


def _row(config: Config, name: str, found: Inspection) -> dict[str, object]:
    header = found.header
    return {
        "id": name,
        "size_bytes": found.size,
        "quantisation": header.quantisation if header else None,
        "context": config.models[name].options.get("ctx-size") or (header.context_length if header else None),
        "problems": [problem.cause for problem in found.problems],
    }
