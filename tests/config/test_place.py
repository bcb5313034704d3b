"""Variables in strings, and names that may be taken once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.config.llama_swap.scalars import Key
from supervisor.config.place import Place, Sheet, expanded
from supervisor.config.problems import Mismatch

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain $HOME ${PORT}", "plain $HOME ${PORT}"),
        ("${env:A}", "1"),
        ("x${env:A}y${env:B}", "x1y${env:A}"),
        ("$${env:A}", "${env:A}"),
        ("$$${env:A}", "$${env:A}"),
        ("${env:EMPTY}", ""),
    ],
)
def test_variables_are_replaced_once(text: str, result: str) -> None:
    """`${env:X}` is the variable's value as it is, `$${env:X}` the text itself; nothing else is touched."""
    assert expanded(text, {"A": "1", "B": "${env:A}", "EMPTY": ""}) == result


def test_a_missing_variable_is_named() -> None:
    """A variable that is not set is a mismatch with its name, not an empty string."""
    with pytest.raises(Mismatch, match="the environment variable `TOKEN` to be set"):
        expanded("Bearer ${env:TOKEN}", {})


def test_nul_is_refused() -> None:
    """A string that no process could be given is refused where it is written."""
    with pytest.raises(Mismatch, match="NUL"):
        expanded("a\0b", {})


@pytest.mark.parametrize("name", ["", "a\nb", "\x7f", "x" * 257])
def test_names_that_make_no_sense(name: str) -> None:
    """A name is not empty, has no control characters and at most 256 characters."""
    with pytest.raises(Mismatch, match="a name"):
        Place({}, Sheet({})).take_name(name)


@pytest.mark.parametrize("name", ["qwen", "org/model:Q4_K_M", "größe 1", "x" * 256])
def test_names_that_do(name: str) -> None:
    """Slashes, colons, spaces and letters of any script are fine."""
    assert Place({}, Sheet({})).take_name(name) == name


def test_a_child_is_found_in_either_spelling_but_exactly_first() -> None:
    """`a_b` and `a-b` are two models; `ctx_size` and `ctx-size` are one option."""
    place = Place({"a-b": 1, "a_b": 2, "ctx_size": 3}, Sheet({}))

    assert place.at("a_b").written == place.child("a_b").written == 2
    assert place.at("ctx-size").path == "ctx_size"
    assert place.child("ctx-size").written == 3


def test_a_path_is_followed_as_far_as_it_goes() -> None:
    """What is wrong with something that is not there belongs to what it should be in."""
    place = Place({"a": [{"b": 1}]}, Sheet({}))

    assert place.at("a", 0, "b").path == "a[0].b"
    assert place.at("a", 1, "b").path == "a"
    assert place.at("c", "d") is place


def test_the_mark_of_a_key_is_the_one_in_the_text() -> None:
    """A path that says a key in its own words leads to where the file has it."""
    table = {"models": {Key("a", "line 2"): {}}}

    assert Place(table, Sheet({})).at("models", "a").mark == "line 2"
    assert Place(table, Sheet({})).child("models").child("a").mark == "line 2"


def test_a_key_that_is_there_is_found_without_a_search() -> None:
    """Reading ten thousand models does not take a look at each for each."""
    place = Place(Unsearchable({f"m{number}": {} for number in range(3)}), Sheet({}))

    assert place.at("m2").path == place.child("m2").path == "m2"


class Unsearchable(dict[str, object]):
    """A table in which keys can be looked up, but not gone through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("searched")
