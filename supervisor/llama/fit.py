"""What llama-server's `--fit` did to a start, told from what the child reports.

Fitting parses metadata and vocabulary a second time: half of a small model's start (spec: llama-server.md, section 6).
Where it left everything as it was asked for, `--fit off` gives the same run.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Option

_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_LAYERS = ("n-gpu-layers", "gpu-layers", "ngl")


def slot_context(options: Mapping[str, Option], trained: int | None) -> int | None:
    """Tokens one slot alone should get: `ctx-size`, or all the model was trained for, shared among the slots."""
    asked = options.get("ctx-size", options.get("c", 0))
    if not isinstance(asked, int) or asked < 0:
        return None
    total, slots = asked or trained, options.get("parallel", options.get("np"))
    if total and isinstance(slots, int) and slots > 0 and not options.get("kv-unified"):
        return total // slots
    return total


def offloaded_layers(line: str) -> tuple[int, int] | None:
    """How many of how many layers went to the GPU, from the line a child logs at verbosity 4."""
    match = _OFFLOADED.search(line) if "offloaded" in line else None
    return (int(match[1]), int(match[2])) if match else None


def kept_all(
    options: Mapping[str, Option],
    payload: Mapping[str, object],
    offloaded: tuple[int, int] | None,
    *,
    has_devices: bool,
) -> bool:
    """Whether a start with fitting came out as asked for: the context whole, the layers where they belong.

    `payload` is what the child says of its model when it is ready. What is not known counts as changed.
    """
    meta = payload.get("meta")
    given, trained = (meta.get("n_ctx"), meta.get("n_ctx_train")) if isinstance(meta, dict) else (None, None)
    wanted = slot_context(options, trained if isinstance(trained, int) else None)
    if wanted is None or not isinstance(given, int) or given < wanted:
        return False
    if not has_devices:
        return True
    asked = next((options[name] for name in _LAYERS if name in options), "all")
    return offloaded is not None and (offloaded[0] == offloaded[1] or offloaded[0] == asked)
