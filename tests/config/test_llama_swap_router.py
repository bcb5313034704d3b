"""Groups, matrix and priorities of a llama-swap file (spec: llama-swap.md, 2.7, 2.8, 3.2)."""

from __future__ import annotations

import pytest

from supervisor.config.expressions import Either, Included, Single, Together
from supervisor.config.routing import DEFAULT_GROUP, Group, Groups, Matrix
from tests.config.swap_files import config, problems

MODELS = "\nmodels:\n" + "".join(f"  {name}: {{cmd: 's ${{PORT}}', aliases: [{name}1]}}\n" for name in "abc")
OLD_GROUPS = "groups: {g: {members: [a]}}"
OLD_MATRIX = "matrix: {sets: {s: a}}"
NEW_GROUPS = "routing: {router: {settings: {groups: {g: {members: [a]}}}}}"


def routing(text: str) -> Groups | Matrix | None:
    return config(text + MODELS).routing


def test_without_groups_one_model_is_loaded_at_a_time() -> None:
    """Every model is in the default group, which swaps."""
    read = config(MODELS)

    assert read.routing == Groups({DEFAULT_GROUP: Group(("a", "b", "c"))})
    assert read.server.max_loaded == 1


def test_models_without_a_group_are_in_the_default_one() -> None:
    """How many may be loaded is said by the groups alone."""
    text = "groups:\n  g: {swap: false, members: [b]}\n  h: {exclusive: false, persistent: true, members: [c]}\n"
    read = config(text + MODELS)

    assert read.routing == Groups(
        {
            "g": Group(("b",), swap=False),
            "h": Group(("c",), exclusive=False, persistent=True),
            DEFAULT_GROUP: Group(("a",)),
        }
    )
    assert read.server.max_loaded == 3


@pytest.mark.parametrize("text", [OLD_GROUPS, NEW_GROUPS, NEW_GROUPS.replace("settings", "use: group, settings")])
def test_groups_are_in_the_old_place_or_in_the_new_one(text: str) -> None:
    """Both say the same."""
    assert routing(text) == Groups({"g": Group(("a",)), DEFAULT_GROUP: Group(("b", "c"))})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("groups: {g: {members: [a, a]}}", "groups.g.members[1] (line 1): expected each model in one group, found `a`"),
        ("groups: {g: {members: [a]}, h: {members: [a]}}", "groups.h.members[0] (line 1): expected each model in one"),
        ("groups: {g: {members: [aa]}}", "groups.g.members[0] (line 1): expected the id of a model, found `aa`"),
        ("groups: {g: {members: [a1]}}", "groups.g.members[0] (line 1): expected the id of a model, found `a1`"),
        ("groups: {g: {}}", "groups.g (line 1): expected the key `members`"),
        ("groups: {g: {members: [a], swap: 1}}", "groups.g.swap (line 1): expected true or false"),
        ("groups: {(default): {members: [a]}}", 'groups."(default)" (line 1): expected another name'),
        (f"{OLD_GROUPS}\n{OLD_MATRIX}", "matrix (line 2): expected either `groups` or `matrix`"),
        (f"{OLD_GROUPS}\n{NEW_GROUPS}", "groups (line 1): expected either `groups` or `matrix`, or `routing.router`"),
        (
            f"{OLD_MATRIX}\nrouting: {{router: {{use: group}}}}",
            "matrix (line 1): expected either `groups` or `matrix`, ",
        ),
        ("routing: {router: {use: matrix}}", "routing.router.use (line 1): expected a matrix in `routing.router."),
        ("routing: {router: {use: ring}}", "routing.router.use (line 1): expected one of group, matrix"),
        ("routing: {scheduler: {use: lifo}}", "routing.scheduler.use (line 1): expected one of fifo"),
    ],
)
def test_groups_that_cannot_be(text: str, expected: str) -> None:
    """Members are ids of models, each in one group; there is one way of routing."""
    (problem,) = problems(text + MODELS)

    assert problem.startswith(expected)


def test_the_error_of_both_places_says_what_to_do() -> None:
    """The old keys move."""
    (problem,) = problems(f"{OLD_GROUPS}\n{NEW_GROUPS}{MODELS}")

    assert problem.endswith("hint: move the old keys into `routing.router.settings`")


