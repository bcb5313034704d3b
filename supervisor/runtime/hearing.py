"""What a child says, and what that means for its run."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.llama.diagnosis import first_known
from supervisor.llama.fit import left_alone, slot_context
from supervisor.llama.warnings import ModelWarning, warning_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Model
    from supervisor.runtime.live import LiveRun
    from supervisor.runtime.load_report import LoadReport
    from supervisor.runtime.prefetch import Prefetch
    from supervisor.runtime.tuning import Tuning

_LEVEL = re.compile(r"[\d.]+ ([DIWE]) ")
WEDGED = frozenset({"gpu_error", "wake_failed"})
"""Causes after which a child still calls itself healthy but serves nothing any more."""


def listen(live: LiveRun, text: str) -> None:
    """Hear warnings, and device errors after which a child answers every request with an error.

    Once it serves, what clients wrote may stand in any line but its own warnings and errors.
    """
    is_serving = live.child is not None and live.child.is_ready
    level = _LEVEL.match(text)
    if is_serving and (level is None or level[1] in "DI"):
        return
    if not is_serving:
        live.was_left_alone = live.was_left_alone or left_alone(text)
        live.heard.listen(text)
    if warning := warning_in(text):
        live.warn(warning)
    if is_serving and level and level[1] == "E" and live.child:
        known = first_known((text,), serving=True)
        if known and known.cause in WEDGED:
            live.child.put_down()


def load_report(live: LiveRun, payload: Mapping[str, object], tuning: Tuning, prefetch: Prefetch | None) -> LoadReport:
    """What the start that has just ended cost; the prefetch ends with it."""
    assert live.child is not None
    meta = payload.get("meta")
    size = meta.get("size") if isinstance(meta, dict) else None
    told = live.child.clock.report(time.monotonic(), size=size if isinstance(size, int) else None)
    told = replace(told, is_fitted=None if tuning.key is None else not tuning.skips_fit)
    if prefetch is None:
        return told
    prefetch.stop()
    read = prefetch.report
    return replace(told, prefetched=read.bytes_read, prefetch_seconds=read.seconds)


def became_ready(live: LiveRun, payload: Mapping[str, object], load: LoadReport) -> None:
    """Note that a child serves, and what it says of its model."""
    live.became_ready(payload, load, time.monotonic())
    if shrunk := _shrunk_context(live.model, payload):
        live.warn(shrunk)


def _shrunk_context(model: Model, payload: Mapping[str, object]) -> ModelWarning | None:
    """Whether the whole context asked for came down to less in one slot than one slot alone should have."""
    meta = payload.get("meta")
    given = meta.get("n_ctx") if isinstance(meta, dict) else None
    share = slot_context(model.options, trained=None)
    if share is None or not isinstance(given, int) or given >= share or not share:
        return None
    message = f"a request gets a context of {given} tokens, not the {share} that `ctx-size` asks for"
    return ModelWarning(
        "context_reduced", message, "the model was trained for less, or memory is short: lower `ctx-size`"
    )
