"""Expressions over models: the tree, its errors, and what may be together."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.expressions import (
    Either,
    Expression,
    Included,
    Single,
    Together,
    covered,
    included,
    parsed,
)
from supervisor.config.problems import Mismatch

A, B, C = Single("a"), Single("b"), Single("c")


def tree(text: str) -> Expression:
    return parsed(text, lambda name: name if name not in {"x", ""} else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", A),
        (" a ", A),
        ("a&b", Together((A, B))),
        ("a | b", Either((A, B))),
        ("a & b | c", Either((Together((A, B)), C))),
        ("a | b & c", Either((A, Together((B, C))))),
        ("a & (b | c)", Together((A, Either((B, C))))),
        ("((a))", A),
        ("a & b & c", Together((A, B, C))),
        ("+s", Included("s")),
        ("a & +s", Together((A, Included("s")))),
        ("org/model:q4-k_m.gguf", Single("org/model:q4-k_m.gguf")),
        ("c++ | a", Either((Single("c++"), A))),
    ],
)
def test_and_binds_tighter_than_or(text: str, expected: Expression) -> None:
    """Brackets as in arithmetic; a name is anything without blanks and operators."""
    assert tree(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a model on both sides"),
        ("a &", "a model on both sides"),
        ("| a", "a model on both sides"),
        ("a | | b", "a model on both sides"),
        ("()", "a model on both sides"),
        ("(a", "brackets that are closed"),
        ("a)", "between models"),
        ("a b", "between models"),
        ("a & x", "models and vars that exist"),
        ("(" * 200 + "a" + ")" * 200, "brackets that are less deeply nested"),
    ],
)
def test_what_is_no_expression(text: str, expected: str) -> None:
    """The reason is said."""
    with pytest.raises(Mismatch, match=expected):
        tree(text)


def test_the_expressions_that_one_includes() -> None:
    """In the order they stand there."""
    assert list(included(tree("a & (+s | +t) & +s"))) == ["s", "t", "s"]


def test_what_may_be_together_is_found_without_listing_combinations() -> None:
    """Forty choices of two are a million millions of combinations."""
    text = " & ".join(f"(a{n} | b{n})" for n in range(40))
    sets = {"s": tree(text), "t": tree("+s & +s")}

    (found,) = covered(sets, frozenset({"a1", "b2", "a39"}))["t"]
    assert found == {"a1", "b2", "a39"}
    assert frozenset({"a1", "b1"}) not in covered(sets, frozenset({"a1", "b1"}))["s"]


def combinations(expression: Expression) -> set[frozenset[str]]:
    """All of them, the slow way."""
    match expression:
        case Single(model):
            return {frozenset({model})}
        case Either(parts):
            return {each for part in parts for each in combinations(part)}
        case Together(parts):
            return {frozenset().union(*each) for each in itertools.product(*map(combinations, parts))}
        case Included():
            raise AssertionError


TREES: st.SearchStrategy[Expression] = st.recursive(
    st.sampled_from("abcdef").map(Single),
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3)
        .map(tuple)
        .flatmap(lambda parts: st.sampled_from([Either(parts), Together(parts)]))
    ),
    max_leaves=10,
)


@given(TREES, st.frozensets(st.sampled_from("abcdef"), max_size=4))
def test_models_may_be_together_if_a_combination_has_them_all(expression: Expression, wanted: frozenset[str]) -> None:
    """The short way and the slow one agree."""
    slow = any(wanted <= each for each in combinations(expression))

    assert (wanted in covered({"s": expression}, wanted)["s"]) == slow
