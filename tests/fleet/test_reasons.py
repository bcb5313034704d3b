"""What the planner says of its decisions: whole sentences with names and numbers, once for each decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.config.routing import Group, Groups
from supervisor.config.values import Model
from supervisor.fleet.decisions import Kind
from supervisor.fleet.events import BecameReady, Closing, Exited, Reconfigured, Released, Requested, Tick, UnloadAsked
from supervisor.fleet.memory import Footprint, Measured, Source
from supervisor.fleet.reasons import span
from tests.fleet.scene import config_of, failure_of, given
from tests.fleet.test_memory_planning import budget, house, loaded, seen

if TYPE_CHECKING:
    from tests.fleet.scene import Scene

G = 2**30


def said(scene: Scene, kind: Kind) -> list[str]:
    """The last reasons of this kind."""
    return [decision.reason for decision in scene.told if decision.kind is kind]


# Starts.


def test_start_by_number() -> None:
    """Where models are counted, how many there are."""
    scene = given("a", "b", max_loaded=2)

    assert said(scene.when(Requested("a1")), Kind.STARTED) == ["a starts: 0 of 2 places are taken"]
    assert said(scene.when(Requested("b1")), Kind.STARTED) == ["b starts: 1 of 2 places is taken"]


def test_start_without_limits() -> None:
    """There is nothing to say but that."""
    assert said(given("a", max_loaded=None).when(Requested("a1")), Kind.STARTED) == ["a starts"]


def test_start_in_memory() -> None:
    """What it takes, how that is known, and what is free."""
    scene = house("a", takes={"a": {"host": 4}}, memory=budget(host=8)).when(Requested("a1"))

    assert said(scene.when(seen({"host": 16})), Kind.STARTED) == [
        "a starts: it needs 4.0 GiB of memory (measured), 8.0 GiB free"
    ]


def test_start_that_shares_files() -> None:
    """What others have mapped already is not needed once more, and the rest of the number is not lost."""
    scene = house("a", "b", takes={}, memory=budget(host=16))
    for name in "ab":
        footprint = Footprint({"host": 1 * G}, {"/weights": 6 * G}, Source.MEASURED)
        scene.when(Measured(name, footprint))
    scene.when(Requested("a1")).when(seen({"host": 16})).when(BecameReady("a")).when(Requested("b1"))

    assert said(scene, Kind.STARTED) == [
        "b starts: it needs 1.0 GiB of memory (measured, 6.0 GiB more are shared), 9.0 GiB free"
    ]


def test_start_elsewhere() -> None:
    """A model that moves is said to."""
    takes = {"a": {"CUDA0": 4}, "b": {"CUDA0": 6}}
    scene = house("a", "b", takes=takes, memory=budget(CUDA0=8, CUDA1=8))
    loaded(scene, "a", free={"CUDA0": 8, "CUDA1": 8})
    scene.when(UnloadAsked("a"), at=10).when(Exited("a"), at=10)
    loaded(scene, "b", free={"CUDA0": 8, "CUDA1": 8})
    scene.when(Requested("a1"), at=20)
    scene.when(seen({"CUDA0": 2, "CUDA1": 8}))

    assert said(scene, Kind.STARTED) == [
        "a starts on CUDA1, where it was on CUDA0 before: it needs 4.0 GiB on CUDA1 (measured), 8.0 GiB free"
    ]


# Evictions.


def test_eviction_for_memory() -> None:
    """Who needs what, what was free, who left, how large and how idle it was."""
    takes = {"qwen": {"CUDA0": 6}, "phi": {"CUDA0": 9}, "gemma": {"CUDA0": 17}}
    scene = house("qwen", "phi", "gemma", takes=takes, memory=budget(CUDA0=18))
    loaded(scene, "qwen", "phi", free={"CUDA0": 18})
    scene.when(Requested("gemma1"), at=240)

    (told,) = [decision for decision in scene.told if decision.kind is Kind.EVICTED]
    assert told.reason == (
        "gemma needs 17.0 GiB on CUDA0 (measured), 3.0 GiB free; "
        "evicted qwen (6.0 GiB, idle 4 m) and phi (9.0 GiB, idle 4 m)"
    )
    assert told.others == ("qwen", "phi")


def test_eviction_of_busy() -> None:
    """How many requests it still serves stands where the idle time would."""
    scene = given("a", "b", min_residency=0).has("a").when(Requested("a1")).when(Requested("a2"))

    assert said(scene.when(Requested("b1")), Kind.EVICTED) == [
        "b needs a place, and all 1 are taken; evicted a (2 in flight)"
    ]


def test_eviction_beside_one_who_comes_before() -> None:
    """A place that is free is not free for who is second in line."""
    scene = given("a", "b", "c", "d", max_loaded=2).has("a", "b").when(UnloadAsked("a"))
    scene.when(Requested("c1")).when(Requested("d1"), at=1)

    assert said(scene, Kind.EVICTED) == ["d needs a place, and all 2 are taken; evicted b (idle 1 s)"]


def test_eviction_by_rule() -> None:
    """A group says so, whatever room there is."""
    groups = Groups({"g": Group(("a", "b"))})
    scene = given("a", "b", max_loaded=None, routing=groups).has("a")

    assert said(scene.when(Requested("b1"), at=3), Kind.EVICTED) == [
        "b may not be loaded beside a, by the groups; evicted a (idle 3 s)"
    ]


def test_short_times() -> None:
    """A model that has just served is not idle for 0 s."""
    assert [span(each) for each in (0.0, 0.0123, 0.5, 1.0, 59.6, 90.0, 7200.0, 2e5)] == [
        "0 ms",
        "12 ms",
        "500 ms",
        "1 s",
        "60 s",
        "90 s",
        "2 h",
        "2 d",
    ]


# Who waits.


def test_waiting_for_who_leaves() -> None:
    """Whom one waits for, and how many requests it still serves."""
    scene = given("a", "b", min_residency=0).has("a").when(Requested("a1"))

    assert said(scene.when(Requested("b1")), Kind.WAITED) == ["b waits: a leaves once its request has been served"]


def test_waiting_for_who_has_just_come() -> None:
    """Until when it may go on taking requests."""
    scene = given("a", "b", min_residency=10.0).has("a").when(Requested("a1"), at=1)

    assert said(scene.when(Requested("b1"), at=4), Kind.WAITED) == [
        "b waits: there is no room beside a (1 in flight, may go on for 6 s more)"
    ]


def test_waiting_beside_an_idle_one() -> None:
    """It is dearer than the one that is busy, and stays for a while in the hope that this one ends."""
    scene = given("a", "b", "c", max_loaded=2).when(Requested("a0")).when(BecameReady("a"), at=6).when(Released("a0"))
    scene.when(Requested("b0"), at=6).when(BecameReady("b"), at=8)
    scene.counted("a", 0, used_at=20, gap=2).counted("b", 1, used_at=20, gap=2)

    assert said(scene.when(Requested("c1"), at=21), Kind.WAITED) == [
        "c waits: there is no room beside a (idle 1 s, may stay for 6 s more) and "
        "b (1 in flight, may go on for 8 s more)"
    ]


def test_waiting_beside_an_idle_one_that_is_not_enough() -> None:
    """It leaves with the one that is busy, and does not stay for its sake."""
    scene = house("a", "b", "c", takes={"a": {"host": 2}, "b": {"host": 6}, "c": {"host": 8}}, memory=budget(host=8))
    scene.when(Requested("a0")).when(seen({"host": 16})).when(BecameReady("a"), at=2).when(Released("a0"))
    scene.when(Requested("b0"), at=2).when(seen({"host": 16}), at=2).when(BecameReady("b"), at=5)
    scene.counted("a", 0, used_at=20, gap=2).counted("b", 1, used_at=20, gap=2)

    assert said(scene.when(Requested("c1"), at=21).when(seen({"host": 16}), at=21), Kind.WAITED) == [
        "c waits: there is no room beside a (idle 1 s) and b (1 in flight, may go on for 12 s more)"
    ]


def test_waiting_beside_a_dear_idle_one_that_is_not_enough() -> None:
    """Nor is the busy one that is cheaper: nobody stays for what would make no room."""
    takes = {"a": {"host": 4}, "b": {"host": 4}, "c": {"host": 8}}
    scene = house("a", "b", "c", takes=takes, memory=budget(host=8))
    scene.when(Requested("a0")).when(seen({"host": 16})).when(BecameReady("a"), at=6).when(Released("a0"))
    scene.when(Requested("b0"), at=6).when(seen({"host": 16}), at=6).when(BecameReady("b"), at=8)
    scene.counted("a", 0, used_at=20, gap=2).counted("b", 1, used_at=20, gap=2)

    assert said(scene.when(Requested("c1"), at=21).when(seen({"host": 16}), at=21), Kind.WAITED) == [
        "c waits: there is no room beside a (idle 1 s) and b (1 in flight, may go on for 8 s more)"
    ]


def test_waiting_beside_pinned() -> None:
    """Who is pinned is said to be."""
    pinned = Model("p", pinned=True)
    scene = given(pinned, "a", "b", max_loaded=2, min_residency=10.0).has("p", "a").when(Requested("a1"), at=1)
    scene.when(Requested("p1"), at=1)

    assert said(scene.when(Requested("b1"), at=1), Kind.WAITED) == [
        "b waits: there is no room beside p (pinned) and a (1 in flight, may go on for 9 s more)"
    ]


def test_waiting_in_line() -> None:
    """Who is before it."""
    scene = given("a", "b", "c").when(Requested("a1")).when(Requested("b1"))

    assert said(scene.when(Requested("c1")), Kind.WAITED) == [
        "c waits: there is no room beside a (loading); b comes first"
    ]


def test_waiting_for_a_load_or_a_place() -> None:
    """The model's own load, and its own limit."""
    scene = given(Model("a", concurrency=1)).when(Requested("a1"))
    scene.when(Requested("a2"))
    assert said(scene, Kind.WAITED) == []
    scene = given(Model("a", concurrency=1)).has("a").when(Requested("a1"))
    assert said(scene.when(Requested("a2")), Kind.WAITED) == ["a waits: its request takes all of its `concurrency`"]


