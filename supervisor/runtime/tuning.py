"""What we add to a start so that it is ready sooner, and what we learn from one for the next."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio.to_thread

from supervisor.llama.command import model_options
from supervisor.llama.devices import listed
from supervisor.llama.fit import kept_all
from supervisor.llama.load_mode import LoadFacts, choose_load_mode, offered_modes, offload
from supervisor.runtime.fits import Fit, Fits
from supervisor.runtime.residency import available_memory, residency
from supervisor.runtime.start_key import start_key
from supervisor.runtime.vitals import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from supervisor.config.values import Model, Option
    from supervisor.llama.help_text import Catalogue
    from supervisor.llama.preflight import Inspection, Inspector
    from supervisor.runtime.live import LiveRun

logger = logging.getLogger("supervisor.tuning")

TRACE = 4
"""The verbosity at which a child tells what fitting does."""
_FIT = ("fit", "fit-target", "fit-ctx", "fitt", "fitc")
_VERBOSITY = ("verbosity", "log-verbosity", "lv", "verbose", "log-verbose", "v")


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is added to one start."""

    options: Mapping[str, Option] = field(default_factory=dict)
    key: str | None = None
    """Under which what it teaches is kept; None if there is nothing to learn."""
    beside: int = 0
    has_devices: bool = False
    skips_fit: bool = False


class Tuner:
    """Chooses what to add, from what earlier starts have taught."""

    def __init__(self, inspector: Inspector, cache_dir: Path | None) -> None:
        self._inspector = inspector
        self._fits = Fits(cache_dir)

    async def tuning(
        self, model: Model, inspection: Inspection, *, beside: Sequence[Model], is_new: bool = False
    ) -> Tuning:
        """For a start of this model beside children of these; of a new one the child is to tell what it takes."""
        if inspection.catalogue is None or inspection.binary is None:
            return Tuning()
        devices = await self._inspector.devices(model, inspection.binary, none_for=math.inf)
        mode = await self._load_mode(model, inspection, devices, beside)
        tuning = self._fitting(model, inspection.catalogue, devices, len(beside))
        traces = _traces(model, inspection.catalogue) if is_new and devices and not tuning.skips_fit else {}
        return replace(tuning, options={**traces, **tuning.options, **mode})

    def _fitting(self, model: Model, catalogue: Catalogue, devices: Sequence[str] | None, beside: int) -> Tuning:
        fits_itself = "LLAMA_ARG_FIT" in model.env or any(name in model.options for name in _FIT)
        if not model.fit_cache or fits_itself or not catalogue.find("fit"):
            return Tuning()
        has_devices = devices is None or bool(devices) or "rpc" in model.options
        key = self._key(model, devices)
        if self._fits.can_skip(key, available=available_memory(), beside=beside, has_devices=has_devices):
            return Tuning({"fit": "off"}, key, beside, has_devices, skips_fit=True)
        return Tuning(_traces(model, catalogue) if has_devices else {}, key, beside, has_devices)

    async def _load_mode(
        self, model: Model, inspection: Inspection, devices: Sequence[str] | None, beside: Sequence[Model]
    ) -> Mapping[str, Option]:
        """What `load-mode = "auto"` means this time; without it nothing is chosen."""
        if model.options.get("load-mode") != "auto" or inspection.catalogue is None:
            return {}
        weights = self._inspector.weights(model)
        facts = LoadFacts(
            file_bytes=inspection.size or 0,
            residency=await anyio.to_thread.run_sync(_residency, weights),
            available_bytes=available_memory(),
            offload=offload(model.options, inspection.header, has_devices=devices is None or bool(devices)),
            is_unified=await self._is_unified(model, inspection),
            is_shared=any(set(weights) & set(self._inspector.weights(other)) for other in beside),
            modes=offered_modes(inspection.catalogue),
        )
        choice = choose_load_mode(facts)
        logger.info("%s: load mode %s: %s", model.id, choice.mode or "auto", choice.reason)
        return {"load-mode": choice.mode} if choice.mode else {}

    async def _is_unified(self, model: Model, inspection: Inspection) -> bool:
        """Whether no device that it may use has memory of its own."""
        assert inspection.binary is not None
        asked = str(model.options.get("device", model.options.get("dev", ""))).split(",")
        found = listed(await self._inspector.listing(model, inspection.binary) or ())
        used = [each for each in found if asked == [""] or each.name in asked]
        return bool(used) and all(each.is_unified for each in used)

    async def learn(self, live: LiveRun, tuning: Tuning, binary: Path) -> None:
        """Remember a start that has become ready, if fitting has left it as it was asked for."""
        if tuning.key is None or tuning.skips_fit or live.pid is None:
            return
        model = live.model
        whole = kept_all(
            model_options(model, self._inspector.around),
            live.ready_payload,
            was_left_alone=live.was_left_alone,
            has_devices=tuning.has_devices,
        )
        used = resident_bytes(live.pid)
        if whole and used and self._key(model, await self._inspector.devices(model, binary)) == tuning.key:
            self._fits.learn(tuning.key, Fit(used, tuning.beside))
            logger.debug("%s came out of fitting as it was asked for; it took %d bytes", model.id, used)

    def forget(self, tuning: Tuning) -> None:
        """A start that was to be like an earlier one was not."""
        if tuning.key is not None:
            self._fits.forget(tuning.key)

    def _key(self, model: Model, devices: Sequence[str] | None) -> str:
        return start_key(self._inspector, model, devices)


def _traces(model: Model, catalogue: Catalogue) -> Mapping[str, Option]:
    """What makes a child tell what it does with devices, if its owner has not said how much it is to tell."""
    is_free = catalogue.find("verbosity") and not any(name in model.options for name in _VERBOSITY)
    return {"verbosity": TRACE} if is_free else {}


def _residency(paths: Sequence[Path]) -> float | None:
    """The share of all these files that is in the page cache."""
    shares = [(path.stat().st_size, residency(path)) for path in paths if path.exists()]
    known = [(size, share) for size, share in shares if share is not None]
    total = sum(size for size, _ in known)
    return sum(size * share for size, share in known) / total if total and len(known) == len(shares) else None
