"""What a service that did not end well has left behind is ended before its successor starts anything.

Whose a process is, its mark says, as long as pid and start time name one that lives; without the three agreeing it is
left alone. Commands that stop containers are run from the roster, for a container has neither mark nor parent.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from supervisor.config.secrets import redacted
from supervisor.llama.command import Command
from supervisor.llama.endpoint import TcpEndpoint
from supervisor.runtime.ending import GRACE, Ended, end_carriers
from supervisor.runtime.marks import carriers, name_of
from supervisor.runtime.process import run_to_end
from supervisor.runtime.roster import PID, Entry, entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from supervisor.runtime.marks import Carrier
    from supervisor.runtime.rundir import Abandoned

logger = logging.getLogger("supervisor.orphans")

LONGEST_STOP = 10.0
"""Seconds at most for the stop commands of a dead service, whatever it allowed them: its successor waits for them."""


@dataclass(frozen=True, slots=True)
class Legacy:
    """What was found of one dead service, and what became of it."""

    pid: int
    names: Mapping[Carrier, str]
    ended: Ended
    stopped: tuple[str, ...]
    """Stop commands that were run, as they may be shown."""
    unsure: tuple[Entry, ...]
    """Children whose pid and start time agree, but whose mark does not, or cannot be read."""

    def __str__(self) -> str:
        found = [self._described(carrier) for carrier in sorted(self.ended.told)]
        parts = [f"ended {', '.join(found)}"] if found else []
        parts += [f"ran `{command}`" for command in self.stopped]
        parts += [f"left pid {each.pid} of {each.model} alone, for its mark could not be read" for each in self.unsure]
        return f"a service before this one (pid {self.pid}) did not end well: {'; '.join(parts) or 'nothing is left'}"

    def _described(self, carrier: Carrier) -> str:
        state = " has not died yet" if carrier in self.ended.left else " killed" if carrier in self.ended.killed else ""
        return f"{self.names[carrier]} (pid {carrier.pid}{state})"


async def end_orphans(
    abandoned: Iterable[Abandoned],
    *,
    environment: Callable[[str], Mapping[str, str]],
    redact: Callable[[str], str] = str,
) -> list[Legacy]:
    """End what is left of dead services, all at once, and remove their directories.

    `environment` is what a stop command of a model is run with.
    """
    legacies: list[Legacy] = []

    async def end(each: Abandoned) -> None:
        legacy = await _end(each, environment, redact)
        logger.warning("%s", legacy)
        legacies.append(legacy)

    async with anyio.create_task_group() as tasks:
        for each in abandoned:
            tasks.start_soon(end, each)
    return legacies


async def _end(
    abandoned: Abandoned, environment: Callable[[str], Mapping[str, str]], redact: Callable[[str], str]
) -> Legacy:
    owner = abandoned.owner
    known = entries(abandoned.path) if owner.is_of_this_boot else []
    can_be_seen = owner.is_of_this_boot and owner.is_of_this_namespace
    found = carriers(f"{owner.token}.") if can_be_seen else []
    names = {carrier: _name(carrier, known) for carrier in found}
    ours = {(carrier.pid, carrier.started) for carrier in found}
    stopped = await _run_stops(known, ours, environment, redact)
    grace = min(LONGEST_STOP, max((entry.stop_timeout for entry in known), default=GRACE))
    ended = await end_carriers(f"{owner.token}.", grace=grace) if can_be_seen else Ended()
    names |= {carrier: _name(carrier, known) for carrier in ended.told - names.keys()}
    ended = Ended(ended.told | names.keys(), ended.killed, ended.left)
    unsure = [entry for entry in known if can_be_seen and entry.lives and (entry.pid, entry.started) not in ours]
    abandoned.remove()
    return Legacy(owner.pid, names, ended, tuple(stopped), tuple(unsure))


async def _run_stops(
    known: Sequence[Entry],
    ours: set[tuple[int, int]],
    environment: Callable[[str], Mapping[str, str]],
    redact: Callable[[str], str],
) -> list[str]:
    """Run the stop commands side by side; one that names a pid only if that is certainly still its child's."""
    shown: list[str] = []
    async with anyio.create_task_group() as tasks:
        for entry in known:
            is_ours = entry.pid is not None and (entry.pid, entry.started) in ours
            if entry.stop and (is_ours or not any(PID in word for word in entry.stop)):
                argv = tuple(word.replace(PID, str(entry.pid)) for word in entry.stop)
                shown.append(shlex.join(map(redact, redacted(argv))))
                tasks.start_soon(_run_stop, entry, argv, environment(entry.model), shown[-1])
    return shown


async def _run_stop(entry: Entry, argv: tuple[str, ...], env: Mapping[str, str], shown: str) -> None:
    command = Command(argv, env, Path(entry.cwd), TcpEndpoint(0), speaks_protocol=False)
    seconds = min(LONGEST_STOP, entry.stop_timeout)
    with anyio.move_on_after(seconds) as scope:
        try:
            returncode = await run_to_end(command, lambda stream, chunk: None)
        except OSError as exc:
            logger.warning("`%s` could not be run: %s", shown, exc.strerror)
        else:
            if returncode != 0:
                logger.warning("`%s` ended with code %s", shown, returncode)
    if scope.cancelled_caught:
        logger.warning("`%s` did not end within %g s", shown, seconds)


def _name(carrier: Carrier, known: Sequence[Entry]) -> str:
    """The model a process belongs to, or its program."""
    model = next((entry.model for entry in known if str(entry.run) == carrier.run), "")
    return model or name_of(carrier.pid)