def test_waiting_once_the_machine_was_asked() -> None:
    """What is free has to be known first; then it is told once, however often the machine is asked again."""
    scene = house("a", "b", takes={name: {"host": 6} for name in "ab"}, memory=budget(host=8), min_residency=10.0)
    loaded(scene, "a", free={"host": 16})
    scene.when(Requested("a1"), at=5).when(Requested("b1"), at=5)
    assert said(scene, Kind.WAITED) == []

    assert said(scene.when(seen({"host": 10}), at=5), Kind.WAITED) == [
        "b waits: there is no room beside a (1 in flight, may go on for 5 s more)"
    ]
    scene.when(Tick(), at=7)
    assert said(scene.when(seen({"host": 10}), at=7), Kind.WAITED) == []


# Who is refused.


def test_refusals_once_for_each_model() -> None:
    """Not once for each request, and however many there are."""
    scene = given("a").when(Requested("a1")).when(Requested("a2")).when(Requested("a3"))
    scene.when(Exited("a", failure_of("a")))
    assert said(scene, Kind.REFUSED) == ["3 requests for a are refused: it did not fit"]

    assert said(scene.when(Requested("a4")), Kind.REFUSED) == ["a request for a is refused: it did not fit"]


def test_refusals_at_the_end() -> None:
    """Each model that somebody waits for."""
    scene = given("a", "b").when(Requested("a1")).when(Requested("b1")).when(Requested("b2")).when(Closing())

    assert said(scene, Kind.REFUSED) == [
        "a request for a is refused: shutting down",
        "2 requests for b are refused: shutting down",
    ]


