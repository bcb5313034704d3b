"""Reading the file: everything that can be wrong with it is a `ConfigInvalid` that names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from supervisor.config.loader import load
from supervisor.config.problems import ConfigInvalid
from supervisor.config.toml import parse

EXAMPLE = Path(__file__).parents[2] / "models.toml"


def test_a_file_is_loaded_with_its_directory_as_base(tmp_path: Path) -> None:
    """Relative paths will start from the file, wherever the program was started."""
    path = tmp_path / "models.toml"
    path.write_text('[models.a]\nmodel = "a.gguf"\n')

    config = load(path, environ={})

    assert config.base == tmp_path
    assert config.models["a"].options == {"model": "a.gguf"}


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    """A file saved by an editor on Windows loads like any other."""
    path = tmp_path / "models.toml"
    path.write_bytes(b"\xef\xbb\xbf[models.a]\r\nctx-size = 1\r\n")

    assert load(path, environ={}).models["a"].options == {"ctx-size": 1}


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """A missing file and a directory are reported like any problem."""
    with pytest.raises(ConfigInvalid, match="expected a file that can be read") as raised:
        load(tmp_path / name, environ={})

    assert raised.value.source == tmp_path / name


def test_text_that_is_not_utf_8_is_shown_where_it_is(tmp_path: Path) -> None:
    """A file in another encoding is pointed at by line and column."""
    path = tmp_path / "models.toml"
    path.write_bytes(b'[models.a]\nname = "gr\xf6\xdfe"\n')

    with pytest.raises(ConfigInvalid) as raised:
        load(path, environ={})

    (problem,) = raised.value.problems
    assert str(problem).startswith("line 2, column 11: expected text in UTF-8, found `0xf6`")


def test_problems_of_the_text_carry_the_file(tmp_path: Path) -> None:
    """Whoever prints the exception says which file to open."""
    path = tmp_path / "models.toml"
    path.write_text("[servr]\n")

    with pytest.raises(ConfigInvalid) as raised:
        load(path, environ={})

    assert str(raised.value).startswith(f"{path}: 1 problem\n  servr: ")


def test_the_example_loads_and_works_for_the_demo() -> None:
    """The `models.toml` we ship has two entries of the demo model, an alias and a variant."""
    config = load(EXAMPLE, environ={})

    assert set(config.models) == {"gemma-3-270m", "gemma-3-270m-long"}
    assert {model.options["model"] for model in config.models.values()} == {"models/gemma-3-270m-q4_k_m.gguf"}
    assert config.default_model == "gemma-3-270m"
    assert config.models["gemma-3-270m"].aliases == ("gpt-4o-mini",)
    assert config.models["gemma-3-270m"].ttl == 1800
    assert config.models["gemma-3-270m"].sampling == {"temp": 1.0, "top-k": 64, "top-p": 0.95, "min-p": 0.0}
    assert list(config.models["gemma-3-270m"].variants) == ["gemma-3-270m-precise"]


def test_what_the_example_has_to_copy_from_works_too() -> None:
    """Taking away the `# ` in front of an example gives a valid config."""
    text = re.sub(r"(?m)^# (\[models\.|\[keys\.|[a-z_-]+ = )", r"\1", EXAMPLE.read_text("utf-8"))

    config = parse(text, base=Path("/"), environ={"HF_TOKEN": "t", "PHONE_KEY": "k"})

    assert len(config.models) == 8
    assert "mmproj" in config.models["gemma-3-4b"].options
    assert config.models["embeddings"].pinned
    assert config.models["whisper"].cmd[:3] == ("whisper-server", "--port", "${PORT}")
