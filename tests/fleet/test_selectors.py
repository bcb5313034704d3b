"""Which target of a selector serves a request (spec: llama-swap.md, section 2.9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.values import Filters, Model, Strategy
from supervisor.errors import NoTarget
from supervisor.fleet.names import Choice, Target
from supervisor.fleet.selectors import pick
from supervisor.fleet.values import Phase, Reason, Run, RunId


def choice(strategy: Strategy, *names: str, spillover: int = 2) -> Choice:
    """A selector over models of ours, and of the peer `p` where a name says so."""
    targets = tuple(
        Target(name, name.removeprefix("p/"), Filters(), peer="p" if name.startswith("p/") else None) for name in names
    )
    return Choice("s", strategy, targets, spillover)


def runs(**phases: str) -> dict[str, Run]:
    """Runs by model, each in a phase or `leaving`."""
    return {
        name: Run(
            RunId(number),
            Model(name),
            Phase.READY if phase == "leaving" else Phase(phase),
            0.0,
            0.0,
            retiring=Reason.EVICTED if phase == "leaving" else None,
        )
        for number, (name, phase) in enumerate(phases.items())
    }


def test_pin_is_the_first_target() -> None:
    """Whatever runs, `pin` means the first."""
    assert pick(choice(Strategy.PIN, "a", "b"), runs(b="ready"), {"a": 99}).name == "a"


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ({}, "a"),
        ({"b": "ready"}, "b"),
        ({"a": "starting", "c": "ready"}, "c"),
        ({"c": "starting"}, "c"),
        ({"b": "ready", "c": "ready"}, "b"),
        ({"b": "leaving"}, "a"),
        ({"b": "leaving", "c": "starting"}, "c"),
        ({"b": "stopping"}, "a"),
    ],
)
def test_warm_is_what_is_there(phases: dict[str, str], expected: str) -> None:
    """The first that is ready, else the first that is starting, else the first."""
    assert pick(choice(Strategy.WARM, "a", "b", "c"), runs(**phases), {}).name == expected


@pytest.mark.parametrize(
    ("phases", "reserved", "expected"),
    [
        ({}, {}, "a"),
        ({"a": "starting"}, {"a": 1}, "a"),
        ({"a": "ready"}, {"a": 2}, "b"),
        ({"b": "ready"}, {"b": 1}, "b"),
        ({"a": "ready", "b": "ready"}, {"a": 2, "b": 1}, "b"),
        ({"a": "ready", "b": "ready"}, {"a": 2, "b": 2}, "c"),
        ({"a": "leaving"}, {}, "b"),
        ({"a": "leaving", "b": "ready", "c": "ready"}, {"b": 4, "c": 3}, "c"),
    ],
)
def test_spillover_fills_one_after_the_other(phases: dict[str, str], reserved: dict[str, int], expected: str) -> None:
    """Those in use are filled first, then the next cold one is taken, then the least busy."""
    assert pick(choice(Strategy.SPILLOVER, "a", "b", "c"), runs(**phases), reserved).name == expected


def test_spillover_takes_turns_among_equals() -> None:
    """When all are equally busy beyond their fill, requests go around."""
    pool = choice(Strategy.SPILLOVER, "a", "b", spillover=1)
    seen = [pick(pool, runs(a="ready", b="ready"), {"a": 1, "b": 1}, turn=turn).name for turn in range(4)]

    assert seen == ["a", "b", "a", "b"]


def test_a_peer_is_always_in_use() -> None:
    """Nobody knows what a peer has loaded: it is filled like a model that runs."""
    pool = choice(Strategy.SPILLOVER, "a", "p/x", spillover=1)

    assert pick(pool, {}, {}).name == "p/x"
    assert pick(pool, {}, {"p/x": 1}).name == "a"


def test_nobody_is_left() -> None:
    """When every target is on its way out there is none, and that passes."""
    with pytest.raises(NoTarget, match='selector "s" has no available') as caught:
        pick(choice(Strategy.SPILLOVER, "a", "b"), runs(a="leaving", b="stopping"), {})

    assert caught.value.retry_after is not None


@given(
    strategy=st.sampled_from(Strategy),
    phases=st.dictionaries(st.sampled_from("abc"), st.sampled_from(["starting", "ready", "stopping", "leaving"])),
    reserved=st.dictionaries(st.sampled_from("abc"), st.integers(0, 5)),
    turn=st.integers(0, 10),
)
def test_always_one_of_the_targets(
    strategy: Strategy, phases: dict[str, str], reserved: dict[str, int], turn: int
) -> None:
    """Any world gives a target, or says that there is none; spillover never one that is leaving."""
    pool = choice(strategy, "a", "b", "c")
    world = runs(**phases)
    try:
        picked = pick(pool, world, reserved, turn=turn)
    except NoTarget:
        assert strategy is Strategy.SPILLOVER
        assert all(name in world and world[name].is_leaving for name in "abc")
    else:
        assert picked in pool.targets
        assert strategy is not Strategy.SPILLOVER or picked.name not in world or not world[picked.name].is_leaving
