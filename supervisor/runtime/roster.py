"""What is written down of a service and its children while they live, for a successor to find what was left."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from typing import TYPE_CHECKING

import msgspec

from supervisor.runtime.marks import boot_id, pid_namespace, started_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from supervisor.llama.command import Command

logger = logging.getLogger("supervisor.roster")

OWNER = "supervisor.json"
"""The file with the `Owner`, locked for as long as it lives."""
PID = "${PID}"


class Owner(msgspec.Struct, frozen=True):
    """A service: its process, and what its children's marks begin with."""

    token: str
    pid: int
    started: int | None
    boot: str
    namespace: str

    @classmethod
    def myself(cls) -> Owner:
        """This process, with a token of its own."""
        pid = os.getpid()
        return cls(secrets.token_hex(16), pid, started_at(pid), boot_id(), pid_namespace())

    @property
    def is_of_this_boot(self) -> bool:
        """Whether anything it has started can still be there."""
        return self.boot == boot_id()

    @property
    def is_of_this_namespace(self) -> bool:
        """Whether its pids mean anything to us."""
        return self.namespace == pid_namespace()

    @property
    def lives(self) -> bool:
        """Whether that very process still runs, as far as its pid can tell us."""
        is_known = self.is_of_this_boot and self.is_of_this_namespace and self.started is not None
        return is_known and started_at(self.pid) == self.started


class Entry(msgspec.Struct, frozen=True):
    """A child."""

    run: int
    model: str
    stop: tuple[str, ...]
    """The command that stops it; empty if a signal does."""
    stop_timeout: float
    cwd: str
    pid: int | None = None
    """None until it has been spawned."""
    started: int | None = None

    @property
    def lives(self) -> bool:
        """Whether a process with its pid and its start time still runs."""
        return self.pid is not None and self.started is not None and started_at(self.pid) == self.started


class Roster:
    """The children of this service, one file each."""

    def __init__(self, folder: Path | None = None, token: str = "") -> None:
        """Nothing is written without a folder."""
        self.token = token or secrets.token_hex(16)
        self._folder = folder
        self._has_complained = False

    def mark(self, run: int) -> str:
        """The mark of a run, and of what it starts."""
        return f"{self.token}.{run}"

    @property
    def mark_of_all(self) -> str:
        """What every mark of this service begins with."""
        return f"{self.token}."

    @contextlib.contextmanager
    def entered(
        self, command: Command, *, run: int, model: str, stop_timeout: float
    ) -> Iterator[Callable[[int], None]]:
        """Have a child on the list, from before it is spawned until it is gone; call with its pid once it has one."""
        entry = Entry(run, model, command.stop, stop_timeout, str(command.cwd))
        self._write(entry)
        try:
            yield lambda pid: self._write(msgspec.structs.replace(entry, pid=pid, started=started_at(pid)))
        finally:
            if self._folder is not None:
                with contextlib.suppress(OSError):
                    (self._folder / _name(run)).unlink(missing_ok=True)

    def _write(self, entry: Entry) -> None:
        """A full disk must not keep a model from being served: the mark alone finds its process, too."""
        if self._folder is None:
            return
        path = self._folder / _name(entry.run)
        try:
            new = path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(entry))
            new.replace(path)
        except OSError as exc:
            if not self._has_complained:
                logger.warning("%s cannot be written: %s", path, exc.strerror)
            self._has_complained = True


def entries(folder: Path) -> list[Entry]:
    """The children that a service had when it ended; what cannot be read is left out."""
    found = []
    for path in sorted(folder.glob("run-*.json")):
        with contextlib.suppress(OSError, msgspec.DecodeError):  # msgspec.ValidationError is one
            found.append(msgspec.json.decode(path.read_bytes(), type=Entry))
    return found


def _name(run: int) -> str:
    return f"run-{run}.json"
