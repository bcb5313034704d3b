"""llama-server options worth offering while one types: names and a line each.

Offering is all they are for: which options a binary really has, only its `--help` can tell. The sampling options
also have the names that requests use for the same thing.
"""

from __future__ import annotations

from typing import NamedTuple


class Sampling(NamedTuple):
    """A sampling option: the field of a request that means the same, and what it does."""

    field: str
    description: str


SAMPLING = {
    "temp": Sampling("temperature", "How freely the next token is chosen; 0 always takes the likeliest."),
    "top-k": Sampling("top_k", "Only the k likeliest tokens are considered; 0 considers all."),
    "top-p": Sampling("top_p", "Only the likeliest tokens that together reach this probability; 1.0 considers all."),
    "min-p": Sampling("min_p", "Only tokens at least this likely relative to the best one; 0.0 considers all."),
    "top-n-sigma": Sampling("top_n_sigma", "Only tokens within n standard deviations of the best one; -1 is off."),
    "typical-p": Sampling("typical_p", "Locally typical sampling; 1.0 is off."),
    "xtc-probability": Sampling("xtc_probability", "How often the likeliest tokens are excluded; 0.0 is off."),
    "xtc-threshold": Sampling("xtc_threshold", "Tokens likelier than this may be excluded by XTC."),
    "repeat-penalty": Sampling("repeat_penalty", "Makes repeated tokens less likely; 1.0 is off."),
    "repeat-last-n": Sampling("repeat_last_n", "How many of the last tokens count as repeated."),
    "presence-penalty": Sampling("presence_penalty", "Makes tokens that occurred before less likely; 0.0 is off."),
    "frequency-penalty": Sampling("frequency_penalty", "The same, the more often they occurred; 0.0 is off."),
    "dry-multiplier": Sampling("dry_multiplier", "Strength of the DRY penalty on repeated sequences; 0.0 is off."),
    "dry-base": Sampling("dry_base", "How fast the DRY penalty grows with the length of a repetition."),
    "dry-allowed-length": Sampling("dry_allowed_length", "Repetitions up to this length go unpunished."),
    "dry-penalty-last-n": Sampling("dry_penalty_last_n", "How many of the last tokens DRY looks at."),
    "dry-sequence-breaker": Sampling("dry_sequence_breakers", "Text across which DRY sees no repetition."),
    "dynatemp-range": Sampling("dynatemp_range", "Range of the dynamic temperature; 0.0 is off."),
    "dynatemp-exp": Sampling("dynatemp_exponent", "Exponent of the dynamic temperature."),
    "adaptive-target": Sampling("adaptive_target", "Prefer tokens near this probability; negative is off."),
    "adaptive-decay": Sampling("adaptive_decay", "How slowly the adaptive target changes."),
    "mirostat": Sampling("mirostat", "Mirostat sampling: 0 is off, 1 and 2 are its versions."),
    "mirostat-lr": Sampling("mirostat_eta", "Mirostat's learning rate."),
    "mirostat-ent": Sampling("mirostat_tau", "Mirostat's target entropy."),
    "samplers": Sampling("samplers", "The samplers in their order, separated by `;`."),
    "seed": Sampling("seed", "A fixed seed makes answers repeatable; -1 is random."),
    "predict": Sampling("max_tokens", "Tokens an answer may have; -1 sets no limit."),
    "ignore-eos": Sampling("ignore_eos", "Go on after the model says it is done."),
}

OTHER_NAMES = {
    "temperature": "temp",
    "typical": "typical-p",
    "top-nsigma": "top-n-sigma",
    "n-predict": "predict",
}
"""Second names of the same options."""

OPTIONS = {
    "model": "The GGUF file; a relative path starts from the directory of this file.",
    "hf-repo": "A Hugging Face repository to download the model from, such as `ggml-org/gemma-3-4b-it-GGUF:Q4_K_M`.",
    "hf-file": "One file of that repository.",
    "mmproj": "The projector file that gives the model eyes or ears.",
    "mmproj-offload": "Whether the projector runs on the GPU.",
    "ctx-size": "Tokens of context, shared by all parallel requests; 0 takes what the model was trained with.",
    "parallel": "Requests the child works on at the same time, each with its part of the context.",
    "n-predict": "Tokens an answer may have; -1 sets no limit.",
    "n-gpu-layers": "Layers kept in GPU memory; a number, `auto` or `all`.",
    "cpu-moe": "Keep all experts of a mixture-of-experts model in main memory.",
    "n-cpu-moe": "Keep the experts of the first N layers in main memory.",
    "device": "GPUs to use, separated by commas; `none` uses no GPU.",
    "main-gpu": "The GPU to use where only one is used.",
    "split-mode": "How a model is split over several GPUs: none, layer, row.",
    "tensor-split": "The share of each GPU, such as `3,1`.",
    "override-tensor": "Where single tensors go, as `PATTERN=BUFFER`.",
    "fit": "Whether llama-server adapts what you left open to the memory there is: on, off.",
    "fit-target": "Memory in MiB that fitting leaves free on each GPU.",
    "flash-attn": "Flash attention: on, off, auto.",
    "cache-type-k": "Type of the cached keys: f16, q8_0, q4_0, …; smaller types need less memory.",
    "cache-type-v": "Type of the cached values; types other than f16 need flash attention.",
    "kv-offload": "Whether the context's cache is in GPU memory.",
    "swa-full": "Keep a full-size cache for models with sliding-window attention.",
    "cache-ram": "MiB of main memory for caching prompts.",
    "cache-reuse": "Smallest chunk of a prompt to reuse from the cache by shifting it.",
    "batch-size": "Tokens of a prompt taken up at a time.",
    "ubatch-size": "Tokens computed at a time; more is faster and needs more memory.",
    "threads": "CPU threads while generating.",
    "threads-batch": "CPU threads while reading the prompt.",
    "load-mode": "How the file is read: auto, mmap, mlock, …",
    "numa": "Optimisation for several memory nodes: distribute, isolate, numactl.",
    "jinja": "Use the model's own chat template; needed for tools.",
    "chat-template": "A built-in chat template in place of the model's own.",
    "chat-template-file": "A file with the chat template to use.",
    "chat-template-kwargs": "JSON given to the chat template.",
    "reasoning-format": "Where a model's thinking goes: none, deepseek, auto.",
    "reasoning-budget": "Tokens of thinking: -1 sets no limit, 0 switches it off.",
    "embedding": "Serve embeddings only.",
    "pooling": "How embeddings are pooled: none, mean, cls, last, rank.",
    "reranking": "Serve the reranking endpoint.",
    "model-draft": "A small model that drafts tokens for this one to check (speculative decoding).",
    "n-gpu-layers-draft": "Layers of the draft model kept in GPU memory.",
    "spec-type": "How tokens are drafted, with or without a draft model.",
    "spec-draft-n-max": "Most tokens drafted at a time.",
    "lora": "A LoRA adapter, or a list of them.",
    "rope-scaling": "How the context is stretched: none, linear, yarn.",
    "rope-scale": "By how much the context is stretched.",
    "verbosity": "How much the child logs.",
}
