"""The command line of each start: where the child listens, its key, its mark, and what of its output nobody may see."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.config.values import Transport
from supervisor.llama.binary import is_llama_server
from supervisor.llama.command import Command, llama_command, raw_command
from supervisor.llama.endpoint import Endpoint, TcpEndpoint, UnixEndpoint
from supervisor.runtime.marks import MARK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from supervisor.config.secrets import Secrets
    from supervisor.config.values import Model, Option
    from supervisor.llama.command import Surroundings
    from supervisor.llama.preflight import Inspection
    from supervisor.runtime.roster import Roster

KEY_BYTES = 32
"""Of the key that closes a child's port to everybody but us."""


class CommandLines:
    """Those of all models; each start has an address and a key of its own."""

    def __init__(self, around: Surroundings, roster: Roster, hide: Secrets) -> None:
        self._around = around
        self._roster = roster
        self._hide = hide

    def of(
        self, model: Model, inspection: Inspection, *, run: int, added: Mapping[str, Option] | None = None
    ) -> Command:
        """That of a run of this model, with what we add to this start."""
        if model.cmd:
            command = self._raw(model)
        else:
            assert inspection.binary is not None
            command = llama_command(
                model,
                self._around,
                binary=inspection.binary,
                catalogue=inspection.catalogue,
                endpoint=self._endpoint(model, run),
                added=added,
                key=secrets.token_urlsafe(KEY_BYTES),
            )
        redact = self._hide if command.api_key is None else self._hide.with_key(command.api_key)
        return replace(command, env={**command.env, MARK: self._roster.mark(run)}, redact=redact)

    def _raw(self, model: Model) -> Command:
        port = model.port or free_port()
        command = raw_command(model, self._around, port=port)
        program = _program(command)
        if is_llama_server(program):
            key = secrets.token_urlsafe(KEY_BYTES)
            command = raw_command(model, self._around, port=port, program=program, key=key)
        return command

    def _endpoint(self, model: Model, run: int) -> Endpoint:
        if model.transport is Transport.TCP:
            return TcpEndpoint(free_port())
        return UnixEndpoint(self._around.private_dir / f"{run}.sock")


def _program(command: Command) -> Path:
    """The file that will be run, as the child's own PATH finds it."""
    name = command.argv[0]
    found_at = name if "/" in name else shutil.which(name, path=command.env.get("PATH", os.defpath))
    return command.cwd / (found_at or name)


def free_port() -> int:
    """A TCP port on loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
