"""What children say when they end, and what each of it means: the words of the hardware and builds we do not have.

Every pattern of the catalogue and every sign of a warning is matched by at least one line here.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """Last words, how it ended, and the verdict they must get."""

    code: str
    lines: tuple[str, ...]
    end: int | str = 1
    """The exit code, or the name of a signal."""
    permanent: bool = True
    also_serving: bool = False
    """Whether a child that has been serving may say so too."""
    message: str = ""
    """Part of what the owner reads."""

    def __str__(self) -> str:
        return f"{self.code}: {self.lines[0][:50] if self.lines else self.end}"

    @property
    def returncode(self) -> int:
        return self.end if isinstance(self.end, int) else -signal.Signals[self.end]


def lasting(code: str, *lines: str, message: str = "", serving: bool = False, end: int | str = 1) -> Sample:
    return Sample(code, lines, end, permanent=True, also_serving=serving, message=message)


def passing(code: str, *lines: str, message: str = "", serving: bool = False, end: int | str = 1) -> Sample:
    return Sample(code, lines, end, permanent=False, also_serving=serving, message=message)


BINARY = (
    lasting("binary_not_found", "setpriv: failed to execute /a b/x: No such file or directory", message="`/a b/x`"),
    lasting("binary_not_executable", "setpriv: failed to execute /a b/x: Permission denied", message="`/a b/x`"),
    lasting("binary_wrong_architecture", "setpriv: failed to execute /a b/x: Exec format error", message="`/a b/x`"),
    passing("binary_being_written", "setpriv: failed to execute /a b/x: Text file busy", message="`/a b/x`"),
    passing("binary_being_written", "/opt/llama-server: Text file busy", message="`/opt/llama-server`"),
    lasting(
        "binary_truncated",
        "llama-server: error while loading shared libraries: /opt/libggml.so: file too short",
        message="`/opt/libggml.so`",
        end=127,
    ),
    lasting(
        "shared_library_missing",
        "llama-server: error while loading shared libraries: libcudart.so.12: cannot open shared object file: "
        "No such file or directory",
        message="`libcudart.so.12`",
        end=127,
    ),
    lasting(
        "shared_library_missing",
        "/lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /opt/llama-server)",
        message="GLIBC_2.38",
    ),
    lasting("backend_incompatible", "ggml_backend_load: incompatible API version (backend: 2, current: 1)"),
    lasting("backend_incompatible", "no backends are loaded. hint: use ggml_backend_load() to load a backend"),
)

COMMAND_LINE = (
    lasting("unknown_flag", "error: invalid argument: --frobnicate", message="`--frobnicate`"),
    lasting(
        "removed_flag",
        'error while handling argument "--draft-max": the argument has been removed. use --spec-draft-n-max',
        message="`--draft-max`",
    ),
    lasting("missing_flag_value", 'error while handling argument "-c": expected value for argument', message="`-c`"),
    lasting("device_missing", 'error while handling argument "--device": invalid device: CUDA0', message="CUDA0"),
    lasting(
        "device_missing",
        "llama_prepare_model_devices: invalid value for main_gpu: 7 (available devices: 2)",
        message="main_gpu: 7",
    ),
    lasting(
        "device_missing",
        "ggml_vulkan: Invalid device index 5 in GGML_VK_VISIBLE_DEVICES.",
        message="index 5",
        end="SIGABRT",
    ),
    lasting("device_missing", "llama_prepare_model_devices: LLAMA_SPLIT_MODE_TENSOR needs >= 1 devices"),
    lasting(
        "argument_file_missing",
        "error while handling argument \"--grammar-file\": error: failed to open file '/nope'",
        message="`/nope`",
    ),
    lasting(
        "argument_file_missing",
        'error while handling argument "--slot-save-path": not a directory: /nope',
        message="`/nope`",
    ),
    lasting("argument_file_missing", "0.00.001 E srv init: static assets path not found: /nope", message="`/nope`"),
    lasting(
        "bad_json",
        'error while handling argument "--json-schema": [json.exception.parse_error.101] parse error at line 1',
        message="`--json-schema`",
    ),
    lasting("bad_flag_value", 'error while handling argument "-c": stoi', message="`-c`"),
    lasting("bad_flag_value", "error: unknown value for --flash-attn: 'maybe'", message="`--flash-attn`"),
    lasting("bad_flag_value", "error: invalid value for n_parallel", message="n_parallel"),
    lasting("bad_flag_value", "E llama_init_from_model: n_seq_max must be <= 256", message="(must be <= 256)"),
    lasting(
        "bad_flag_value", "llama-context.cpp:2397: GGML_ASSERT(n_outputs >= 1) failed", end="SIGABRT", message="(>= 1)"
    ),
    lasting(
        "bad_environment",
        'error while handling environment variable "LLAMA_ARG_CTX_SIZE": stoi',
        message="`LLAMA_ARG_CTX_SIZE`",
    ),
    lasting("user_config_invalid", "failed to parse server config file: /etc/llama.cpp/config.ini", message="/etc/"),
    lasting("user_config_invalid", "stoi"),
    lasting(
        "chat_template_invalid", "error: the supplied chat template is not supported: nonsense", message="nonsense"
    ),
    lasting("chat_template_invalid", "0.00.960 E srv init: init: chat template parsing error: std::exception"),
    lasting("chat_template_invalid", "0.00.960 E common_chat_templates_init: failed to initialize chat template"),
    lasting("grammar_invalid", "parse: error parsing grammar: expecting ')' at", end="SIGABRT", message="expecting"),
    lasting("grammar_invalid", "  what():  failed to parse grammar", end="SIGABRT"),
    lasting("ssl_not_built_in", "0.00.002 E srv init: the server is built without SSL support"),
    lasting(
        "no_model_given",
        "0.00.004 E srv llama_server: failed to initialize router models: preset file does not exist: /nope.ini",
    ),
    passing("download_failed", "get_repo_commit: error: HTTPS is not supported. Please rebuild with one of:"),
    passing("download_failed", "get_repo_files: failed to resolve commit for foo/bar", message="foo/bar"),
    passing("download_failed", "error: required file is not available in cache (offline mode): /c/x.gguf"),
    passing("download_failed", "E llama_model_load: exactly one out metadata, path_model, and file must be defined"),
)

MISSING = "gguf_init_from_file: failed to open GGUF file '/m/x.gguf' (No such file or directory)"
FILES = (
    lasting("model_file_missing", MISSING, "llama_model_load: failed to load model", message="`/m/x.gguf`"),
    passing("too_many_open_files", "gguf_init_from_file: failed to open GGUF file '/m/x.gguf' (Too many open files)"),
    passing("too_many_open_files", "ggml_backend_reg: cannot open: Too many open files"),
    lasting(
        "model_file_unreadable",
        "gguf_init_from_file: failed to open GGUF file '/m/x.gguf' (Permission denied)",
        message="`/m/x.gguf` cannot be read (Permission denied)",
    ),
    lasting(
        "model_file_not_gguf",
        "gguf_init_from_reader: invalid magic characters: '<htm', expected 'GGUF'",
        message="'<htm'",
    ),
    lasting("model_file_truncated", "gguf_init_from_reader: failed to read magic"),
    lasting("model_file_truncated", "gguf_init_from_reader: failed to read tensor info", message="tensor info"),
    lasting(
        "model_file_truncated",
        "error loading model: tensor 'token_embd.weight' data is not within the file bounds, model is corrupted",
        message="token_embd.weight",
    ),
    lasting("split_invalid", "error loading model: illegal split file idx: 1 (file: x), model must be loaded with"),
    lasting(
        "split_invalid",
        "gguf_init_from_file: failed to open GGUF file '/m/x-00002-of-00002.gguf' (No such file or directory)",
        "llama_model_loader: failed to load GGUF split from /m/x-00002-of-00002.gguf",
        message="x-00002-of-00002.gguf",
    ),
    lasting("split_invalid", "error loading model: invalid split file name: /m/renamed.gguf", message="renamed.gguf"),
    lasting(
        "unknown_architecture",
        "error loading model: unknown model architecture: 'superllama9000'",
        message="`superllama9000`",
    ),
    lasting("unknown_architecture", "unsupported model architecture: 'superllama9000'", message="`superllama9000`"),
    lasting("not_a_main_model", "error loading model: CLIP cannot be used as main model, use it with --mmproj instead"),
    lasting("model_file_invalid", "check_tensor_dims: tensor 'blk.1.ffn_up.weight' not found", message="ffn_up"),
    lasting("model_file_invalid", "done_getting_tensors: wrong number of tensors; expected 21, got 12", message="21"),
    lasting("model_file_invalid", "key not found in model: llama.context_length", message="llama.context_length"),
    lasting(
        "mmproj_failed",
        MISSING.replace("x.gguf", "mm.gguf"),
        "mtmd_get_memory_usage: error: Failed to load CLIP model from /m/mm.gguf",
        "srv load_model: failed to load multimodal model, '/m/mm.gguf'",
        message="`/m/mm.gguf`",
    ),
    lasting("mmproj_failed", "srv load_model: failed to load multimodal model, '/m/m m.gguf'", message="`/m/m m.gguf`"),
    lasting(
        "mmproj_mismatch",
        "mtmd_get_memory_usage: error: Failed to load CLIP model from /m/mm.gguf",
        "mtmd_init: error: mismatch between text model (n_embd = 64) and mmproj (n_embd = 128)",
        message="n_embd = 128",
    ),
    lasting(
        "mmproj_mismatch",
        MISSING,
        "mtmd_init: error: mismatch between text model (n_embd = 64) and mmproj (n_embd = 128)",
    ),
    lasting("lora_failed", "failed to apply lora adapter: model arch and LoRA arch mismatch", message="arch mismatch"),
    lasting(
        "lora_failed",
        "tensor 'blk.0.attn_q.weight' has incorrect shape (hint: maybe wrong base model?)",
        message="incorrect shape",
    ),
    lasting(
        "lora_failed",
        "LoRA tensor 'blk.9.x' does not exist in base model (hint: maybe wrong base model?)",
        message="does not exist in base model",
    ),
    lasting("lora_failed", "expect general.type to be 'adapter', but got: model", message="but got: model"),
    lasting("lora_failed", "llama_adapter_lora_init: failed to open '/m/l.gguf': No such file or directory"),
    lasting("lora_failed", MISSING, "failed to load lora adapter file from /m/x.gguf", message="lora adapter file"),
    lasting("draft_model_failed", MISSING, "srv load_model: failed to load draft model, '/m/x.gguf'"),
    lasting(
        "no_mtp_layers", "W llama_init_from_model: context type MTP requested but model doesn't contain MTP layers"
    ),
    lasting("no_mtp_layers", "E srv load_model: failed to create MTP context"),
)

ALLOCATING = "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9000.00 MiB on device 0: "
MEMORY = (
    *(
        passing("out_of_device_memory", line, serving=True, end=end, message=part)
        for line, part, end in (
            (f"{ALLOCATING}cudaMalloc failed: out of memory", "cudaMalloc failed", 1),
            ("CUDA error: out of memory", "CUDA error", "SIGABRT"),
            ("ROCm error: out of memory", "ROCm error", "SIGABRT"),
            ("MUSA error: out of memory", "MUSA error", "SIGABRT"),
            ("ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "ErrorOutOfDeviceMemory", 1),
            ("ggml_vulkan: Device memory allocation of size 9000000000 failed.", "9000000000", 1),
            ("ggml_vulkan: Requested buffer size exceeds device buffer size limit: x", "size limit", 1),
            ("ggml_vulkan: Error: Requested preallocation size is too large", "preallocation", "SIGABRT"),
            ("ggml_metal_buffer_init: error: failed to allocate buffer, size =  9000.00 MiB", "9000.00 MiB", 1),
            (
                "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
                "Insufficient Memory",
                1,
            ),
            ("ggml_sycl: can't allocate 9000000000 Bytes of memory on device", "9000000000", 1),
            ("llama_model_load: error loading model: unable to allocate CUDA0 buffer", "CUDA0", 1),
            ("ggml_gallocr_reserve_n_impl: failed to allocate Vulkan0 buffer of size 9000000000", "Vulkan0", 1),
        )
    ),
    *(
        passing("out_of_memory", line, serving=True, message=part)
        for line, part in (
            ("ggml_aligned_malloc: insufficient memory (attempted to allocate 126953.12 MB)", "126953.12 MB"),
            ("llama_init_from_model: failed to initialize: failed to allocate buffer for kv cache", "kv cache"),
            ("ggml_backend_buft_alloc_buffer: failed to allocate CPU buffer of size 2048000000", "2048000000"),
            ("graph_reserve: failed to allocate compute buffers", "compute buffers"),
            ("llama_init_from_model: failed to allocate compute pp buffers", "compute pp buffers"),
            ("ggml.c:1644: GGML_ASSERT(ctx->mem_buffer != NULL) failed", "mem_buffer"),
            ("error loading model: std::bad_alloc", "bad_alloc"),
            ("error loading model: mmap failed: Cannot allocate memory", "mmap failed"),
        )
    ),
    passing("wake_failed", "server.cpp:1: failed to reload model after sleeping", serving=True, end="SIGABRT"),
    lasting("kv_cache_type_unusable", "llama_init_from_model: quantized V cache requires flash_attn to be enabled"),
    lasting(
        "kv_cache_type_unusable",
        "K cache type q8_0 with block size 32 does not divide n_embd_head_k=16",
        message="n_embd_head_k=16",
    ),
)

DEVICES = (
    *(
        lasting("gpu_driver", line, serving=True, end=end, message=part)
        for line, part, end in (
            ("CUDA error: no kernel image is available for execution on the device", "no kernel image", "SIGABRT"),
            ("CUDA error: device kernel image is invalid", "image is invalid", "SIGABRT"),
            (
                "ERROR: CUDA kernel mul_mat has no device code compatible with CUDA arch 520. ggml-cuda.cu was",
                "mul_mat",
                "SIGABRT",
            ),
            ("ggml_vulkan: Error: Vulkan 1.2 required.", "Vulkan 1.2", "SIGABRT"),
            ("ggml_vulkan: device Vulkan0 does not support 16-bit storage.", "16-bit storage", 1),
            ("ggml_vulkan: shader module creation failed for mul_mat", "mul_mat", 1),
            ("ggml_vulkan: compute pipeline creation failed for mul_mat", "mul_mat", 1),
            ("ggml_metal_init: error: failed to initialize the Metal library", "Metal library", 1),
        )
    ),
    *(
        passing("gpu_error", line, serving=True, end=end, message=part)
        for line, part, end in (
            ("CUDA error: an illegal memory access was encountered", "illegal memory access", "SIGABRT"),
            ("ROCm error: unspecified launch failure", "unspecified launch failure", "SIGABRT"),
            ("ggml_vulkan: device lost on Vulkan0", "device lost", "SIGABRT"),
            ("ggml_metal_synchronize: error: command buffer 0 failed with status 5", "status 5", 1),
            (
                "error: backend is in error state from a previous command buffer failure - recreate the backend",
                "error state",
                1,
            ),
        )
    ),
    *(
        passing("rpc_unreachable", line, serving=True, end="SIGABRT", message=part)
        for line, part in (
            ("ggml-rpc.cpp:547: Failed to connect to 127.0.0.1:9189", "127.0.0.1:9189"),
            ("Cannot resolve host 'gpu-box'", "gpu-box"),
            ("ggml-rpc.cpp:600: Remote RPC server crashed or returned malformed response", "crashed"),
            ("RPC server version mismatch", "version mismatch"),
            ("RPC handshake failed for 10.0.0.2:50052", "10.0.0.2:50052"),
        )
    ),
)

SYSTEM = (
    passing(
        "listen_address_taken",
        "srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 9115",
        message="127.0.0.1 port 9115",
    ),
    passing(
        "too_many_processes",
        "terminate called after throwing an instance of 'std::system_error'",
        "  what():  Resource temporarily unavailable",
        serving=True,
        end="SIGABRT",
    ),
)

ENDS = (
    passing("unknown", "something nobody has heard of", serving=True, end=3, message="code 3"),
    passing("unknown", serving=True, end=0, message="code 0"),
    lasting("illegal_instruction", serving=True, end="SIGILL", message="SIGILL"),
    passing("bus_error", serving=True, end="SIGBUS", message="SIGBUS"),
    *(
        passing("killed_by_signal", serving=True, end=name, message=name)
        for name in ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGKILL", "SIGHUP", "SIGUSR1", "SIGQUIT", "SIGTERM")
    ),
)

# The first line that is known decides, whatever an unknown or a lesser one said before or after it.
ORDER = (
    lasting(
        "unknown_architecture",
        "0.00.004 W srv llama_server: -----------------",
        "0.00.005 E error loading model: unknown model architecture: 'x'",
        "0.00.006 E llama_model_load_from_file_impl: failed to load model",
        "0.00.007 E srv llama_server: exiting due to model loading error",
    ),
    passing(
        "out_of_device_memory",
        f"{ALLOCATING}cudaMalloc failed: out of memory",
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 9437184000",
        "graph_reserve: failed to allocate compute buffers",
        serving=True,
        message="cudaMalloc failed",
    ),
    lasting("model_file_missing", MISSING, "exactly one out metadata, path_model, and file must be defined"),
)

SAMPLES = (*BINARY, *COMMAND_LINE, *FILES, *MEMORY, *DEVICES, *SYSTEM, *ENDS, *ORDER)

WARNINGS = (
    (
        "environment_overridden",
        "warn: LLAMA_ARG_CTX_SIZE environment variable is set, but will be overwritten by command line argument -c",
        "LLAMA_ARG_CTX_SIZE",
    ),
    ("no_usable_gpu", "warning: no usable GPU found, --gpu-layers option will be ignored", "sees none"),
    (
        "gpu_not_initialised",
        "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version",
        "driver version is insufficient",
    ),
    (
        "gpu_not_initialised",
        "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected",
        "detected",
    ),
    ("gpu_not_initialised", "ggml_cuda_init: failed to initialize MUSA: unknown error", "unknown error"),
    (
        "draft_unused",
        "draft model vocab type must match target model to use speculation but vocab_type_dft = 2 while "
        "vocab_type_tgt = 1",
        "vocab_type_dft = 2",
    ),
    ("draft_unused", "common_speculative: the target and draft vocabs are not compatible", "vocabs are not compatible"),
    (
        "context_capped",
        "W srv load_model: the slot context (300032) exceeds the training context of the model (512) - capping",
        "300032",
    ),
    ("context_reduced", "common_fit_params: context size reduced from 131072 to 8192", "8192"),
    ("rpc_unreachable", "0.00.005 E Failed to connect to 127.0.0.1:9", "127.0.0.1:9"),
    ("unknown_sampler", "W common_sampler_types_from_names: unable to match sampler by name 'foo'", "`foo`"),
    ("mlock_refused", "W warning: failed to mlock 16715776-byte buffer (after previously locking 0 bytes)", "locked"),
    (
        "preload_ignored",
        "ERROR: ld.so: object '/x.so' from LD_PRELOAD cannot be preloaded (file too short): ignored.",
        "LD_PRELOAD",
    ),
)
"""Code, the line that says so, and part of what the owner reads."""

QUIET = (
    "0.00.001 I srv llama_server: listening on http://127.0.0.1:9101",
    "0.00.002 I ggml_cuda_init: found 1 CUDA devices (Total VRAM: 24000 MiB):",
    "0.00.003 W srv llama_server: security: no API key is set and CORS allows all origins",
    "0.00.004 I slot update_slots: id 0 | task 7 | prompt done, n_tokens = 20",
    "common_speculative_init: no implementations specified for speculative decoding",  # said of models without a draft
    "slot print_timing: id 0 | eval time = 10.00 ms / 4 tokens",
    "0.00.005 W llama_context: n_ctx_seq (4096) < n_ctx_train (8192) -- the full capacity will not be utilized",
)
"""Lines of a healthy child."""
