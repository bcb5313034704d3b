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

_LEFT_ALONE = re.compile(r"fit\w*: .*(?:, no changes needed|already set by user.*, abort)$")


def slot_context(options: Mapping[str, Option], trained: int | None) -> int | None:
    """Tokens one slot alone should get: `ctx-size`, or all the model was trained for, shared among the slots."""
    asked = options.get("ctx-size", options.get("c", 0))
    if not isinstance(asked, int) or asked < 0:
        return None
    total, slots = asked or trained, options.get("parallel", options.get("np"))
    if total and isinstance(slots, int) and slots > 0 and not options.get("kv-unified", options.get("kvu")):
        return total // slots
    return total


def left_alone(line: str) -> bool:
    """Whether fitting says in this line that it changes nothing on a device; a child logs it at verbosity 4.

    How many layers were offloaded does not tell: experts may stay behind, and a draft model counts its own.
    """
    return "fit" in line and _LEFT_ALONE.search(line) is not None


def kept_all(
    options: Mapping[str, Option], payload: Mapping[str, object], *, was_left_alone: bool, has_devices: bool
) -> bool:
    """Whether a start with fitting came out as asked for: the context whole, and what is on devices left alone.

    `payload` is what the child says of its model when it is ready. What is not known counts as changed.
    """
    meta = payload.get("meta")
    given, trained = (meta.get("n_ctx"), meta.get("n_ctx_train")) if isinstance(meta, dict) else (None, None)
    wanted = slot_context(options, trained if isinstance(trained, int) else None)
    if wanted is None or not isinstance(given, int) or given < wanted:
        return False
    return was_left_alone or not has_devices
