"""The files of the next model, read ahead: from when its start is decided until it is ready."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from supervisor.runtime.prefetch import RESERVE, Prefetch
from supervisor.runtime.vitals import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.config.values import Model
    from supervisor.llama.preflight import Inspector

logger = logging.getLogger("supervisor.warming")

_DIRECT = {"load-mode": "dio", "lm": "dio", "direct-io": True, "dio": True}


class Warmer:
    """Prefetches for one model that is expected, and for those that start."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._expected: tuple[str, Prefetch | None] | None = None

    def expect(self, model: Model | None, staying: Iterable[int] = ()) -> None:
        """This model will start once there is room; None: no model will.

        `staying` are the pids of children that stay: their files must not be pushed out of memory.
        """
        if model is not None and self._expected is not None and self._expected[0] == model.id:
            return
        if self._expected is not None and self._expected[1] is not None:
            self._expected[1].stop()
        self._expected = None if model is None else (model.id, self._begin(model, staying))

    def claim(self, model: Model, staying: Iterable[int] = ()) -> Prefetch | None:
        """What is read for a model that starts now; its start has to stop it."""
        expected, self._expected = self._expected, None
        if expected is not None and expected[0] == model.id:
            return expected[1]
        self._expected = expected
        return self._begin(model, staying)

    def _begin(self, model: Model, staying: Iterable[int]) -> Prefetch | None:
        reads_past_cache = any(model.options.get(name) == value for name, value in _DIRECT.items())
        if model.cmd or not model.prefetch or reads_past_cache:
            return None
        held = sum(resident_bytes(pid) or 0 for pid in staying)  # what is mapped counts as available
        prefetch = Prefetch(self._inspector.weights(model), reserve=RESERVE + held)
        prefetch.start()
        return prefetch
