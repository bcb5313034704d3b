"""The service, with a window into it: SIGUSR1 makes it write down its tasks and objects to the file `CHAOS_REPORT`."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path


def report(*_: object) -> None:
    loop = asyncio._get_running_loop()  # type: ignore[attr-defined]  # of the code that the signal interrupts
    tasks = [str(task.get_coro()) for task in asyncio.all_tasks(loop)] if loop is not None else []
    gc.collect()
    path = Path(os.environ["CHAOS_REPORT"])
    new = path.with_suffix(".new")
    kinds = Counter(type(each).__qualname__ for each in gc.get_objects())
    new.write_text(json.dumps({"tasks": tasks, "kinds": kinds}))
    new.replace(path)


if __name__ == "__main__":
    from supervisor.cli import main

    signal.signal(signal.SIGUSR1, report)
    main()
