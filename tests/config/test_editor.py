"""Writing the file: a person's comments and order stay, and what comes out is what was meant."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from supervisor.config.editor import render, set_model
from supervisor.config.problems import ConfigInvalid

EXAMPLE = (Path(__file__).parents[2] / "models.toml").read_text("utf-8")


def test_rendered_tables_have_headers_and_small_ones_a_line() -> None:
    """A config written by us looks like one written by a person."""
    text = render(
        {
            "server": {"max_loaded": 2},
            "models": {"a/b": {"ctx-size": 1, "sampling": {"temp": 0.5}, "variants": {"c": {"unlisted": True}}}},
        }
    )

    assert " ".join(text.split()) == (
        '[server] max_loaded = 2 [models."a/b"] ctx-size = 1 sampling = {temp = 0.5} '
        '[models."a/b".variants.c] unlisted = true'
    )


def test_a_changed_key_keeps_everything_else() -> None:
    """Only the line of the key changes; its comment and all others stay."""
    text = set_model(EXAMPLE, "gemma-3-270m", {"ttl": "1h"})

    changed = [(old, new) for old, new in zip(EXAMPLE.split("\n"), text.split("\n"), strict=True) if old != new]
    ((old, new),) = changed
    assert old == new.replace('"1h"', '"30m"')


def test_a_new_key_goes_to_its_model() -> None:
    """A key is added above the model's variants, not below them where it would be the variant's."""
    models = tomllib.loads(set_model(EXAMPLE, "gemma-3-270m", {"pinned": True, "sampling": {"seed": 1}}))["models"]

    assert models["gemma-3-270m"]["pinned"] is True
    assert models["gemma-3-270m"]["sampling"] == {"temp": 1.0, "top-k": 64, "top-p": 0.95, "min-p": 0.0, "seed": 1}
    assert models["gemma-3-270m"]["variants"] == tomllib.loads(EXAMPLE)["models"]["gemma-3-270m"]["variants"]


def test_none_removes_a_key() -> None:
    """A key can be taken back; the comments around it stay."""
    text = set_model(EXAMPLE, "gemma-3-270m", {"aliases": None})

    assert "aliases" not in tomllib.loads(text)["models"]["gemma-3-270m"]
    assert "# What the makers recommend." in text


@pytest.mark.parametrize("text", ["", "# mine\n", "[server]\nmax_loaded = 1", EXAMPLE])
def test_a_new_model_is_added_to_any_file(text: str) -> None:
    """A model is added after what is there, in an empty file too."""
    result = set_model(text, "new", {"model": "n.gguf", "env": {"A": "1"}})

    assert result.startswith(text.rstrip("\n"))
    assert tomllib.loads(result)["models"]["new"] == {"model": "n.gguf", "env": {"A": "1"}}


def test_a_key_keeps_its_spelling() -> None:
    """A file with `ctx_size` is not given a `ctx-size` beside it."""
    text = set_model("[models.a]\nctx_size = 1\n[models.a_b]\n", "a", {"ctx-size": 2})

    assert tomllib.loads(text)["models"] == {"a": {"ctx_size": 2}, "a_b": {}}


def test_tables_out_of_order_are_found() -> None:
    """Models may be scattered over the file."""
    text = set_model("[models.a]\nx = 1\n[server]\nmax_loaded = 1\n[models.b]\ny = 1\n", "b", {"y": 2})

    assert tomllib.loads(text) == {"models": {"a": {"x": 1}, "b": {"y": 2}}, "server": {"max_loaded": 1}}


@pytest.mark.parametrize("text", ["models = { a = { x = 1 } }", "[models]\na = { x = 1 }", "[models]\na.x = 1"])
def test_models_written_in_other_ways_are_found(text: str) -> None:
    """Inline tables and dotted keys are as good as headers."""
    text = set_model(set_model(text, "a", {"env": {"A": "1"}}), "b", {"y": 2})

    assert tomllib.loads(text) == {"models": {"a": {"x": 1, "env": {"A": "1"}}, "b": {"y": 2}}}


def test_an_edit_that_would_go_wrong_is_refused() -> None:
    """A file written in a way we cannot edit is left alone rather than damaged."""
    text = "models.a.x = 1\nmodels.a.env = { A = '1' }\n"

    with pytest.raises(ConfigInvalid, match=r"write \[models.NAME\]"):
        set_model(text, "b", {"y": 2})


def test_a_broken_file_is_left_alone() -> None:
    """A text that is no TOML is refused in our words."""
    with pytest.raises(ConfigInvalid, match="line 1, column 5"):
        set_model("a = ", "x", {})
