"""Who has to leave for whom: llama-swap's rules for groups (spec: llama-swap.md, 2.7) and for a matrix (2.8)."""

from __future__ import annotations

from itertools import combinations
from math import prod
from typing import TYPE_CHECKING

import pytest
from hypothesis import given as forall
from hypothesis import settings
from hypothesis import strategies as st

from supervisor.config.expressions import Either, Expression, Included, Single, Together
from supervisor.config.routing import DEFAULT_GROUP, Group, Groups, Matrix
from supervisor.fleet.constraints import evicted_by
from supervisor.fleet.matrix import Search, shared_models
from tests.fleet.scene import matrix_of

if TYPE_CHECKING:
    from collections.abc import Mapping

MODELS = "abcdef"

# Groups.


def groups_of(**groups: Group) -> Groups:
    return Groups({**groups, DEFAULT_GROUP: Group(("x", "y"))})


def leaving(routing: Groups | Matrix, target: str, running: str) -> str:
    """Models of one letter each, in order."""
    return "".join(sorted(evicted_by(routing, target, frozenset(running))))


def test_members_of_a_swapping_group_evict_each_other() -> None:
    """2.7: in a group that swaps, one at a time; in one that does not, all of them."""
    routing = groups_of(g=Group(("a", "b", "c")), h=Group(("d", "e"), swap=False))

    assert leaving(routing, "a", "bc") == "bc"
    assert leaving(routing, "d", "e") == ""


def test_exclusive_group_evicts_other_groups() -> None:
    """2.7: a member of an exclusive group evicts models of other groups, though not those of its own."""
    routing = groups_of(g=Group(("a", "b"), swap=False), h=Group(("d", "e"), swap=False))

    assert leaving(routing, "a", "bdex") == "dex"


def test_persistent_group_is_left_alone() -> None:
    """2.7: an exclusive group does not evict members of a persistent one, which may still swap among themselves."""
    routing = groups_of(g=Group(("a",)), h=Group(("d", "e"), persistent=True))

    assert leaving(routing, "a", "dx") == "x"
    assert leaving(routing, "d", "e") == "e"


def test_non_exclusive_group_evicts_no_other() -> None:
    """2.7: not even exclusive ones (a documented gotcha)."""
    routing = groups_of(g=Group(("a", "b"), exclusive=False), h=Group(("d",)))

    assert leaving(routing, "a", "bdx") == "b"


def test_default_group_swaps_and_is_exclusive() -> None:
    """2.7: models in no group swap with each other and evict the other groups, whether the group is written or not."""
    groups = {"g": Group(("a",), swap=False)}

    for routing in (Groups(groups), Groups({**groups, DEFAULT_GROUP: Group(("x", "y"))})):
        assert leaving(routing, "x", "ay") == "ay"
        assert leaving(routing, "a", "xy") == "xy"


def test_model_does_not_evict_itself() -> None:
    """2.7: a member that runs is not in its own way."""
    assert leaving(groups_of(g=Group(("a", "b"))), "a", "ab") == "b"


def test_without_routing_nobody_is_evicted() -> None:
    """What is loaded together is then a question of room only."""
    assert evicted_by(None, "a", frozenset("bc")) == frozenset()


# Matrix.


def test_running_target_evicts_nobody() -> None:
    """2.8: whatever else runs."""
    assert leaving(matrix_of("a & b", "c"), "a", "ac") == ""


def test_set_permits_each_of_its_parts() -> None:
    """2.8: an expansion may be loaded in part; nothing in it is evicted."""
    routing = matrix_of("a & b & c")

    assert leaving(routing, "a", "") == ""
    assert leaving(routing, "a", "c") == ""


def test_alternatives_evict_each_other() -> None:
    """2.8: `|` is one of them, `&` binds tighter."""
    routing = matrix_of("(a | b) & e", "c & d | f")

    assert leaving(routing, "a", "be") == "b"
    assert leaving(routing, "c", "d") == ""
    assert leaving(routing, "c", "f") == "f"


def test_cheapest_eviction_is_chosen() -> None:
    """2.8: among the expansions with the target, the one whose missing running models cost least."""
    routing = matrix_of("a & b", "a & c", "b & c", b=1, c=5)

    assert leaving(routing, "a", "bc") == "b"


def test_costs_are_one_where_nothing_is_said() -> None:
    """2.8: two ordinary models are worth more than one."""
    routing = matrix_of("a & b", "a & c & d", "b & c & d")

    assert leaving(routing, "a", "bcd") == "b"


def test_first_of_equals_is_chosen() -> None:
    """2.8: by definition order, among sets and among the alternatives of one."""
    assert leaving(matrix_of("a & b", "a & c", "b & c"), "a", "bc") == "c"
    assert leaving(matrix_of("a & (c | b)", "b & c"), "a", "bc") == "b"
    assert leaving(matrix_of("a & (b | c) & (d | e)", "b & c & d & e"), "a", "bcde") == "ce"


def test_model_in_no_set_evicts_everything() -> None:
    """2.8: and everything evicts it."""
    routing = matrix_of("a & b")

    assert leaving(routing, "f", "ab") == "ab"
    assert leaving(routing, "a", "bf") == "f"


