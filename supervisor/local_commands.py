"""The commands that need no running service: serve, check, command."""

from __future__ import annotations

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
from supervisor.doctor import bundle
from supervisor.errors import SupervisorError
from supervisor.fleet.names import Names
from supervisor.llama.command import Surroundings
from supervisor.llama.preflight import Inspector
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.logs import Logs

if TYPE_CHECKING:
    from supervisor.api.service import Service
    from supervisor.config.values import Config
    from supervisor.llama.preflight import Inspection


def serve(config: Config) -> int:
    """Serve until told to stop."""
    console.set_up_logging(config.server.log_level)
    try:
        server.run(config, on_listening=_greet)
    except server.AddressTaken as exc:
        console.complain(str(exc), "stop the other program, or give `--listen HOST:PORT`")
        return 1
    return 0


def check(config: Config, *, as_json: bool) -> int:
    """Everything that can be known without starting a model; 2 when something is wrong."""
    inspections = anyio.run(_inspect_all, config)
    if as_json:
        rows = {name: [_problem(problem) for problem in found.problems] for name, found in inspections.items()}
        warnings = {name: [asdict(warning) for warning in found.warnings] for name, found in inspections.items()}
        sys.stdout.write(msgspec.json.encode({"models": rows, "warnings": warnings}).decode() + "\n")
    else:
        console.models_table([_row(config, name, found) for name, found in inspections.items()])
        for name, found in inspections.items():
            console.warn(f"models.{name}", [asdict(warning) for warning in found.warnings])
        problems = [
            (f"models.{name}", problem.message, problem.hint)
            for name, found in inspections.items()
            for problem in found.problems
        ]
        if problems:
            console.problems_table(problems)
    return 2 if any(found.problems for found in inspections.values()) else 0


def command(config: Config, name: str) -> int:
    """The exact argv of a model, ready for a shell; the socket's path is a stand-in."""
    try:
        model = config.models[Names(config).resolve(name).model]
    except SupervisorError as exc:
        console.complain(exc.message, exc.hint)
        return 1
    launcher, inspection = anyio.run(_inspect_one, config, model.id)
    for problem in inspection.problems:
        console.complain(f"models.{model.id}: {problem.message}", problem.hint)
    if inspection.binary is None and not model.cmd:
        return 2
    built = launcher.command(model, inspection, run=1)
    sys.stdout.write(shlex.join(built.shown) + "\n")
    return 2 if inspection.problems else 0


def doctor(config: Config, path: Path, *, url: str, output: Path) -> int:
    """One file with all that helps somebody else to understand what is wrong here, and no secret."""
    inspections = anyio.run(_inspect_all, config)
    text = bundle(config, path, inspections=inspections, url=url)
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
