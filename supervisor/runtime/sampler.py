"""Samples of the host and its GPUs, taken by a thread of its own: neither a driver nor a filesystem holds us up."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from supervisor.runtime.gpus import Gpus
from supervisor.runtime.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from supervisor.record.samples import Samples

logger = logging.getLogger("supervisor.sampler")

FIRST_SECONDS = 1.0
"""Until the first sample: how busy a core is takes two looks."""
LAST_SECONDS = 1.0
"""How long the end of the service waits for a look that is under way."""


class Sampler:
    """Takes a sample every so many seconds as long as its `with` block lasts."""

    def __init__(self, samples: Samples, in_use: Callable[[], bool], gpus: Gpus | None = None) -> None:
        """`in_use` tells whether models are loaded."""
        self._samples = samples
        self._in_use = in_use
        self._gpus = gpus or Gpus()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)  # a driver may hang

    def __enter__(self) -> Self:
        if self._samples.is_enabled:
            self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        if self._samples.is_enabled:
            self._thread.join(LAST_SECONDS)

    def _run(self) -> None:
        host = Host()
        pause = min(FIRST_SECONDS, self._samples.every)
        while not self._ending.wait(pause):
            pause = self._samples.every
            try:
                self._samples.add(host.sample(), self._gpus.read(in_use=self._in_use()))
            except Exception:
                logger.exception("bug: a look at the machine broke")
                pause = self._samples.every * 60  # it will not be the last one
        self._gpus.close()
