"""What a llama-server was built to use of a processor, as it says itself, and what of that a processor does not have.

Builds that carry code for many processors name only what they have chosen here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SYSTEM = re.compile(r"\bsystem_info: .*? \| CPU : (?P<features>.*)")
_IS_USED = re.compile(r"\b(?P<name>\w+) = 1\b")
_IN_CPUINFO = re.compile(r"^(?:flags|Features)\s*:\s*(?P<names>.*)", re.MULTILINE)

_FLAGS = {
    "SSE3": "pni",
    "SSSE3": "ssse3",
    "AVX": "avx",
    "AVX_VNNI": "avx_vnni",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "NEON": "asimd",
    "FP16_VA": "asimdhp",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
    "SME": "sme",
}
"""ggml's names of instructions by what Linux calls them in /proc/cpuinfo."""


def lacking(lines: Iterable[str], cpuinfo: str) -> tuple[str, ...]:
    """The instructions that a llama-server which prints these lines was built for, and this processor does not have.

    Where one of the two does not say what there is, nothing is lacking.
    """
    said = next((match["features"] for match in map(_SYSTEM.search, lines) if match), "")
    there = _IN_CPUINFO.search(cpuinfo)
    if there is None:
        return ()
    used = [match["name"] for match in _IS_USED.finditer(said)]
    names = there["names"].split()
    return tuple(name.replace("_", "-") for name in used if name in _FLAGS and _FLAGS[name] not in names)
