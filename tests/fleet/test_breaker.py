"""When a model that failed may be tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.config.values import Model
from supervisor.errors import Failure, ModelFailed
from supervisor.fleet.actions import Refuse, Spawn
from supervisor.fleet.breaker import LONGEST_PAUSE
from supervisor.fleet.events import BecameReady, Checked, Exited, Requested
from tests.fleet.scene import Scene, failure_of, given


def failing(scene: Scene, ticket: str, failure: Failure, *, at: float, jitter: float = 0.0) -> float:
    """A request whose start fails; the seconds its client is told to wait."""
    scene.when(Requested(ticket), at=at).then(Spawn(ticket.rstrip("0123456789")))
    scene.when(Exited(failure.model, failure, jitter), at=at)
    assert scene.refusal.retry_after is not None
    return scene.refusal.retry_after


def permanent(model: str, phase: str = "loading") -> Failure:
    return replace(failure_of(model, phase=phase), permanent=True, cause="unknown_architecture")


def test_a_transient_failure_is_told_when_to_come_back() -> None:
    """Who comes too early gets the stored report and the time that is left; then one start is tried."""
    scene = given("a")
    assert failing(scene, "a1", failure_of("a"), at=0.0) == 1.0

    scene.when(Requested("a2"), at=0.4).then(Refuse("a2", ModelFailed))
    assert scene.refusal.retry_after == pytest.approx(0.6)

    scene.when(Requested("a3"), at=1.0).then(Spawn("a"))


def test_the_pause_doubles_up_to_five_minutes() -> None:
    """Each failure in a row doubles the wait, within bounds."""
    scene = given("a")
    pauses = [failing(scene, f"a{number}", failure_of("a"), at=number * 1000.0, jitter=1.0) for number in range(12)]

    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE


def test_chance_takes_up_to_half_of_a_pause() -> None:
    """Models that failed together do not come back together."""
    scene = given("a", "b")
    for name in ("a", "b"):
        failing(scene, f"{name}1", failure_of(name), at=0.0)

    assert failing(scene, "a2", failure_of("a"), at=10.0, jitter=0.0) == 1.0
    assert failing(scene, "b2", failure_of("b"), at=10.0, jitter=1.0) == 2.0


def test_success_starts_the_count_anew() -> None:
    """A start that went well makes the next failure a first one."""
    scene = given("a")
    failing(scene, "a1", failure_of("a"), at=0.0)
    failing(scene, "a2", failure_of("a"), at=100.0)
    scene.when(Requested("a3"), at=200.0).when(BecameReady("a")).when(Exited("a"))

    assert failing(scene, "a4", failure_of("a"), at=300.0) == 1.0


def test_a_permanent_failure_waits_for_a_change() -> None:
    """What no time mends is not tried again until the files or the config change."""
    scene = given("a").when(Requested("a1")).when(Exited("a", permanent("a")))

    scene.when(Requested("a2"), at=1e9).then(Refuse("a2", ModelFailed))
    assert scene.refusal.retry_after is None

    scene.when(Checked("a"))
    scene.when(Requested("a3")).then(Spawn("a"))


def test_what_a_look_finds_is_looked_for_again() -> None:
    """A problem found before the spawn costs nothing to look for again, so mending it is enough."""
    scene = given("a").when(Requested("a1")).when(Exited("a", permanent("a", phase="preparing")))

    scene.when(Requested("a2")).then(Spawn("a"))


def test_one_try_for_all_who_wait() -> None:
    """After the pause the first request starts the model, the others share that start."""
    scene = given("a")
    failing(scene, "a1", failure_of("a"), at=0.0)

    scene.when(Requested("a2"), at=5.0).then(Spawn("a"))
    scene.when(Requested("a3"), at=5.0).then()
    scene.when(Exited("a", failure_of("a")), at=6.0).then(Refuse("a2", ModelFailed), Refuse("a3", ModelFailed))


def test_memory_given_back_ends_the_pause() -> None:
    """What only lacked memory may be tried as soon as another model has left."""
    scene = given("a", "b", max_loaded=2).has("b")
    failing(scene, "a1", failure_of("a"), at=0.0)
    scene.when(Requested("a2"), at=0.1).then(Refuse("a2", ModelFailed))

    scene.when(Exited("b"), at=0.2)

    scene.when(Requested("a3"), at=0.2).then(Spawn("a"))


def test_other_failures_do_not_hope_for_memory() -> None:
    """A timeout is not mended by another model's end."""
    scene = given("a", "b", max_loaded=2).has("b")
    failing(scene, "a1", replace(failure_of("a"), cause="load_timeout"), at=0.0)

    scene.when(Exited("b"), at=0.2)

    scene.when(Requested("a2"), at=0.2).then(Refuse("a2", ModelFailed))


def crash(scene: Scene, *, at: float) -> None:
    """Loaded, then dead while serving."""
    scene.when(Requested("a1"), at=at).then(Spawn("a"))
    scene.when(BecameReady("a"), at=at).when(Exited("a", failure_of("a", phase="serving")), at=at)


def test_a_crash_restarts_on_demand() -> None:
    """One crash, or two, and the next request gets a fresh child at once."""
    scene = given("a")

    crash(scene, at=0.0)
    crash(scene, at=1.0)

    scene.when(Requested("a1"), at=1.0).then(Spawn("a"))


def test_three_crashes_within_a_minute_open_the_breaker() -> None:
    """A child that dies again and again is not restarted for every request."""
    scene = given("a")
    for at in (0.0, 10.0, 20.0):
        crash(scene, at=at)

    scene.when(Requested("a2"), at=20.5).then(Refuse("a2", ModelFailed))
    scene.when(Requested("a3"), at=21.0).then(Spawn("a"))


def test_crashes_long_apart_do_not_count_together() -> None:
    """Three crashes in an hour are no crash loop."""
    scene = given("a")

    for at in (0.0, 100.0, 200.0):
        crash(scene, at=at)

    scene.when(Requested("a2"), at=200.0).then(Spawn("a"))


@pytest.mark.parametrize(("binary", "is_watched"), [(None, False), ({"path": "/llama-server", "version": "1"}, True)])
def test_what_a_script_lacked_may_be_there_again(binary: dict[str, str | None] | None, *, is_watched: bool) -> None:
    """Nobody tells us which files the server behind a script reads: after a pause it is tried again.

    Found by `scripts/chaos`: a model file that was away for two seconds made its model fail for good.
    """
    failure = replace(permanent("a"), binary=binary)
    scene = given(Model("a", cmd=("script", "${PORT}"))).when(Requested("a1")).when(Exited("a", failure), at=0.0)
    scene.when(Requested("a2"), at=0.5).then(Refuse("a2", ModelFailed))

    scene.when(Requested("a3"), at=1.0).then(Refuse("a3", ModelFailed) if is_watched else Spawn("a"))
