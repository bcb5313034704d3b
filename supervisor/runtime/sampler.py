"""Samples of the host and its GPUs, taken by a thread of its own: neither a driver nor a filesystem holds us up."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Self

from supervisor.record.samples import HostSample
from supervisor.runtime.gpus import Gpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from supervisor.record.samples import Samples

logger = logging.getLogger("supervisor.sampler")

FIRST_SECONDS = 1.0
"""Until the first sample: how busy a core is takes two looks."""
START_SECONDS = 0.5
"""For the service to begin to listen: importing psutil and asking it takes 20 ms."""
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
        if not self._ending.wait(START_SECONDS):
            self._watch()
        self._gpus.close()

    def _watch(self) -> None:
        import psutil

        psutil.cpu_percent(percpu=True)
        pause = min(FIRST_SECONDS, self._samples.every)
        while not self._ending.wait(pause):
            pause = self._samples.every
            try:
                self._samples.add(host_sample(), self._gpus.read(in_use=self._in_use()))
            except Exception:
                logger.exception("bug: a look at the machine broke")
                pause = self._samples.every * 60  # it will not be the last one


def host_sample() -> HostSample:
    """The host as it is now."""
    import psutil

    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    networks = psutil.net_io_counters(pernic=True)
    return HostSample(
        at=time.time(),
        cores=tuple(psutil.cpu_percent(percpu=True)),
        memory_total=memory.total,
        memory_free=memory.available,
        swap_total=swap.total,
        swap_used=swap.used,
        load=psutil.getloadavg(),
        networks=tuple((name, each.bytes_recv, each.bytes_sent) for name, each in sorted(networks.items())),
    )
