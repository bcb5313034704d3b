"""Runs but wrong: what a child does otherwise than its config asks, told by its own lines. Data, and one look-up."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelWarning:
    """Something that works, but not as the owner meant it."""

    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Sign:
    """A row: the lines that say so, and what we say. `kind` is the row of spec llama-server.md, section 3."""

    code: str
    message: str
    hint: str
    pattern: re.Pattern[str]
    kind: int | None = None


def _sign(code: str, message: str, hint: str, pattern: str, kind: int | None = None) -> Sign:
    return Sign(code, message, hint, re.compile(pattern), kind)


SIGNS = (
    _sign(
        "environment_overridden",
        "the environment variable `{name}` is overridden by the option `{flag}`",
        "set only one of them",
        r"warn: (?P<name>\w+) environment variable is set, but will be overwritten by command line argument"
        r" (?P<flag>\S+)",
        17,
    ),
    _sign(
        "no_usable_gpu",
        "layers were asked for the GPU, but this llama-server sees none: the model runs on the processor",
        "check driver and build; in models.toml, `require_gpu = true` makes this a failure",
        r"no usable GPU found, --gpu-layers option will be ignored",
        44,
    ),
    _sign(
        "gpu_not_initialised",
        "the GPU could not be used ({detail}): the model runs on the processor",
        "check the driver; in models.toml, `require_gpu = true` makes this a failure",
        r"failed to initialize (?:CUDA|ROCm|MUSA): (?P<detail>.+)",
    ),
    _sign(
        "draft_unused",
        "the draft model is loaded and not used ({detail})",
        'its vocabulary must be that of the model, and `spec-type` must be set (`spec-type = "draft-simple"`)',
        r"(?P<detail>draft model vocab type must match target model to use speculation.*)",
        27,
    ),
    _sign(
        "draft_unused",
        "the draft model is loaded and not used ({detail})",
        "use a draft model of the same family",
        r"(?P<detail>the target and draft vocabs are not compatible)",
        27,
    ),
    _sign(
        "context_capped",
        "the context of {asked} tokens is more than the model was trained for, and is cut to {trained}",
        "lower `ctx-size`, or extend the context with `rope-scaling`",
        r"the slot context \((?P<asked>\d+)\) exceeds the training context of the model \((?P<trained>\d+)\) - capping",
        34,
    ),
    _sign(
        "context_reduced",
        "the context was reduced from {asked} to {given} tokens to fit into memory",
        "lower `ctx-size`, or quantise the KV cache",
        r"context size reduced from (?P<asked>\d+) to (?P<given>\d+)",
    ),
    _sign(
        "rpc_unreachable",
        "an RPC server cannot be used ({detail}): the model runs without it",
        "check that `ggml-rpc-server` runs there, and the address in `rpc`",
        r"(?P<detail>Failed to connect to \S+)",
        46,
    ),
    _sign(
        "unknown_sampler",
        "there is no sampler `{name}`; it is left out",
        "`llama-server --help` lists the samplers",
        r"unable to match sampler by name '(?P<name>[^']*)'",
        48,
    ),
    _sign(
        "mlock_refused",
        "the model could not be locked into memory",
        "raise the limit (`ulimit -l`, `LimitMEMLOCK=` of the systemd unit)",
        r"failed to mlock \d+-byte buffer",
        51,
    ),
    _sign(
        "preload_ignored",
        "`LD_PRELOAD` names an object that cannot be loaded",
        "change it in `env` of this model",
        r"ERROR: ld\.so: object '.*' from LD_PRELOAD cannot be preloaded",
        54,
    ),
)


def warning_in(line: str) -> ModelWarning | None:
    """What a line warns of; None for almost every line."""
    for sign in SIGNS:
        if match := sign.pattern.search(line):
            facts = match.groupdict()
            return ModelWarning(sign.code, sign.message.format(**facts), sign.hint.format(**facts))
    return None
