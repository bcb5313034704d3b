"""What a llama-server was built to use, and what a processor has."""

from __future__ import annotations

import pytest

from supervisor.llama.processor import lacking

SAID = (
    "0.00.004.925 I cmn  common_param: system_info: n_threads = 2 (n_threads_batch = 2) / 2 | CUDA : ARCHS = 890 | "
    "F16 = 1 | CPU : SSE3 = 1 | AVX = 1 | AVX_VNNI = 1 | AVX2 = 0 | AMX_INT8 = 1 | LLAMAFILE = 1 | OPENMP = 1 | "
)
X86 = "processor\t: 0\nflags\t\t: fpu pni avx f16c\nbugs\t\t: x\n\nprocessor\t: 1\nflags\t\t: fpu pni\n"


def test_what_it_lacks() -> None:
    """Named as people know them; neither what is no instruction nor what was not built in counts."""
    assert lacking(["loading", SAID], X86) == ("AVX-VNNI", "AMX-INT8")
    assert lacking([SAID], X86.replace("f16c", "avx_vnni amx_int8")) == ()


def test_another_kind_of_processor() -> None:
    """ARM's are called features."""
    said = "system_info: n_threads = 4 | CPU : NEON = 1 | ARM_FMA = 1 | DOTPROD = 1 | SVE = 1 | REPACK = 1 |"

    assert lacking([said], "Features\t: fp asimd asimddp\n") == ("SVE",)


@pytest.mark.parametrize(("lines", "cpuinfo"), [([], X86), (["system_info: n_threads = 2"], X86), ([SAID], "")])
def test_nobody_says(lines: list[str], cpuinfo: str) -> None:
    """Without both sides nothing is held against a build."""
    assert lacking(lines, cpuinfo) == ()