# Who goes for other reasons.


@pytest.mark.parametrize(
    ("force", "words"),
    [
        (False, "a is unloaded, as was asked for: its request may take 30 s to end"),
        (True, "a is unloaded, as was asked for: its request is cut"),
    ],
)
def test_unloading_by_hand(force: bool, words: str) -> None:
    """So that nobody wonders where it is, and what becomes of its requests."""
    scene = given("a", drain_timeout=30.0).has("a").when(Requested("a1"))

    assert said(scene.when(UnloadAsked("a", force)), Kind.UNLOADED) == [words]


def test_cut() -> None:
    """Whose time to end is over."""
    scene = given("a", drain_timeout=30.0).has("a").when(Requested("a1")).when(UnloadAsked("a"))

    assert said(scene.when(Tick(), at=30), Kind.CUT) == ["a ends, which cuts a request: `drain_timeout` is over"]


def test_unloading_what_is_idle() -> None:
    """There is nobody to wait for; and what leaves already is not said twice."""
    scene = given("a").has("a")

    assert said(scene.when(UnloadAsked()), Kind.UNLOADED) == ["a is unloaded, as was asked for"]
    assert said(scene.when(UnloadAsked()), Kind.UNLOADED) == []


def test_reload() -> None:
    """What a new config means for what runs."""
    scene = given("a", "b", "c", max_loaded=3).has("a", "b", "c")
    scene.when(Reconfigured(config_of(Model("a", options={"x": 1}), "c", max_loaded=3)))

    assert said(scene, Kind.RELOADED) == [
        "a leaves, for another config starts it otherwise",
        "b leaves, for it is in the config no more",
    ]


def test_quiet_house() -> None:
    """Why a model is loaded that nobody asked for."""
    scene = given("home", "a", on_idle="home", max_loaded=2).has("a").when(Tick(), at=60)

    assert said(scene, Kind.STARTED) == ["home is sent for: nothing was asked for in 60 s"]


def test_idle() -> None:
    """Its own `ttl`, and how long it was idle."""
    scene = given(Model("a", ttl=90.0)).has("a").when(Tick(), at=95)

    assert said(scene, Kind.RETIRED) == ["a leaves: nobody used it for 95 s (`ttl` is 90 s)"]
