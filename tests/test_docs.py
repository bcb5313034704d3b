"""The generated documents say what the code does."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from types import ModuleType

from tests.conftest import ROOT


def test_the_keys_are_documented() -> None:
    """docs/config.md and docs/llama-swap.md are what `scripts/config_table` writes."""
    script = ModuleType("config_table")
    script.__file__ = str(ROOT / "scripts" / "config_table")
    SourceFileLoader("config_table", script.__file__).exec_module(script)

    assert (ROOT / "docs" / "config.md").read_text() == script.render()
    assert (ROOT / "docs" / "llama-swap.md").read_text() == script.render_llama_swap()
