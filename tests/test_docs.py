"""The generated documents say what the code does."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from types import ModuleType

from supervisor.config.changes import AT_START, LAUNCH
from tests.conftest import ROOT


def test_the_keys_are_documented() -> None:
    """docs/config.md and docs/llama-swap.md are what `scripts/config_table` writes."""
    script = ModuleType("config_table")
    script.__file__ = str(ROOT / "scripts" / "config_table")
    SourceFileLoader("config_table", script.__file__).exec_module(script)

    assert (ROOT / "docs" / "config.md").read_text() == script.render()
    assert (ROOT / "docs" / "llama-swap.md").read_text() == script.render_llama_swap()


def test_what_a_reload_cannot_change_is_documented() -> None:
    """docs/reload.md names every key that needs another process or a restart, as one of the two formats spells it."""
    text = (ROOT / "docs" / "reload.md").read_text()
    process, restart = (
        text.partition("## What needs another process")[2].split("## The plan")[0].split("## What needs a")
    )
    shown = {"options": "every llama-server option", "port": "${PORT}", "host": "listen"}

    for key in LAUNCH:
        assert shown.get(key, f"`{key}`") in process
    for key in AT_START:
        first, *others = key.split("_")
        camel = first + "".join(word.capitalize() for word in others)
        assert any(f"`{name}`" in restart for name in (key, camel, shown.get(key))) or key == "port"