def test_included_set() -> None:
    """2.8: `+name` says what the other set says."""
    routing = matrix_of("c | d", "a & +s1")

    assert leaving(routing, "a", "c") == ""
    assert leaving(routing, "a", "cd") == "d"


def test_model_on_both_sides_counts_once() -> None:
    """2.8: an expansion is a set; b twice does not outweigh c and d."""
    routing = matrix_of("a & (b | c & d) & (b | c & d)", "b & c & d", b=3, c=2, d=2)

    assert leaving(routing, "a", "bcd") == ""
    assert leaving(matrix_of("a & b & b | a & c & d", "b & c & d", b=3, c=2, d=2), "a", "bcd") == "b"


def expanded(expression: Expression, known: Mapping[str, list[frozenset[str]]]) -> list[frozenset[str]]:
    """All combinations, in order: the slow way."""
    match expression:
        case Single(model):
            return [frozenset([model])]
        case Included(name):
            return known[name]
        case Either(parts):
            return [each for part in parts for each in expanded(part, known)]
        case Together(parts):
            found = [frozenset[str]()]
            for part in parts:
                found = [one | other for one in found for other in expanded(part, known)]
            return found


def by_hand(matrix: Matrix, target: str, running: frozenset[str]) -> frozenset[str]:
    """2.8 word by word."""
    known: dict[str, list[frozenset[str]]] = {}
    for name, expression in matrix.sets.items():
        known[name] = expanded(expression, known)
    if target in running:
        return frozenset()
    permitted = [each for sets in known.values() for each in sets if target in each]
    if not permitted:
        return running
    return running - min(permitted, key=lambda each: sum(matrix.evict_costs.get(m, 1) for m in running - each))


def expressions(includable: tuple[str, ...] = ()) -> st.SearchStrategy[Expression]:
    atoms: st.SearchStrategy[Expression] = st.sampled_from(MODELS).map(Single)
    if includable:
        atoms |= st.sampled_from(includable).map(Included)
    return st.recursive(
        atoms,
        lambda inner: st.builds(
            lambda kind, parts: kind(tuple(parts)),
            st.sampled_from([Together, Either]),
            st.lists(inner, min_size=2, max_size=3),
        ),
        max_leaves=7,
    )


MATRICES = st.builds(
    lambda first, second, third, costs: Matrix({"s1": first, "s2": second, "s3": third}, costs),
    expressions(),
    expressions(("s1",)),
    expressions(("s1", "s2")),
    st.dictionaries(st.sampled_from(MODELS), st.integers(1, 4)),
)


@settings(max_examples=400)
@forall(MATRICES, st.sampled_from(MODELS), st.frozensets(st.sampled_from(MODELS)))
def test_matrix_agrees_with_its_expansion(matrix: Matrix, target: str, running: frozenset[str]) -> None:
    """2.8: the answer is that of somebody who writes all combinations down, ties and models written twice included."""
    assert evicted_by(matrix, target, running) == by_hand(matrix, target, running)


@forall(MATRICES, st.lists(st.sampled_from(MODELS), max_size=6))
def test_whatever_comes_the_rest_may_live_together(matrix: Matrix, arrivals: list[str]) -> None:
    """2.8: when everybody has left who had to, what runs is part of a permitted set, or one model that is in none."""
    running = frozenset[str]()
    for model in arrivals:
        running = running - evicted_by(matrix, model, running) | {model}

        assert matrix.can_coexist(running) or len(running) == 1


def wide(alternatives: int, parts: int) -> tuple[Matrix, list[list[str]]]:
    """`(m0 | m1 | …) & (m10 | m11 | …) & …`: each part has its own models."""
    models = [[f"m{part * alternatives + number}" for number in range(alternatives)] for part in range(parts)]
    everything = " & ".join("(" + " | ".join(part) + ")" for part in models)
    return matrix_of(everything, " & ".join(f"({' & '.join(part)})" for part in models)), models


@pytest.mark.parametrize(("alternatives", "parts"), [(10, 10), (2, 64), (64, 12)])
def test_ten_thousand_million_combinations(alternatives: int, parts: int) -> None:
    """2.8: solved without listing them: a few steps for each place at which a model is written, whoever runs."""
    matrix, models = wide(alternatives, parts)
    count = alternatives * parts
    target, running = models[0][0], frozenset(model for part in models for model in part[-2:]) - {models[0][0]}
    search = Search(matrix, target, running, shared_models(matrix))

    assert prod(map(len, models)) >= 10**10
    assert running - search.kept() == frozenset()  # the second set has them all
    assert search.steps <= 8 * 2 * count
    first_only = Matrix({"s1": matrix.sets["s1"]})
    stays = {part[-2] for part in models[1:]}
    assert evicted_by(first_only, target, running) == running - stays


def test_matrix_made_to_be_slow() -> None:
    """Every model on both sides of every `&`: the answer may miss the best, but comes, and is permitted."""
    pairs = [(f"m{one}", f"m{other}") for one, other in combinations(range(16), 2)]
    matrix = matrix_of("t & " + " & ".join(f"({one} | {other})" for one, other in pairs))
    running = frozenset(f"m{number}" for number in range(16))
    search = Search(matrix, "t", running, shared_models(matrix))

    kept = search.kept()

    assert all(one in kept or other in kept for one, other in pairs)
    assert search.steps < 500_000
