"""One short key for all that a start depends on: what starts teach is kept under it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.llama.command import child_environment, model_options
from supervisor.runtime.fits import key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.config.values import Model
    from supervisor.llama.preflight import Inspector

_FREE = re.compile(r", \d+ \w+ free")
_THEIRS = ("GGML_", "LLAMA_", "CUDA_", "HIP_", "ROCR_", "HSA_", "VK_", "ONEAPI_", "SYCL_", "OMP_", "LD_")
"""Variables that decide what llama-server does with memory and devices; the others change with every login."""


def start_key(inspector: Inspector, model: Model, devices: Sequence[str] | None) -> str:
    """Of the binary and the files as they are now, the options, the environment and the devices it lists."""
    around = inspector.around
    env = {**child_environment(around), **model.env}
    return key_of(
        (
            inspector.fingerprint(model),
            sorted(model_options(model, around).items()),
            sorted((name, value) for name, value in env.items() if name.startswith(_THEIRS) or name in model.env),
            None if devices is None else [_FREE.sub("", each) for each in devices],
            *model.cmd,
        )
    )
