"""The failure catalogue: what a child's own words mean, and what to do about it. Data only, one row per cause.

Source: spec llama-server.md, section 3; `kinds` are its row numbers. Patterns match message text, never function
prefixes: those differ between builds. Named groups fill the templates. The first line that a row knows is the cause,
unless a later line matches a row that outranks it: a projector that is not there is first reported as a file.
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
    outranks: frozenset[str] = frozenset()
    kinds: tuple[int, ...] = ()
    serving: bool = False
    """Whether it may also end a child that has been serving."""


def _cause(
    code: str,
    message: str,
    hint: str,
    *patterns: str,
    permanent: bool = True,
    outranks: str = "",
    kinds: tuple[int, ...] = (),
    serving: bool = False,
) -> Cause:
    compiled = tuple(map(re.compile, patterns))
    return Cause(code, message, hint, compiled, permanent, frozenset(outranks.split()), kinds, serving)


TRANSIENT_RETRY_AFTER = 5.0

_A_FILE = "model_file_missing model_file_unreadable model_file_not_gguf model_file_truncated too_many_open_files"

BINARY = (
    _cause(
        "binary_not_found",
        "the binary `{path}` does not exist",
        "give `binary` an absolute path, or build llama.cpp there",
        r"setpriv: failed to execute (?P<path>.+): No such file or directory",
        kinds=(56,),
    ),
    _cause(
        "binary_is_directory",
        "the binary `{path}` is a directory",
        "name the program in it",
        kinds=(55,),
    ),
    _cause(
        "binary_not_executable",
        "the binary `{path}` cannot be executed ({detail})",
        "check its mode (`chmod +x`) and that its file system is not mounted noexec",
        r"setpriv: failed to execute (?P<path>.+): (?P<detail>Permission denied)",
        kinds=(55,),
    ),
    _cause(
        "binary_wrong_architecture",
        "the binary `{path}` is no program for this machine",
        "install a build for this processor and operating system",
        r"setpriv: failed to execute (?P<path>.+): Exec format error",
        kinds=(57,),
    ),
    _cause(
        "binary_interpreter_missing",
        "the binary `{path}` needs an interpreter or loader that is not there ({detail})",
        "install it, or a build made for this system",
        kinds=(56,),
    ),
    _cause(
        "binary_truncated",
        "the binary `{path}` is incomplete",
        "install it again",
        r"error while loading shared libraries: (?P<path>[^:]+): file too short",
        kinds=(59,),
    ),
    _cause(
        "binary_being_written",
        "the binary `{path}` is being written",
        "try again when the installation is done",
        r"setpriv: failed to execute (?P<path>.+): Text file busy",
        r"(?<!\S)(?P<path>\S+): Text file busy",
        permanent=False,
        kinds=(58,),
    ),
    _cause(
        "shared_library_missing",
        "the binary needs the shared library `{library}`, which cannot be loaded ({detail})",
        "install it, or set `env.LD_LIBRARY_PATH` of this model to its directory",
        r"error while loading shared libraries: (?P<library>[^:]+): (?P<detail>.+)",
        r"(?<!\S)(?P<library>\S+): version [`'](?P<detail>[^']+)' not found",
        kinds=(53,),
    ),
    _cause(
        "binary_does_not_run",
        "the binary `{path}` does not run",
        "run it by hand to see what it needs",
    ),
    _cause(
        "backend_incompatible",
        "a backend library does not fit this llama-server ({detail})",
        "install llama.cpp anew, binary and libraries from one build",
        r"(?P<detail>incompatible API version \(backend: \d+, current: \d+\))",
        r"(?P<detail>no backends are loaded)",
    ),
)

COMMAND_LINE = (
    _cause(
        "unknown_flag",
        "this llama-server has no option `{flag}`",
        "remove it, or spell it as this binary's `--help` does",
        r"error: invalid argument: (?P<flag>\S+)",
        kinds=(12,),
    ),
    _cause(
        "removed_flag",
        "this llama-server no longer has the option `{flag}`",
        "{detail}",
        r"error while handling argument \"(?P<flag>[^\"]+)\": the argument has been removed\. (?P<detail>.+)",
        kinds=(13,),
    ),
    _cause(
        "reserved_flag",
        "the option `{flag}` is set by the service itself",
        "remove it; `server.listen` and `transport` say who listens where",
    ),
    _cause(
        "missing_flag_value",
        "the option `{flag}` needs a value",
        "give it one, or remove it",
        r"error while handling argument \"(?P<flag>[^\"]+)\": expected value for argument",
        kinds=(15,),
    ),
    _cause(
        "device_missing",
        "a device it is to use is not on this machine ({detail})",
        "`llama-server --list-devices` shows what there is",
        r"(?P<detail>invalid device: \S+)",
        r"(?P<detail>invalid value for main_gpu: -?\d+)",
        r"(?P<detail>Invalid device index \d+ in GGML_VK_VISIBLE_DEVICES)",
        r"(?P<detail>LLAMA_SPLIT_MODE_TENSOR needs >= 1 devices)",
        kinds=(43, 45),
    ),
    _cause(
        "argument_file_missing",
        "the file `{path}` that `{flag}` names cannot be opened",
        "check the path",
        r"error while handling argument \"(?P<flag>[^\"]+)\": error: failed to open file '(?P<path>[^']*)'",
        r"error while handling argument \"(?P<flag>[^\"]+)\": not a directory: (?P<path>.+)",
        r"(?P<flag>static assets path) not found: (?P<path>.+)",
        kinds=(39, 50),
    ),
    _cause(
        "bad_json",
        "the JSON of the option `{flag}` cannot be read ({detail})",
        "write it in one pair of single quotes, with double quotes inside",
        r"error while handling argument \"(?P<flag>[^\"]+)\": \[json\.exception\.\S+ (?P<detail>.+)",
        kinds=(41,),
    ),
    _cause(
        "bad_flag_value",
        "the option `{flag}` has a value that this llama-server does not take ({detail})",
        "`llama-server --help` tells what it takes; n_seq_max is `parallel`, n_outputs follows from `ctx-size`",
        r"error while handling argument \"(?P<flag>[^\"]+)\": (?P<detail>.+)",
        r"error: unknown value for (?P<flag>--[\w-]+): (?P<detail>.+)",
        r"error: (?P<detail>invalid value) for (?P<flag>\w+)",
        r"(?P<flag>n_seq_max) (?P<detail>must be <= \d+)",
        r"GGML_ASSERT\((?P<flag>n_outputs) (?P<detail>>= 1)\) failed",
        kinds=(14, 33, 49),
    ),
    _cause(
        "bad_environment",
        "the environment variable `{name}` has a value that llama-server does not take ({detail})",
        "change it in `env` of this model",
        r"error while handling environment variable \"(?P<name>[^\"]+)\": (?P<detail>.+)",
        kinds=(16,),
    ),
    _cause(
        "user_config_invalid",
        "a llama.cpp config file of this machine spoils the start ({detail})",
        "mend or remove llama.cpp/config.ini in /etc or in the directory that `env.XDG_CONFIG_HOME` names",
        r"failed to parse server config file: (?P<detail>.+)",
        r"^(?P<detail>sto[ifdl]l?)$",
        kinds=(18,),
    ),
    _cause(
        "chat_template_invalid",
        "the chat template cannot be used ({detail})",
        "give another with `chat-template` or `chat-template-file`, or switch it off with `jinja = false`",
        r"error: the supplied chat template is not supported: (?P<detail>.{0,80})",
        r"(?P<detail>chat template parsing error:.*)",
        r"(?P<detail>failed to initialize chat template)",
        kinds=(37, 38),
    ),
    _cause(
        "grammar_invalid",
        "the grammar cannot be read ({detail})",
        "mend `grammar` or `grammar-file`",
        r"parse: error parsing grammar: (?P<detail>.*)",
        r"(?P<detail>failed to parse grammar)",
        kinds=(40,),
    ),
    _cause(
        "ssl_not_built_in",
        "this llama-server is built without TLS",
        "remove `ssl-key-file` and `ssl-cert-file`; a reverse proxy in front of this service can do TLS",
        r"the server is built without SSL support",
        kinds=(42,),
    ),
    _cause(
        "no_model_given",
        "the config names no model file",
        "set `model` to a GGUF file, or `hf-repo`",
        r"failed to initialize router models: (?P<detail>.+)",
        kinds=(62,),
    ),
    _cause(
        "download_failed",
        "the model could not be downloaded ({detail})",
        "download the file by hand and name it with `model`",
        r"(?P<detail>HTTPS is not supported)",
        r"(?P<detail>failed to resolve commit for \S+)",
        r"(?P<detail>required file is not available in cache \(offline mode\).*)",
        r"(?P<detail>exactly one out metadata, path_model, and file must be defined)",
        permanent=False,
        kinds=(47,),
    ),
)

FILES = (
    _cause(
        "model_file_missing",
        "the file `{path}` does not exist",
        "check the path, or download the file",
        r"failed to open GGUF file '(?P<path>[^']+)' \(No such file or directory\)",
        kinds=(1,),
    ),
    _cause(
        "too_many_open_files",
        "no more files may be opened",
        "raise the limit (`ulimit -n`, `LimitNOFILE=` of the systemd unit)",
        r"Too many open files",
        permanent=False,
        kinds=(3,),
    ),
    _cause(
        "model_file_unreadable",
        "the file `{path}` cannot be read ({detail})",
        "the user that runs this service needs read permission on the file and its directories",
        r"failed to open GGUF file '(?P<path>[^']+)' \((?P<detail>[^)]+)\)",
        kinds=(2,),
    ),
    _cause(
        "model_file_not_gguf",
        "the model file is no GGUF file (it begins with '{magic}')",
        "download it again: '<htm' is an error page, 'vers' a git-lfs pointer",
        r"invalid magic characters: '(?P<magic>.*?)', expected 'GGUF'",
        kinds=(4,),
    ),
    _cause(
        "model_file_truncated",
        "the model file is incomplete ({detail})",
        "download it again",
        r"(?P<detail>failed to read magic)",
        r"(?P<detail>failed to read (?:header|key-value pairs|tensor info))",
        r"(?P<detail>tensor '[^']+' data is not within the file bounds)",
        kinds=(5, 6, 7),
    ),
    _cause(
        "split_invalid",
        "the parts of the model do not fit together ({detail})",
        "name the part that ends in -00001-of-…, with all others beside it",
        r"(?P<detail>illegal split file idx: \d+)",
        r"(?P<detail>failed to load GGUF split from .+)",
        r"(?P<detail>invalid split file name.*)",
        outranks=_A_FILE,
        kinds=(11,),
    ),
    _cause(
        "unknown_architecture",
        "this llama-server does not know the architecture `{architecture}`",
        "a newer llama.cpp may; update the binary",
        r"(?:unknown|unsupported) model architecture: '(?P<architecture>[^']*)'",
        kinds=(8,),
    ),
    _cause(
        "not_a_main_model",
        "the model file is a projector or an adapter, not a language model",
        "name it with `mmproj` or `lora`, and the language model with `model`",
        r"CLIP cannot be used as main model",
        kinds=(10,),
    ),
    _cause(
        "model_file_invalid",
        "the model file does not hold what its architecture needs ({detail})",
        "it is badly converted, or made for another version of llama.cpp",
        r"(?P<detail>tensor '[^']+' (?:not found|has wrong shape.*))",
        r"(?P<detail>wrong number of tensors.*)",
        r"(?P<detail>key not found in model: .*)",
        kinds=(9, 10),
    ),
    _cause(
        "mmproj_failed",
        "the projector `{path}` could not be loaded",
        "check the path of `mmproj`, and that the file is the projector of this model",
        r"failed to load multimodal model, '(?P<path>[^']+)'",
        r"Failed to load CLIP model from (?P<path>\S+)",
        outranks=_A_FILE,
        kinds=(21, 22),
    ),
    _cause("mmproj_missing", "the projector file `{path}` does not exist", "check the path of `mmproj`", kinds=(21,)),
    _cause(
        "mmproj_unreadable",
        "the projector file `{path}` cannot be read",
        "the user that runs this service needs read permission on it",
    ),
    _cause(
        "mmproj_not_a_projector",
        "`{path}` is no projector",
        "`mmproj` needs the mmproj-….gguf of this model",
        kinds=(22,),
    ),
    _cause(
        "mmproj_mismatch",
        "the projector does not fit the model ({detail})",
        "use the mmproj file that was made for this model",
        r"(?P<detail>mismatch between text model \(n_embd = \d+\) and mmproj \(n_embd = \d+\))",
        outranks=f"{_A_FILE} mmproj_failed",
        kinds=(23,),
    ),
    _cause(
        "lora_failed",
        "the LoRA adapter could not be loaded ({detail})",
        "check the path of `lora`, and that it was made for this model",
        r"(?P<detail>model arch and LoRA arch mismatch.*)",
        r"(?P<detail>has incorrect shape \(hint: maybe wrong base model\?\).*)",
        r"(?P<detail>does not exist in base model.*)",
        r"(?P<detail>expect general\.type to be 'adapter'.*)",
        r"failed to open '[^']+': (?P<detail>.+)",
        r"(?P<detail>failed to load lora adapter.*)",
        outranks=_A_FILE,
        kinds=(24, 25),
    ),
    _cause(
        "draft_model_failed",
        "the draft model `{path}` could not be loaded",
        "check the path of `spec-draft-model`",
        r"failed to load draft model, '(?P<path>[^']+)'",
        outranks=_A_FILE,
        kinds=(26,),
    ),
    _cause(
        "no_mtp_layers",
        "the model has no multi-token-prediction layers, which `spec-type` asks for",
        "remove `draft-mtp` from `spec-type`",
        r"context type MTP requested but model doesn't contain MTP layers",
        r"failed to create MTP context",
        kinds=(29,),
    ),
    _cause("file_missing", "the file `{path}` does not exist", "check the path", kinds=(24, 26, 39)),
    _cause(
        "file_unreadable",
        "the file `{path}` cannot be read",
        "the user that runs this service needs read permission on it",
    ),
)

_OOM = (
    r"(?P<detail>cudaMalloc failed: out of memory)",
    r"(?P<detail>(?:CUDA|ROCm|MUSA) error: out of memory)",
    r"(?P<detail>ErrorOutOfDeviceMemory)",
    r"(?P<detail>Device memory allocation of size \d+ failed)",
    r"(?P<detail>Requested (?:buffer size exceeds device buffer size limit|preallocation size is too large))",
    r"(?P<detail>error: failed to allocate buffer, size = +[\d.]+ MiB)",
    r"(?P<detail>Insufficient Memory \(\w+:kIOGPUCommandBufferCallbackErrorOutOfMemory\))",
    r"(?P<detail>can't allocate \d+ Bytes of memory on device)",
    r"(?P<detail>unable to allocate (?!CPU)\w+ buffer)",
    r"(?P<detail>failed to allocate (?!CPU|compute)\w+\d+ buffer of size)",
)

MEMORY = (
    _cause(
        "out_of_device_memory",
        "the device has too little free memory ({detail})",
        "lower `ctx-size` or `n-gpu-layers`, quantise the KV cache, or free the device",
        *_OOM,
        permanent=False,
        kinds=(32,),
        serving=True,
    ),
    _cause(
        "out_of_memory",
        "there is too little memory ({detail})",
        "lower `ctx-size` or `parallel`, or quantise the KV cache",
        r"(?P<detail>insufficient memory \(attempted to allocate +[\d.]+ MB\))",
        r"(?P<detail>failed to allocate buffer for kv cache)",
        r"(?P<detail>failed to allocate CPU buffer of size \d+)",
        r"(?P<detail>failed to allocate compute (?:pp )?buffers)",
        r"(?P<detail>GGML_ASSERT\(ctx->mem_buffer != NULL\) failed)",
        r"(?P<detail>std::bad_alloc)",
        r"(?P<detail>mmap failed: Cannot allocate memory)",
        permanent=False,
        kinds=(30, 31, 33),
        serving=True,
    ),
    _cause(
        "wake_failed",
        "the model could not be loaded again after sleeping",
        "do not use `sleep-idle-seconds`; `ttl` ends the process and gives all its memory back",
        r"failed to reload model after sleeping",
        permanent=False,
        serving=True,
    ),
    _cause(
        "kv_cache_type_unusable",
        "the type of the KV cache does not work with this model ({detail})",
        "use `cache-type-k`/`cache-type-v` of f16, or switch `flash-attn` on",
        r"(?P<detail>quantized V cache requires flash_attn to be enabled)",
        r"(?P<detail>[KV] cache type \w+ with block size \d+ does not divide n_embd_head_[kv]=\d+)",
        kinds=(35, 36),
    ),
)

DEVICES = (
    _cause(
        "gpu_required",
        "`require_gpu` is set and llama-server sees no GPU",
        "`llama-server --list-devices` shows what it sees; check driver, permissions and build",
        kinds=(44,),
    ),
    _cause(
        "gpu_driver",
        "the GPU driver does not work with this build ({detail})",
        "update the driver, or use a build for the one that is installed",
        r"(?P<detail>no kernel image is available for execution on the device)",
        r"(?P<detail>device kernel image is invalid)",
        r"(?P<detail>CUDA kernel \S+ has no device code compatible with CUDA arch \d+)",
        r"(?P<detail>Vulkan 1\.2 required)",
        r"(?P<detail>(?:device \S+ )?does not support 16-bit storage)",
        r"(?P<detail>(?:shader module|compute pipeline) creation failed for \S+)",
        r"(?P<detail>failed to initialize the Metal library)",
        serving=True,
    ),
    _cause(
        "gpu_error",
        "the GPU failed ({detail})",
        "if it happens again, look at the kernel log (`dmesg`) for the driver's words",
        r"(?P<detail>(?:CUDA|ROCm|MUSA) error: .+)",
        r"(?P<detail>device lost on .+)",
        r"(?P<detail>command buffer \d+ failed with status \d+)",
        r"(?P<detail>backend is in error state from a previous command buffer failure)",
        permanent=False,
        serving=True,
    ),
    _cause(
        "rpc_unreachable",
        "the RPC server cannot be used ({detail})",
        "check that `ggml-rpc-server` of the same build runs there, and the address in `rpc`",
        r"(?P<detail>Failed to connect to \S+)",
        r"(?P<detail>Cannot resolve host '[^']+')",
        r"(?P<detail>Remote RPC server crashed or returned malformed response)",
        r"(?P<detail>RPC server version mismatch)",
        r"(?P<detail>RPC handshake failed for \S+)",
        permanent=False,
        kinds=(46,),
        serving=True,
    ),
)

SYSTEM = (
    _cause(
        "listen_address_taken",
        "the child could not listen on {host} port {port}",
        "another program holds that address, or it is not one of this machine's",
        r"couldn't bind HTTP server socket, hostname: (?P<host>[^,]+), port: (?P<port>\d+)",
        permanent=False,
        kinds=(19, 20),
    ),
    _cause(
        "socket_path_too_long",
        "the path of the child's socket is too long for the system (`{path}`)",
        'set `RUNTIME_DIRECTORY` to a shorter one, or `transport = "tcp"`',
    ),
    _cause(
        "too_many_processes",
        "the system allows no more processes or threads",
        "raise the limit (`ulimit -u`, `TasksMax=` of the systemd unit), or `ulimit -v`: each thread needs a stack",
        r"Resource temporarily unavailable",
        permanent=False,
        kinds=(52,),
        serving=True,
    ),
)

CATALOGUE: tuple[Cause, ...] = (*BINARY, *COMMAND_LINE, *FILES, *MEMORY, *DEVICES, *SYSTEM)

# Ends that speak for themselves.

LOAD_TIMEOUT = Cause(
    "load_timeout",
    "it showed no sign of life for {seconds:g} s while loading",
    "raise `load_timeout`, or look at `llama-supervise logs` for where it hung",
    permanent=False,
)
LOAD_TOO_LONG = Cause(
    "load_too_long",
    "it was not ready after {seconds:g} s of loading",
    "raise `load_limit` if it really needs that long",
    permanent=False,
)
CHECK_ENDPOINT_WRONG = Cause(
    "check_endpoint_wrong",
    "it answers `GET {path}` with status {status}, so it never becomes ready",
    "set `check_endpoint` to a path that answers 200 once it serves, or to `none`",
)
STALLED = Cause(
    "stalled",
    "it owed an answer, but sent no byte and did no work for {seconds:g} s",
    "it was replaced; if that happens again, report it to llama.cpp with the log",
    permanent=False,
    serving=True,
)
OOM_KILLED = Cause(
    "oom_killed",
    "the kernel killed it because memory ran out",
    "lower `ctx-size`, choose a smaller quantisation, or give the service more memory",
    permanent=False,
    kinds=(60,),
    serving=True,
)
ILLEGAL_INSTRUCTION = Cause(
    "illegal_instruction",
    "it was killed by SIGILL: the binary uses instructions that this processor does not have",
    "use a build for this processor: compile llama.cpp on this machine, or take one of its releases, which carry "
    "code for many and choose when they start; `binary` names it",
    kinds=(60,),
    serving=True,
)
MODEL_FILE_CHANGED = Cause(
    "bus_error",
    "it was killed by SIGBUS: usually a model file was changed or cut while it was in use",
    "never write to a model file in place; download beside it and rename",
    permanent=False,
    kinds=(61,),
    serving=True,
)
KILLED = Cause(
    "killed_by_signal",
    "it was killed by {signal}",
    "somebody sent that signal, or llama-server crashed; if it happens again, report it to llama.cpp with the log",
    permanent=False,
    kinds=(60, 63),
    serving=True,
)
UNKNOWN = Cause(
    "unknown",
    "it exited with code {code} and gave no reason we know",
    "its last lines are in `stderr_tail`; `llama-supervise logs` has more",
    permanent=False,
    serving=True,
)
HOOK_FAILED = Cause(
    "hook_failed",
    "its hook `{hook}` failed: {detail}",
    "what it printed is in the model's log; without `hooks.required` it would be a warning",
    permanent=False,
)
INTERNAL = Cause(
    "internal_error",
    "the supervisor itself failed ({detail})",
    "please report this with the service's log",
    permanent=False,
    serving=True,
)

ENDS: tuple[Cause, ...] = (
    LOAD_TIMEOUT,
    LOAD_TOO_LONG,
    CHECK_ENDPOINT_WRONG,
    STALLED,
    OOM_KILLED,
    ILLEGAL_INSTRUCTION,
    MODEL_FILE_CHANGED,
    KILLED,
    UNKNOWN,
    HOOK_FAILED,
    INTERNAL,
)

CAUSES: dict[str, Cause] = {cause.code: cause for cause in (*CATALOGUE, *ENDS)}
