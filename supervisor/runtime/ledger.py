"""The ledger: what each model takes of every device, estimated before its first load and measured from then on.

A measurement is the child's own memory and the pages of files it maps, as the kernel counts them, and what it holds of
GPUs: by the driver's count, or where the driver does not tell processes apart, by the buffers the child reports. It is
kept under all that a start depends on, so a restart of the service knows it at once.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from supervisor.fleet.memory import HOST, Footprint, Part, Source, peak
from supervisor.llama.command import child_environment
from supervisor.llama.devices import listed
from supervisor.llama.estimate import estimate
from supervisor.llama.files import DRAFTS
from supervisor.llama.offloading import Plan
from supervisor.runtime.footprints import Footprints
from supervisor.runtime.measuring import measure
from supervisor.runtime.start_key import start_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from supervisor.config.values import Model
    from supervisor.fleet.memory import Device, DeviceId
    from supervisor.llama.preflight import Inspection, Inspector
    from supervisor.runtime.live import LiveRun
    from supervisor.runtime.readings import Readings

logger = logging.getLogger("supervisor.ledger")

AGAIN = 10.0
"""Seconds between two looks at whether a run has been used, and is to be measured again."""
BUSY_AGAIN = 60.0
"""Seconds after which a run that is never idle is measured all the same."""
NOTABLE = 0.02
"""The share by which a footprint must change to be news."""


class Ledger:
    """Footprints by model. To be asked on the loop; what has to look somewhere does so in a thread."""

    def __init__(
        self,
        inspector: Inspector,
        *,
        readings: Readings,
        cache_dir: Path | None = None,
        again: float = AGAIN,
    ) -> None:
        self.readings = readings
        self.on_change: list[Callable[[str, Footprint], None]] = []
        """Called with a model's id and what it takes from now on; must not raise."""
        self._inspector = inspector
        self._store = Footprints(cache_dir)
        self._again = again
        self._known: dict[str, Footprint] = {}
        """What a start of each model takes."""
        self._serving: dict[str, Footprint] = {}
        """What the run of each model takes right now."""

    def footprint(self, model: str) -> Footprint | None:
        """What its run takes now, or what its next start will take; None: nobody knows."""
        return self._serving.get(model) or self._known.get(model)

    def of_start(self, model: str) -> Footprint | None:
        """What its next start will take; a run may have grown beyond that."""
        return self._known.get(model)

    def is_measured(self, model: str) -> bool:
        """Whether what its next start takes has been measured."""
        known = self._known.get(model)
        return known is not None and known.is_measured

    def correct(self, model: str, amounts: Mapping[DeviceId, int]) -> None:
        """It takes at least this: a start that should have fitted has died of it."""
        known = self._known.get(model, Footprint())
        self._learn(model, peak(known, Footprint(amounts, source=known.source)))

    async def look(self, model: Model, inspection: Inspection) -> None:
        """Know a model before it is loaded: by its last measurement, else by its files. For when nobody waits."""
        devices = await self._devices(model, inspection)
        known = await anyio.to_thread.run_sync(self._store.get, await self._key(model, inspection))
        if known is None:
            known = await anyio.to_thread.run_sync(self._estimate, model, inspection, devices)
        if known is not None:
            self._learn(model.id, known)
        elif self._known.pop(model.id, None) is not None:
            logger.debug("what %s takes is not known any more", model.id)

    async def follow(self, live: LiveRun, inspection: Inspection, is_ready: anyio.Event) -> None:
        """Measure a run when it is ready, and again after it was used, until cancelled."""
        await is_ready.wait()
        key = await self._key(live.model, inspection)
        devices = await self._devices(live.model, inspection)
        try:
            used_at, measured_at = live.used_at, anyio.current_time()
            first = await self._measured(live, devices)
            if first is None:
                return
            await self._keep(live, key, first, may_be_less=bool(devices) and _may_have_shrunk(live))
            while True:
                await anyio.sleep(self._again)
                if not is_due(live, anyio.current_time(), used_at=used_at, measured_at=measured_at):
                    continue
                used_at, measured_at = live.used_at, anyio.current_time()
                now = await self._measured(live, devices)
                if now is None:
                    return
                await self._grow(live, key, now)
        finally:
            if self._serving.pop(live.model.id, None) is not None and live.model.id in self._known:
                self._tell(live.model.id)

    async def _keep(self, live: LiveRun, key: str, measured: Footprint, *, may_be_less: bool) -> None:
        """A first measurement is what the next start will take too, unless fitting had to do with what was free."""
        known = self._known.get(live.model.id)
        self._serving[live.model.id] = measured
        whole = _at_least(measured, known) if may_be_less and known is not None else measured
        await self._remember(live.model.id, key, whole)
        logger.info("%s takes %s (run %s, measured)", live.model.id, shown(measured), live.id)

    async def _grow(self, live: LiveRun, key: str, now: Footprint) -> None:
        """A start needs on GPUs what a run ever came to; on the host grows a prompt cache that it begins without."""
        model = live.model.id
        before, known = self._serving.get(model), self._known.get(model, now)
        self._serving[model] = now
        larger = _at_least(known, now)
        if larger != known:
            await self._remember(model, key, larger)
        elif before is None or _differ(before, now):
            logger.debug("%s takes %s now (run %s)", model, shown(now), live.id)
            self._tell(model)

    async def _remember(self, model: str, key: str, footprint: Footprint) -> None:
        self._learn(model, footprint)
        await anyio.to_thread.run_sync(self._store.put, key, model, footprint)

    def _learn(self, model: str, footprint: Footprint) -> None:
        if self._known.get(model) != footprint:
            self._known[model] = footprint
            self._tell(model)

    def _tell(self, model: str) -> None:
        footprint = self.footprint(model)
        assert footprint is not None
        for callback in self.on_change:
            callback(model, footprint)

    async def own_names(self, model: Model, inspection: Inspection, devices: Sequence[DeviceId]) -> list[str]:
        """What this model's binary calls these devices."""
        names = {device.id: name for name, device in (await self._devices(model, inspection)).items()}
        return [names.get(device, device) for device in devices]

    # How it is known.

    async def _key(self, model: Model, inspection: Inspection) -> str:
        lines = None
        if inspection.binary is not None and inspection.catalogue is not None:
            lines = await self._inspector.devices(model, inspection.binary)
        return await anyio.to_thread.run_sync(start_key, self._inspector, model, lines)

    async def _devices(self, model: Model, inspection: Inspection) -> Mapping[str, Device]:
        """What its binary lists, by its own names."""
        if inspection.binary is None or inspection.catalogue is None:
            return {}
        env = {**child_environment(self._inspector.around), **model.env}
        found = listed(await self._inspector.listing(model, inspection.binary) or ())
        return await anyio.to_thread.run_sync(self.readings.named, found, env)

    def _estimate(self, model: Model, inspection: Inspection, devices: Mapping[str, Device]) -> Footprint | None:
        header, options = inspection.header, inspection.options
        if header is None:
            return None
        drafts = [options[key] for key in DRAFTS if key in options]
        plan = Plan(
            header=header,
            file=_real(str(options.get("model", ""))),
            options=options,
            devices={name: device.total for name, device in devices.items()},
            host=next((each.total for each in self.readings.read().devices if each.id == HOST), None),
            projector=inspection.projector,
            draft=inspection.draft,
            draft_file=_real(str(drafts[0])) if drafts else "",
        )
        places = {name: device.memory for name, device in devices.items()}
        shares = (share for share in estimate(plan) if share.bytes)
        parts = (share._replace(device=places.get(share.device, share.device)) for share in shares)
        return Footprint.of((Part(*part) for part in parts), Source.ESTIMATE)

    async def _measured(self, live: LiveRun, devices: Mapping[str, Device]) -> Footprint | None:
        """None when the process is gone, or nobody lets us look at it."""
        if live.pid is None:
            return None
        look = partial(measure, live.pid, live.heard, devices, readings=self.readings, is_wrapped=bool(live.model.cmd))
        found = await anyio.to_thread.run_sync(look, abandon_on_cancel=True)
        return found and _with_gpus_of(self._known.get(live.model.id), found)


