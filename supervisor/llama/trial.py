"""Short runs of a binary that load nothing: what it thinks of its arguments, which devices it sees, what it is."""

from __future__ import annotations

import logging
import re
import subprocess
from typing import TYPE_CHECKING

import anyio

from supervisor.llama.diagnosis import Diagnosis, End, diagnose, first_known
from supervisor.llama.protocol import SWITCH

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
        self._devices: dict[tuple[str, ...], tuple[float, Sequence[str] | None]] = {}
        self._asking = anyio.Lock()

    async def problem(self, command: Command, *, identity: str) -> Diagnosis | None:
        """What is wrong with the arguments: everything before `--version` is read, then it exits.

        Only what the catalogue knows counts; a verdict that we cannot read is left to a real start. `identity` changes
        with the binary and the files the arguments name.
        """
        key = (identity, *command.argv, *sorted(f"{name}={value}" for name, value in command.env.items()))
        if key not in self._verdicts:
            env = {name: value for name, value in command.env.items() if name != SWITCH}
            returncode, lines = await _output([*command.argv, "--version"], env, command.cwd)
            self._verdicts[key] = None if returncode == 0 else _judged(returncode, lines)
        return self._verdicts[key]

    async def devices(
        self, binary: Path, env: Mapping[str, str], *, none_for: float = NONE_FOR
    ) -> Sequence[str] | None:
        """The devices the binary can use beside the processor, a line each; None when it does not say."""
        lines = await self.listing(binary, env, none_for=none_for)
        return None if lines is None else [line.strip() for line in lines if _DEVICE.match(line)]

    async def listing(
        self, binary: Path, env: Mapping[str, str], *, none_for: float = NONE_FOR
    ) -> Sequence[str] | None:
        """All that it prints about devices, its libraries' remarks included.

        That there is none is believed for a while only: a driver may come late.
        """
        key = (str(binary), *sorted(f"{name}={value}" for name, value in env.items()))
        async with self._asking:  # who comes second must not take a question for an answer
            known = self._devices.get(key)
            if known is None or (
                not any(map(_DEVICE.match, known[1] or ())) and anyio.current_time() - known[0] >= none_for
            ):
                known = self._devices[key] = (anyio.current_time(), await _devices(binary, env))
        return known[1]


async def _devices(binary: Path, env: Mapping[str, str]) -> Sequence[str] | None:
    returncode, lines = await _output([str(binary), "--list-devices"], env)
    return lines if returncode == 0 else None


async def said_of_processor(binary: Path, env: Mapping[str, str]) -> Sequence[str]:
    """What it prints before it finds that there is no model, the instructions it uses among that."""
    env = {name: value for name, value in env.items() if name != SWITCH}
    _, lines = await _output([str(binary), "--verbosity", "4", "--model", "/dev/null"], env)
    return lines


def _judged(returncode: int | None, lines: Sequence[str]) -> Diagnosis | None:
    if returncode is None or not first_known(lines):
        logger.debug("a trial ended with %s: %s", returncode, lines[-3:])
        return None
    return diagnose(End("spawning", tuple(lines), returncode))


async def _output(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> tuple[int | None, list[str]]:
    """The exit code and what it wrote; None and nothing when it could not be run or did not end."""
    try:
        with anyio.move_on_after(TIMEOUT):
            run = await anyio.run_process(
                argv, env=env, cwd=cwd, check=False, stdin=subprocess.DEVNULL, start_new_session=True
            )
            return run.returncode, (run.stdout + run.stderr).decode(errors="replace").splitlines()
    except OSError as exc:
        logger.debug("%s could not be tried: %s", argv[0], exc)
    return None, []
