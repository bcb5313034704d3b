"""The failure catalogue: what a child's own words mean. Data only, one row per cause (spec: llama-server.md 3).

Patterns match message text, never function prefixes: those differ between builds. Named groups fill the templates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """One kind of failure."""

    code: str
    message: str
    hint: str
    patterns: tuple[re.Pattern[str], ...] = ()
    permanent: bool = True
    """Whether trying again without changing anything is pointless."""


def _cause(code: str, message: str, hint: str, *patterns: str, permanent: bool = True) -> Cause:
    return Cause(code, message, hint, tuple(map(re.compile, patterns)), permanent)


TRANSIENT_RETRY_AFTER = 5.0

CATALOGUE: tuple[Cause, ...] = (
    _cause(
        "shared_library_missing",
        "the binary needs the shared library `{library}`, which is not there ({detail})",
        "install it, or set `env.LD_LIBRARY_PATH` of this model to its directory",
        r"error while loading shared libraries: (?P<library>[^:]+): (?P<detail>.+)",
        r"(?P<library>\S+): version `(?P<detail>[^']+)' not found",
    ),
    _cause(
        "binary_not_found",
        "the binary `{path}` does not exist",
        "give `binary` an absolute path, or build llama.cpp there",
        r"setpriv: failed to execute (?P<path>.+): No such file or directory",
    ),
    _cause(
        "binary_not_executable",
        "the binary `{path}` cannot be executed ({detail})",
        "check its mode (`chmod +x`) and that its file system is not mounted noexec",
        r"setpriv: failed to execute (?P<path>.+): (?P<detail>Permission denied)",
    ),
    _cause(
        "binary_wrong_architecture",
        "the binary `{path}` is not a program for this machine",
        "install a build for this processor and operating system",
        r"setpriv: failed to execute (?P<path>.+): Exec format error",
    ),
    _cause(
        "unknown_flag",
        "this llama-server does not know the option `{flag}`",
        "remove it or spell it as this binary's `--help` does",
        r"error: invalid argument: (?P<flag>\S+)",
    ),
    _cause(
        "removed_flag",
        "this llama-server no longer has the option `{flag}`",
        "{detail}",
        r"error while handling argument \"(?P<flag>[^\"]+)\": the argument has been removed\. (?P<detail>.+)",
    ),
    _cause(
        "device_missing",
        "there is no device `{device}` on this machine",
        "`llama-server --list-devices` shows what there is",
        r"invalid device: (?P<device>\S+)",
    ),
    _cause(
        "bad_flag_value",
        "the option `{flag}` has a value this llama-server does not take ({detail})",
        "look at `llama-server --help`",
        r"error while handling argument \"(?P<flag>[^\"]+)\": (?P<detail>.+)",
        r"error: unknown value for (?P<flag>--[\w-]+): (?P<detail>.+)",
        r"error: invalid value for (?P<flag>\w+)(?P<detail>)",
        r"Unsupported (?P<flag>cache type): (?P<detail>\S+)",
    ),
    _cause(
        "mmproj_missing",
        "the projector `{path}` could not be loaded",
        "check the path of `mmproj`, and that the file is a projector for this model",
        r"failed to load multimodal model, '(?P<path>[^']+)'",
        r"Failed to load CLIP model from (?P<path>.+)",
    ),
    _cause(
        "draft_model_missing",
        "the draft model `{path}` could not be loaded",
        "check the path of `spec-draft-model`",
        r"failed to load draft model, '(?P<path>[^']+)'",
    ),
    _cause(
        "lora_failed",
        "the LoRA adapter could not be loaded ({detail})",
        "check the path of `lora`, and that it was made for this model",
        r"(?P<detail>failed to load lora adapter.*)",
        r"(?P<detail>model arch and LoRA arch mismatch.*)",
    ),
    _cause(
        "model_file_missing",
        "the file `{path}` does not exist",
        "check the path, or download the file",
        r"failed to open GGUF file '(?P<path>[^']+)' \(No such file or directory\)",
    ),
    _cause(
        "model_file_unreadable",
        "the file `{path}` cannot be read ({detail})",
        "the user that runs this service needs read permission on the file and its directories",
        r"failed to open GGUF file '(?P<path>[^']+)' \((?P<detail>[^)]+)\)",
    ),
    _cause(
        "model_file_not_gguf",
        "the model file is not a GGUF file (it begins with '{magic}')",
        "download it again: '<htm' is an error page, 'vers' a git-lfs pointer",
        r"invalid magic characters: '(?P<magic>.*?)', expected 'GGUF'",
    ),
    _cause(
        "model_file_truncated",
        "the model file is incomplete ({detail})",
        "download it again",
        r"(?P<detail>failed to read magic)",
        r"(?P<detail>failed to read (?:header|key-value pairs|tensor info))",
        r"(?P<detail>tensor '[^']+' data is not within the file bounds)",
    ),
    _cause(
        "unknown_architecture",
        "this llama-server does not know the architecture `{architecture}`",
        "a newer llama.cpp may; update the binary",
        r"(?:unknown|unsupported) model architecture: '(?P<architecture>[^']*)'",
    ),
    _cause(
        "model_file_invalid",
        "the model file does not hold what its architecture needs ({detail})",
        "it is badly converted, or made for another version of llama.cpp",
        r"(?P<detail>tensor '[^']+' (?:not found|has wrong shape.*))",
        r"(?P<detail>wrong number of tensors.*)",
        r"(?P<detail>key not found in model: .*)",
    ),
    _cause(
        "not_a_main_model",
        "the model file is a projector, not a language model",
        "name it with `mmproj`, and the language model with `model`",
        r"CLIP cannot be used as main model",
    ),
    _cause(
        "out_of_device_memory",
        "the device has too little free memory ({detail})",
        "lower `ctx-size` or `n-gpu-layers`, quantise the KV cache, or free the device",
        r"(?P<detail>cudaMalloc failed: out of memory)",
        r"(?P<detail>ErrorOutOfDeviceMemory)",
        r"(?P<detail>Device memory allocation of size \d+ failed)",
        r"(?P<detail>unable to allocate (?:CUDA|ROCm|Vulkan|SYCL|Metal)\w* buffer)",
        permanent=False,
    ),
    _cause(
        "out_of_memory",
        "there is too little memory ({detail})",
        "lower `ctx-size` or `parallel`, or quantise the KV cache",
        r"(?P<detail>insufficient memory \(attempted to allocate [\d.]+ MB\))",
        r"(?P<detail>failed to allocate buffer for kv cache)",
        r"(?P<detail>std::bad_alloc)",
        r"(?P<detail>mmap failed: Cannot allocate memory)",
        permanent=False,
    ),
    _cause(
        "listen_address_taken",
        "the child could not listen on {host} port {port}",
        "another program holds that address, or it is not one of this machine's",
        r"couldn't bind HTTP server socket, hostname: (?P<host>[^,]+), port: (?P<port>\d+)",
        permanent=False,
    ),
)

LOAD_TIMEOUT = Cause(
    "load_timeout",
    "it showed no sign of life for {seconds:g} s while loading",
    "raise `load_timeout`, or look at `llama-supervise logs` for where it hung",
    permanent=False,
)

SIGNALS: dict[str, Cause] = {
    "SIGILL": Cause(
        "killed_by_signal",
        "it was killed by SIGILL: the binary uses instructions this processor does not have",
        "use a build for this processor",
    ),
    "SIGKILL": Cause(
        "killed_by_signal",
        "it was killed by SIGKILL, and not by us: usually the system had run out of memory",
        "look for `oom` in `dmesg`; lower `ctx-size` or choose a smaller quantisation",
        permanent=False,
    ),
}
ANY_SIGNAL = Cause(
    "killed_by_signal",
    "it was killed by {signal}",
    "if it happens again, report it to llama.cpp with the log",
    permanent=False,
)
UNKNOWN = Cause(
    "unknown",
    "it exited with code {code} and gave no reason we know",
    "its last lines are in `stderr_tail`; `llama-supervise logs` has more",
    permanent=False,
)
