"""How long a model stays though another one waits: until waiting has cost what the swap would."""

from __future__ import annotations

from supervisor.config.values import Model
from supervisor.fleet.actions import Grant, Look, Spawn, Terminate
from supervisor.fleet.events import BecameReady, Exited, Released, Requested, Tick
from supervisor.fleet.memory import HOST
from tests.fleet.scene import Scene, given
from tests.fleet.test_memory_planning import budget, seen
from tests.fleet.test_memory_planning import house as memory_house


def house(**server: float) -> Scene:
    """The load of `a` took 2 s; `b` has not been loaded yet."""
    scene = given("a", "b", "c", **server).when(Requested("a0")).when(BecameReady("a"), at=2)
    return scene.when(Released("a0"))


def test_busy_model_stays_until_waiting_has_cost_as_much_as_the_swap() -> None:
    """To load it again would take 2 s: it goes on for four times as long."""
    scene = house().when(Requested("a1"), at=10).when(Requested("b1"), at=10).then()

    scene.when(Requested("a2"), at=12).then(Grant("a2", "a"))
    assert scene.deadline == 18
    scene.when(Tick(), at=18).then()
    assert scene.run("a").is_leaving


def test_many_who_wait_wait_for_less_long() -> None:
    """What they wait is added up: the two have waited for 5 s and 3 s."""
    scene = house().when(Requested("a1"), at=10).when(Requested("b1"), at=10).when(Requested("b2"), at=12)

    assert scene.deadline == 15
    scene.when(Tick(), at=15)
    assert scene.run("a").is_leaving


def test_a_dear_load_is_worth_a_longer_wait() -> None:
    """The load of the model that comes is part of the swap; it took 3 s the last time."""
    scene = house().when(Requested("b1"), at=10).when(Exited("a"), at=10).when(BecameReady("b"), at=13)
    scene.when(Released("b1"), at=13).when(Requested("a1"), at=13).when(Exited("b"), at=13).when(
        BecameReady("a"), at=15
    )

    scene.when(Requested("b2"), at=20)
    assert scene.deadline == 20 + 4 * (2 + 3)


def test_nobody_waits_for_longer_than_max_wait() -> None:
    """However much the swap costs."""
    scene = house(max_wait=5).when(Requested("a1"), at=10).when(Requested("b1"), at=10)

    assert scene.deadline == 15
    scene.when(Tick(), at=15)
    assert scene.run("a").is_leaving


def test_idle_model_leaves_at_once() -> None:
    """Whoever waits for one that nobody uses would wait for nothing."""
    scene = house().when(Requested("a1"), at=10).when(Requested("b1"), at=10)

    scene.when(Released("a1"), at=11).when(Exited("a"), at=11).then(Spawn("b"))


# Several models are waited for.


def test_more_models_that_wait_wait_for_longer() -> None:
    """A load delays those who wait for the other one, too: for each of them the swap has to be worth its time."""
    scene = house().when(Requested("a1"), at=10).when(Requested("b1"), at=10)
    assert scene.deadline == 18

    scene.when(Requested("c1"), at=12)
    assert scene.deadline == 26
    scene.when(Tick(), at=18).then()
    assert not scene.run("a").is_leaving
    scene.when(Tick(), at=26)
    assert scene.run("a").is_leaving


def test_more_models_do_not_make_anybody_wait_longer_than_max_wait() -> None:
    """The promise goes before what is cheaper."""
    scene = house(max_wait=9).when(Requested("a1"), at=10).when(Requested("b1"), at=10).when(Requested("c1"), at=12)

    assert scene.deadline == 19
    scene.when(Tick(), at=19)
    assert scene.run("a").is_leaving


def test_who_waits_for_a_loaded_model_does_not_count() -> None:
    """There is no load for it: it waits for its own model's requests."""
    scene = given("a", Model("d", concurrency=1), "b", max_loaded=2).when(Requested("a0")).when(BecameReady("a"), at=2)
    scene.when(Requested("d0"), at=2).when(BecameReady("d"), at=4).when(Requested("d1"), at=10)

    scene.when(Requested("b1"), at=10)
    assert scene.deadline == 18


def beside(**server: float) -> Scene:
    """Both are busy: `a` was told to leave for `b`, `d` may go on for longer, for its load took 3 s."""
    scene = given("a", "d", "b", max_loaded=2, **server).when(Requested("a0")).when(BecameReady("a"), at=2)
    scene.when(Requested("d0"), at=2).when(BecameReady("d"), at=5)
    scene.when(Requested("b1"), at=10).when(Tick(), at=18)
    assert scene.run("a").is_leaving
    assert scene.deadline == 22
    return scene


def test_who_waits_for_a_model_that_was_told_to_leave_does_not_count() -> None:
    """Its requests, which wait for its return, do not give anybody more time."""
    scene = beside().when(Requested("a1"), at=19).then()

    assert scene.run("a").is_leaving
    assert scene.deadline == 22