def shown(footprint: Footprint) -> str:
    """As the log says it."""
    return ", ".join(f"{size / 2**20:.0f} MiB of {device}" for device, size in footprint.total().items())


def _at_least(footprint: Footprint, other: Footprint) -> Footprint:
    """With as much on GPUs as the other, if that is more; on its own devices, where the other was put elsewhere."""
    here, there = (_on_gpus(each).amounts for each in (footprint, other))
    if here.keys() == there.keys() or not here:
        return peak(footprint, Footprint(there))
    now, most = sum(here.values()), sum(there.values())
    amounts = {device: size * max(now, most) // now for device, size in here.items()}
    return replace(footprint, amounts={**footprint.amounts, **amounts})


def _on_gpus(footprint: Footprint) -> Footprint:
    return Footprint({device: size for device, size in footprint.amounts.items() if device != HOST})


def _may_have_shrunk(live: LiveRun) -> bool:
    """Whether fitting may have made the context shorter or left layers out, for others held what it wanted."""
    words = live.child.command.argv if live.child else ()
    is_off = any(pair in {("--fit", "off"), ("-fit", "off")} for pair in pairwise(words))
    return not is_off and not live.was_left_alone


def _real(path: str) -> str:
    """The name by which the kernel knows the file once it is mapped."""
    return os.fsencode(os.path.realpath(path)).decode(errors="replace")


def _with_gpus_of(known: Footprint | None, found: Footprint) -> Footprint:
    """A start whose child is not asked to tell takes of GPUs what an earlier one took."""
    if known is None or any(device != HOST for device in found.amounts):
        return found
    gpus = [part for part in known.parts if part.device != HOST]
    return Footprint.of((*found.parts, *gpus), found.source)


def is_due(live: LiveRun, now: float, *, used_at: float, measured_at: float) -> bool:
    """Whether it is worth measuring again: at the end of a busy spell, or after long enough in one."""
    if live.leases:
        return now - measured_at >= BUSY_AGAIN
    return live.used_at > used_at


def _differ(before: Footprint, now: Footprint) -> bool:
    one, other = before.total(), now.total()
    return any(
        abs(one.get(device, 0) - other.get(device, 0)) > NOTABLE * one.get(device, 0) for device in {*one, *other}
    )
