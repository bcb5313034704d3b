"""The commands that look and start nothing: check, command, doctor."""

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

from supervisor import console, household, listening, model_words
from supervisor.api import memory_status
from supervisor.config.problems import ConfigInvalid
from supervisor.errors import SupervisorError
from supervisor.fleet.names import Names
from supervisor.llama.command import Surroundings
from supervisor.llama.preflight import Inspector
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.logs import Logs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config.values import Config
    from supervisor.llama.preflight import Inspection


def check(config: Config, *, as_json: bool) -> int:
    """Everything that can be known without starting a model; 2 when something is wrong."""
    launcher, tls = anyio.run(_inspect_all, config), _tls_problems(config)
    inspections, ledger = launcher.inspections, launcher.ledger
    devices = memory_status.devices(ledger.readings.read(), config.memory)
    taken = {name: memory_status.footprint(ledger.footprint(name)) for name in inspections}
    if as_json:
        rows = {name: [_problem(problem) for problem in found.problems] for name, found in inspections.items()}
        warnings = {name: [asdict(warning) for warning in found.warnings] for name, found in inspections.items()}
        service = [{"message": message, "hint": hint} for _, message, hint in tls]
        odd = [asdict(problem) for problem in config.warnings]
        memory = {"devices": devices, "models": taken}
        shown = {"models": rows, "warnings": warnings, "server": service, "config": odd, "memory": memory}
        sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
    else:
        console.odd(config.warnings)
        budget = {device["id"]: device["budget_bytes"] for device in devices if device["budget_bytes"] is not None}
        models = [{**_row(config, name, found), "memory": taken[name]} for name, found in inspections.items()]
        model_words.models_table(models, budget)
        model_words.memory_of(models[: model_words.ROWS_SHOWN], budget)
        for name in (config.memory.budget if config.memory else {}).keys() - {device["id"] for device in devices}:
            there = ", ".join(f"`{device['id']}`" for device in devices)
            console.caution(f"memory.budget.{name}: no llama-server here lists such a device", f"there is {there}")
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
        listening.check_tls(config)
    except listening.TlsUnusable as exc:
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
    built = launcher.commands.of(model, inspection, run=1)
    sys.stdout.write(shlex.join(built.shown) + "\n")
    return 2 if inspection.problems else 0


def doctor(config: Config | ConfigInvalid, sources: Sequence[Path], *, url: str, output: Path) -> int:
    """One file with all that helps somebody else to understand what is wrong here, and no secret."""
    from supervisor.doctor import bundle

    inspections = {} if isinstance(config, ConfigInvalid) else anyio.run(_inspect_all, config).inspections
    text = bundle(config, sources, inspections=inspections, url=url)
    if str(output) == "-":
        sys.stdout.write(text)
    else:
        output.write_text(text)
        console.say(f"written to {output}; read it before you attach it to an issue")
    return 0


def launcher_of(config: Config) -> Launcher:
    """What builds the command lines of a config's models."""
    around = Surroundings(config.base, Path.home(), dict(os.environ), Path(tempfile.gettempdir()) / "llama-supervise")
    inspector = Inspector(around, cache_dir=household.cache_dir())
    return Launcher(config, around, inspector=inspector, logs=Logs(0), cache_dir=household.cache_dir())


async def _inspect_all(config: Config) -> Launcher:
    launcher = launcher_of(config)
    for model in config.models.values():
        await launcher.check(model)
    return launcher


async def _inspect_one(config: Config, name: str) -> tuple[Launcher, Inspection]:
    launcher = launcher_of(config)
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
