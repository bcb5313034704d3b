"""Where a model may go: the ways to place what it takes, and which of them is best."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from supervisor.config.values import Spread
from supervisor.fleet.memory import HOST, Footprint, Source
from supervisor.fleet.room import Room
from supervisor.fleet.same import Same
from supervisor.fleet.values import PLACES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.config.values import Model
    from supervisor.fleet.memory import DeviceId
    from supervisor.fleet.values import Amounts, Fleet

PLACED_BY_HAND = frozenset(
    {
        *("device", "dev", "split-mode", "sm", "tensor-split", "ts", "main-gpu", "mg", "rpc"),
        *("override-tensor", "ot", "cpu-moe", "cmoe", "n-cpu-moe", "ncmoe", "fit-target", "fitt"),
    }
)
"""Options that say what goes where; who gave one has chosen, and nothing is chosen for him."""

LAYERS_BY_HAND = frozenset({"n-gpu-layers", "gpu-layers", "ngl"})
"""Options that say how much of a model is on a GPU: without them llama-server puts there what fits."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One way to place a model."""

    footprint: Footprint
    devices: tuple[DeviceId, ...] = ()
    """What its child is told to use; empty: it is not told."""


ANYWHERE = Placement(Footprint())
"""Where nothing is counted."""


class Ways:
    """The ways to place models within these limits. They are worked out once for the same footprints and limits."""

    def __init__(self, fleet: Fleet, within: Amounts) -> None:
        self._fleet = fleet
        self._within = within
        self._footprints = fleet.books.footprints
        self._known = _known(Same(fleet.config, self._footprints), tuple(within.items()))

    def of(self, name: str) -> tuple[Placement, ...]:
        """Best first as long as nobody is in the way."""
        known = self._known.get(name)
        if known is not None:
            return known
        footprint = self._footprints.get(name)
        if footprint is None:  # what is left beside others changes with them
            return (_unknown(self._fleet, self._within),)
        self._known[name] = found = _placements(self._fleet.config.models[name], footprint, self._within)
        return found


@lru_cache(maxsize=8)
def _known(_: Same, __: tuple[tuple[str, int], ...]) -> dict[str, tuple[Placement, ...]]:
    """What has been worked out for these."""
    return {}


def _placements(model: Model, footprint: Footprint, within: Amounts) -> tuple[Placement, ...]:
    gpus = [name for name in within if name not in {PLACES, HOST}]
    wanted = sum(amount for name, amount in footprint.amounts.items() if name in gpus)
    if model.cmd or not wanted or PLACED_BY_HAND & model.options.keys():
        return (Placement(footprint),)
    found = [Placement(_moved(footprint, gpus, {gpu: wanted}), (gpu,)) for gpu in gpus] if len(gpus) > 1 else []
    found.append(Placement(_moved(footprint, gpus, _split(wanted, gpus, within))))
    if not LAYERS_BY_HAND & model.options.keys() and wanted > sum(within[gpu] for gpu in gpus):
        found.append(Placement(_spilled(footprint, gpus, wanted, within)))
    return tuple(found)


def _unknown(fleet: Fleet, within: Amounts) -> Placement:
    """Nobody knows what it takes: unless a number of models was asked for, it is alone until it has been measured."""
    if fleet.config.server.max_loaded is not None:
        return ANYWHERE
    room = Room(within, (run.footprint for run in fleet.runs if run.model.pinned))
    rest = {name: max(0, room.free(name) or 0) for name in within if name != PLACES}
    return Placement(Footprint(rest, source=Source.ESTIMATE))


def _moved(footprint: Footprint, gpus: Iterable[DeviceId], there: Mapping[DeviceId, int]) -> Footprint:
    elsewhere = {name: amount for name, amount in footprint.amounts.items() if name not in gpus}
    return Footprint({**elsewhere, **there}, footprint.shared, footprint.source, footprint.parts)


def _split(wanted: int, gpus: list[DeviceId], within: Amounts) -> dict[DeviceId, int]:
    """llama-server splits layers in proportion to what it finds free."""
    total = sum(within[gpu] for gpu in gpus)
    if not total:
        return {gpus[0]: wanted}
    return {gpu: wanted * within[gpu] // total for gpu in gpus}


def _spilled(footprint: Footprint, gpus: list[DeviceId], wanted: int, within: Amounts) -> Footprint:
    """What its GPUs cannot hold llama-server leaves to the processor."""
    there = {gpu: within[gpu] for gpu in gpus}
    moved = _moved(footprint, gpus, there)
    amounts = {**moved.amounts, HOST: moved.amounts.get(HOST, 0) + wanted - sum(there.values())}
    return replace(moved, amounts=amounts)


def best(fleet: Fleet, room: Room, options: Iterable[Placement]) -> Placement | None:
    """The placement that fits: on the device it fills best, or on the emptiest; on one device before several."""
    fitting = [option for option in options if room.fits(option.footprint)]
    whole = [option for option in fitting if option.devices]
    if not whole:
        return fitting[0] if fitting else None
    sign = -1 if fleet.config.memory is not None and fleet.config.memory.spread is Spread.SPREAD else 1
    return min(whole, key=lambda option: sign * room.spare(option.footprint))
