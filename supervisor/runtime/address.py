"""Whether a child can listen where its command says: asked before its spawn, and once it has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread

from supervisor.llama.diagnosis import Diagnosis, End, found
from supervisor.runtime.ports import lasting_listener, listener_of

if TYPE_CHECKING:
    from supervisor.config.quantities import Address
    from supervisor.llama.command import Command

PATIENCE = 1.0
"""Seconds a port may take to become free: what was killed on it may not be quite gone yet."""


async def taken_before(command: Command) -> End | None:
    """The end of a start before its beginning, if somebody listens there already."""
    if command.address is None:
        return None
    holder = await lasting_listener(command.address.port, command.address.host, patience=PATIENCE)
    if holder is None:
        return None
    return End("spawning", (), gave_up="listen_address_taken", gave_up_facts=_facts(command.address, holder))


async def taken_meanwhile(command: Command, end: End, diagnosis: Diagnosis) -> Diagnosis | None:
    """Why a child could not start that gave no other reason, if somebody listens where it should."""
    address = command.address
    if address is None or end.gave_up or diagnosis.cause not in {"unknown", "listen_address_taken"}:
        return None
    if end.phase != "loading" or not end.returncode:  # one that exits with 0 may have left a server behind
        return None
    holder = await anyio.to_thread.run_sync(listener_of, address.port, address.host, abandon_on_cancel=True)
    if holder is None:
        return None
    return found("listen_address_taken", evidence=diagnosis.evidence, **_facts(address, holder))


def _facts(address: Address, holder: str) -> dict[str, Any]:
    return {**address._asdict(), "hint": f"{holder} listens there"}
