"""The page about failures says what the catalogue says."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from types import ModuleType

from supervisor.llama.causes import CAUSES
from supervisor.llama.warnings import SIGNS
from tests.conftest import ROOT


def document() -> str:
    loader = SourceFileLoader("failures_table", str(ROOT / "scripts" / "failures_table"))
    module = ModuleType("failures_table")
    vars(module)["__file__"] = loader.path
    loader.exec_module(module)
    text: str = module.document()
    return text


def test_the_page_is_up_to_date() -> None:
    """Run `scripts/failures_table` after a change of the catalogue."""
    assert (ROOT / "docs" / "failures.md").read_text() == document()


def test_the_page_is_complete() -> None:
    """Every cause and every warning has a row, and no template shows its braces."""
    text = document()

    assert [code for code in CAUSES if f"| `{code}`" not in text] == []
    assert [sign.code for sign in SIGNS if f"| `{sign.code}`" not in text] == []
    assert "{" not in text
