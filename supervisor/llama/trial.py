"""Short runs of a binary that load nothing: what it thinks of its arguments, and which devices it sees."""

from __future__ import annotations

import logging
import re
import subprocess
from typing import TYPE_CHECKING

import anyio

from supervisor.llama.diagnosis import Diagnosis, End, diagnose, first_known

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from supervisor.llama.command import Command

logger = logging.getLogger("supervisor.llama")

TIMEOUT = 10.0
NONE_FOR = 30.0
"""Seconds for which the answer that there is no device is believed."""
_DEVICE = re.compile(r"^\s+([A-Za-z]+\d+): (.+)$")


class Trials:
    """Remembers verdicts: the same arguments of the same binary are tried once."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, ...], Diagnosis | None] = {}
        self._devices: dict[tuple[str, ...], Sequence[str]] = {}
        self._asked: dict[tuple[str, ...], float] = {}

    async def problem(self, command: Command, *, identity: str) -> Diagnosis | None:
        """What is wrong with the arguments: everything before `--version` is read, then it exits.

        Only what the catalogue knows counts; a verdict that we cannot read is left to a real start. `identity` changes
        with the binary and the files the arguments name.
        """
        key = (identity, *command.argv, *sorted(f"{name}={value}" for name, value in command.env.items()))
        if key not in self._verdicts:
            returncode, lines = await _output(command, "--version")
            self._verdicts[key] = None if returncode == 0 else _judged(returncode, lines)
        return self._verdicts[key]

    async def devices(self, binary: Path, env: Mapping[str, str]) -> Sequence[str]:
        """The devices the binary can use beside the processor; asked again after a while as long as there is none."""
        key = (str(binary), *sorted(f"{name}={value}" for name, value in env.items()))
        now = anyio.current_time()
        if not self._devices.get(key) and now - self._asked.get(key, -NONE_FOR) >= NONE_FOR:
            self._asked[key] = now
            with anyio.move_on_after(TIMEOUT):
                run = await anyio.run_process(
                    [str(binary), "--list-devices"], env=env, check=False, stdin=subprocess.DEVNULL
                )
                lines = run.stdout.decode(errors="replace").splitlines()
                self._devices[key] = [line.strip() for line in lines if _DEVICE.match(line)]
        return self._devices.get(key, ())


def _judged(returncode: int | None, lines: Sequence[str]) -> Diagnosis | None:
    if returncode is None or not first_known(lines):
        logger.debug("a trial ended with %s: %s", returncode, lines[-3:])
        return None
    return diagnose(End("spawning", tuple(lines), returncode))


async def _output(command: Command, option: str) -> tuple[int | None, list[str]]:
    argv, switch = command.argv, {"LLAMA_SERVER_ROUTER_PORT"}
    env = {name: value for name, value in command.env.items() if name not in switch}
    with anyio.move_on_after(TIMEOUT):
        run = await anyio.run_process(
            [*argv, option], env=env, cwd=command.cwd, check=False, stdin=subprocess.DEVNULL, start_new_session=True
        )
        return run.returncode, (run.stdout + run.stderr).decode(errors="replace").splitlines()
    return None, []