def test_both_blocks_of_settings_may_be_there() -> None:
    """`use` picks one; without it the groups hold."""
    settings = "settings: {groups: {g: {members: [a]}}, matrix: {sets: {s: a & b}}}"

    assert isinstance(routing(f"routing: {{router: {{{settings}}}}}"), Groups)
    assert isinstance(routing(f"routing: {{router: {{use: matrix, {settings}}}}}"), Matrix)


def test_empty_groups_are_no_groups() -> None:
    """They do not stand in the way of a matrix."""
    assert isinstance(routing(f"groups: {{}}\n{OLD_MATRIX}"), Matrix)


def test_a_matrix() -> None:
    """Vars win over models; sets come after those they include, in the order of the file otherwise."""
    read = routing(
        "matrix:\n  vars: {a: b, X.1-y: c}\n  evict_costs: {X.1-y: 50, b: 2}\n"
        "  sets:\n    one: a & (X.1-y | +two)\n    two: b | +three\n    three: c\n    four: a\n"
    )

    assert read == Matrix(
        {
            "three": Single("c"),
            "two": Either((Single("b"), Included("three"))),
            "one": Together((Single("b"), Either((Single("c"), Included("two"))))),
            "four": Single("b"),
        },
        {"c": 50, "b": 2},
    )
    assert isinstance(read, Matrix)
    assert list(read.sets) == ["three", "two", "one", "four"]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ("{}", "matrix (line 1): expected the key `sets`"),
        ("{sets: {}}", "matrix.sets (line 1): expected at least one entry"),
        ("{sets: {s: a & nope}}", "matrix.sets.s (line 1): expected models and vars that exist, found `a & nope`"),
        ("{sets: {s: a1}}", "matrix.sets.s (line 1): expected models and vars that exist"),
        ("{sets: {s: a &}}", "matrix.sets.s (line 1): expected a model on both sides"),
        ("{sets: {s: +nope}}", "matrix.sets.s (line 1): expected sets that exist, found `+nope`"),
        ("{sets: {s: a & +s}}", "matrix.sets.s (line 1): expected sets that do not include themselves"),
        ("{sets: {s: +t, t: +s}}", "matrix.sets.t (line 1): expected sets that do not include themselves"),
        ("{vars: {a_b: a}, sets: {s: a}}", "matrix.vars.a_b (line 1): expected a name of at most 32 letters"),
        (
            f"{{vars: {{{'x' * 33}: a}}, sets: {{s: a}}}}",
            f"matrix.vars.{'x' * 33} (line 1): expected a name of at most",
        ),
        ("{vars: {v: nope}, sets: {s: a}}", "matrix.vars.v (line 1): expected the id of a model, found `nope`"),
        ("{evict_costs: {nope: 1}, sets: {s: a}}", "matrix.evict_costs.nope (line 1): expected a model or a var"),
        ("{evict_costs: {a: 0}, sets: {s: a}}", "matrix.evict_costs.a (line 1): expected an integer of at least 1"),
    ],
)
def test_a_matrix_that_cannot_be(matrix: str, expected: str) -> None:
    """Names, costs, expressions, cycles and references are checked."""
    (problem,) = problems(f"matrix: {matrix}{MODELS}")

    assert problem.startswith(expected)


def test_priorities() -> None:
    """By id or alias, negative ones too; an unknown name is an error."""
    text = "routing: {scheduler: {use: fifo, settings: {fifo: {priority: {a1: 5, b: -2}}}}}"

    assert config(text + MODELS).priorities == {"a": 5, "b": -2}
    (problem,) = problems(text.replace("b:", "x:") + MODELS)
    assert problem.startswith("routing.scheduler.settings.fifo.priority.x (line 1): expected the name of a model")


def test_who_may_be_loaded_together() -> None:
    """Members of a group that does not swap; models of one combination of a matrix."""
    groups = Groups({"g": Group(("a", "b"), swap=False), "h": Group(("c", "d"))})
    matrix = Matrix({"s": Single("a"), "t": Together((Included("s"), Either((Single("b"), Single("c")))))})

    assert groups.can_coexist(frozenset("ab"))
    assert not groups.can_coexist(frozenset("cd"))
    assert not groups.can_coexist(frozenset("ac"))
    assert groups.can_coexist(frozenset("c"))
    assert matrix.can_coexist(frozenset("ab"))
    assert not matrix.can_coexist(frozenset("bc"))
