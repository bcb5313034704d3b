"""Problems: how they are worded and how values are shown."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from supervisor.config.problems import ConfigInvalid, Problem, nearest, path_of, shown


def test_a_problem_reads_path_expected_found_hint() -> None:
    """The wording is the one the style sheet gives as its example."""
    problem = Problem("models.qwen.ttl", 'a duration such as "30m"', '"soon"', "write a number and a unit")

    assert str(problem) == (
        'models.qwen.ttl: expected a duration such as "30m", found `"soon"`; hint: write a number and a unit'
    )


def test_a_problem_without_found_and_hint_is_one_clause() -> None:
    """What is not known is not mentioned."""
    assert str(Problem("config", "fewer digits")) == "config: expected fewer digits"


def test_config_invalid_lists_every_problem_and_its_source() -> None:
    """One exception says everything there is to change, and in which file."""
    invalid = ConfigInvalid([Problem("a", "x"), Problem("b", "y")], source=Path("models.toml"))

    assert str(invalid) == "models.toml: 2 problems\n  a: expected x\n  b: expected y"
    assert [problem.path for problem in invalid.problems] == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (3, "3"),
        (0.5, "0.5"),
        ("a\n", '"a\\n"'),
        ([1, "x"], '[1, "x"]'),
        ({"a b": 1}, '{ "a b" = 1 }'),
        (date(2026, 1, 2), "2026-01-02"),
        ([[[[1]]]], "[[[…]]]"),
    ],
)
def test_values_are_shown_as_toml(value: object, text: str) -> None:
    """People see what they wrote, not what Python makes of it."""
    assert shown(value) == text


def test_numbers_python_would_not_print_are_shown_too() -> None:
    """A number of 5000 digits does not make an error of its own."""
    assert shown([10**5000]) == "[a very large number]"


def test_long_values_are_shortened() -> None:
    """A value of any size takes at most 60 characters of a message."""
    assert shown("x" * 1000) == '"' + "x" * 58 + "…"
    assert len(shown(list(range(10_000)))) == 60


def test_keys_are_quoted_where_toml_would() -> None:
    """A path can be pasted into the file."""
    assert path_of("models", "gemma-3.1") == 'models."gemma-3.1"'
    assert path_of("models.a.aliases", 2) == "models.a.aliases[2]"


def test_the_nearest_name_is_close_or_none() -> None:
    """A guess is made only where it is likely."""
    assert nearest("max_lodaed", ["max_loaded", "listen"]) == "max_loaded"
    assert nearest("zzz", ["max_loaded", "listen"]) is None
