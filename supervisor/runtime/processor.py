"""Why a child died of an instruction: which ones its binary was built for and the processor of this machine lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.llama.processor import lacking
from supervisor.llama.trial import said_of_processor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.llama.diagnosis import Diagnosis


async def with_lack(
    diagnosis: Diagnosis, binary: Path | None, env: Mapping[str, str], root: Path = Path("/")
) -> Diagnosis:
    """The diagnosis of a child of this binary; if an instruction has killed it, with the names of those it may be."""
    if diagnosis.cause != "illegal_instruction" or binary is None:
        return diagnosis
    try:
        cpuinfo = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return diagnosis
    *others, last = lacking(await said_of_processor(binary, env), cpuinfo) or ("",)
    if not last:
        return diagnosis
    names = f"{', '.join(others)} and {last}" if others else last
    return replace(diagnosis, message=f"it was killed by SIGILL: it was built for {names}, which this processor lacks")
