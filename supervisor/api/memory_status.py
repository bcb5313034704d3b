"""Memory as `/status` and `check` show it: devices and budgets, and of each model where its numbers come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.fleet.memory import budgets

if TYPE_CHECKING:
    from supervisor.config.values import Memory
    from supervisor.fleet.memory import Footprint, Reading


def devices(reading: Reading, memory: Memory | None) -> list[dict[str, Any]]:
    """The devices there are; `free_bytes` is null where nobody tells, `budget_bytes` where nobody has asked for one."""
    own = {device.id: device for device in reading.devices}
    allowed = budgets(own.values(), reserve=memory.reserve, asked=memory.budget) if memory is not None else {}
    return [
        {
            "id": device.id,
            "name": device.name,
            "total_bytes": device.total,
            "free_bytes": reading.free.get(device.id),
            "budget_bytes": allowed.get(device.id),
            "uuid": device.uuid,
            "pci": device.pci,
            "unified": device.unified,
        }
        for device in own.values()
    ]


def footprint(found: Footprint | None) -> dict[str, object] | None:
    """What a model takes of every device, and whose word that is."""
    if found is None:
        return None
    return {
        "source": found.source.value,
        "devices": found.total(),
        "parts": [part._asdict() for part in found.parts if part.bytes],
    }