def test_who_waits_for_a_model_that_is_being_stopped_counts() -> None:
    """It will have to be loaded again."""
    scene = beside().when(Requested("a1"), at=19).when(Released("a0"), at=20).then(Terminate("a"))

    assert scene.deadline == 34


def test_who_was_told_to_leave_is_not_told_to_stay_for_more_who_come() -> None:
    """By what is known now it would have had more time; but its requests have been turned away already."""
    scene = house().when(Requested("a1"), at=10).when(Requested("b1"), at=10).when(Tick(), at=18)

    scene.when(Requested("c1"), at=19)
    assert scene.run("a").is_leaving


# Idle ones.


def two(**server: float) -> Scene:
    """Of two that are loaded, the load of `dear` took 6 s and that of `cheap` 2 s; both are used all the time."""
    scene = given("dear", "cheap", "new", max_loaded=2, **server)
    scene.when(Requested("dear0")).when(BecameReady("dear"), at=6).when(Released("dear0"))
    scene.when(Requested("cheap0"), at=6).when(BecameReady("cheap"), at=8).when(Released("cheap0"))
    return scene.counted("dear", 0, used_at=20, gap=2).counted("cheap", 1, used_at=20, gap=2)


def test_dear_idle_model_waits_for_a_cheap_one_to_become_idle() -> None:
    """That may be so in a moment, and costs less: nobody has to load the dear one again."""
    scene = two().when(Requested("new1"), at=20).then()

    scene.counted("cheap", 0, used_at=21, gap=2).when(Released("cheap"), at=21).then(Terminate("cheap"))


def test_dear_idle_model_leaves_once_waiting_has_cost_as_much_as_the_swap() -> None:
    """To load it again takes 6 s; the cheap one goes on being used."""
    scene = two().when(Requested("new1"), at=20).then()

    assert scene.deadline == 26
    scene.when(Tick(), at=26).then(Terminate("dear"))


def test_many_who_wait_for_a_cheap_one_wait_for_less_long() -> None:
    """As beside a busy one: what they wait is added up."""
    scene = two().when(Requested("new1"), at=20).when(Requested("new2"), at=22)

    assert scene.deadline == 24
    scene.when(Tick(), at=24).then(Terminate("dear"))


def test_idle_model_stays_for_a_third_of_max_wait_at_most() -> None:
    """However dear it is: somebody waits although there could be room for him."""
    assert two(max_wait=12).when(Requested("new1"), at=20).deadline == 24


def test_cheap_idle_model_leaves_at_once() -> None:
    """Whoever is busy costs more."""
    scene = two().counted("dear", 1, used_at=20, gap=2).counted("cheap", 0, used_at=20, gap=2)

    scene.when(Requested("new1"), at=20).then(Terminate("cheap"))


def test_idle_model_does_not_wait_for_one_that_is_pinned() -> None:
    """It will not leave in its place."""
    scene = given("dear", Model("cheap", pinned=True), "new", max_loaded=2)
    scene.when(Requested("dear0")).when(BecameReady("dear"), at=6).when(Released("dear0"))
    scene.when(Requested("cheap0"), at=6).when(BecameReady("cheap"), at=7)
    scene.counted("dear", 0, used_at=20, gap=2).counted("cheap", 1, used_at=20, gap=2)

    scene.when(Requested("new1"), at=20).then(Terminate("dear"))


def test_idle_model_does_not_wait_for_one_that_others_wait_for_longer() -> None:
    """It will serve them first, and go on."""
    scene = given("dear", Model("cheap", concurrency=1), "new", max_loaded=2)
    scene.when(Requested("dear0")).when(BecameReady("dear"), at=6).when(Released("dear0"))
    scene.when(Requested("cheap0"), at=6).when(BecameReady("cheap"), at=8).when(Requested("cheap1"), at=19)
    scene.counted("dear", 0, used_at=20, gap=2).counted("cheap", 1, used_at=20, gap=2)

    scene.when(Requested("new1"), at=20).then(Terminate("dear"))


def test_idle_model_does_not_wait_where_min_residency_is_asked_for() -> None:
    """That says how long a busy one stays, and an idle one leaves at once."""
    two(min_residency=10).when(Requested("new1"), at=10).then(Terminate("dear"))


def test_large_idle_model_does_not_wait_for_one_that_is_too_small() -> None:
    """Its end would not make the room."""
    takes = {"dear": {HOST: 6}, "cheap": {HOST: 1}, "new": {HOST: 4}}
    scene = memory_house("dear", "cheap", "new", takes=takes, memory=budget(host=8))
    scene.when(Requested("dear0")).when(seen({HOST: 16})).when(BecameReady("dear"), at=6).when(Released("dear0"))
    scene.when(Requested("cheap0"), at=6).when(seen({HOST: 16}), at=6).when(BecameReady("cheap"), at=7)
    scene.counted("dear", 0, used_at=20, gap=2).counted("cheap", 1, used_at=20, gap=2)

    scene.when(Requested("new1"), at=20).then(Terminate("dear"), Look())
