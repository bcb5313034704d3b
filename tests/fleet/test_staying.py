"""How long a busy model goes on though another one waits: until waiting has cost what the swap would."""

from __future__ import annotations

from supervisor.fleet.actions import Grant, Spawn
from supervisor.fleet.events import BecameReady, Exited, Released, Requested, Tick
from tests.fleet.scene import Scene, given


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
