"""What another config does to those who run, those who wait, and what is known of failures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.config.routing import Group, Groups
from supervisor.config.values import Model
from supervisor.errors import ModelNotFound
from supervisor.fleet.actions import Grant, Refuse, Spawn, Terminate
from supervisor.fleet.events import (
    Abandoned,
    BecameReady,
    Closing,
    Exited,
    Reconfigured,
    Released,
    Requested,
    UnloadAsked,
)
from supervisor.fleet.values import Breaker, Phase, Reason
from tests.fleet.scene import Scene, config_of, failure_of, given

OLD = Model("a", {"ctx-size": 1})
NEW = Model("a", {"ctx-size": 2})


def reload(*models: str | Model, **server: float) -> Reconfigured:
    return Reconfigured(config_of(*models, **server))


def busy(*models: str | Model, **server: float) -> Scene:
    """The first of these models serves one request."""
    first = models[0] if isinstance(models[0], str) else models[0].id
    return given(*models, **server).has(first).when(Requested(f"{first}1")).then(Grant(f"{first}1", first))


def test_an_unchanged_model_is_left_alone() -> None:
    """With its requests and its process; other models may come and go."""
    scene = busy(OLD, "b").when(reload(OLD, "c")).then()

    assert scene.run("a").is_open
    assert scene.run("a").leases == 1
    scene.when(Requested("a2")).then(Grant("a2", "a"))


def test_a_changed_model_starts_anew_after_its_requests() -> None:
    """The old process serves what it has; the next request waits for the new one, which is what the config says now."""
    scene = busy(OLD).when(reload(NEW)).then()
    assert scene.run("a").retiring is Reason.RELOADED
    scene.when(Requested("a2")).then()
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("a"))

    assert scene.run("a").model == NEW
    scene.when(BecameReady("a")).then(Grant("a2", "a"))


def test_a_changed_model_without_requests_ends_at_once() -> None:
    """And does not start before somebody asks for it."""
    given(OLD).has("a").when(reload(NEW)).then(Terminate("a")).when(Exited("a")).then()


def test_a_start_that_is_under_way_begins_anew() -> None:
    """Who waits for it waits for the new one."""
    scene = given(OLD).when(Requested("a1")).then(Spawn("a"))
    scene.when(reload(NEW)).then(Terminate("a")).when(Exited("a")).then(Spawn("a"))

    scene.when(BecameReady("a")).then(Grant("a1", "a"))


def test_a_removed_model_refuses_those_who_wait_and_serves_those_it_has() -> None:
    """They are told the truth: there is no such model any more."""
    scene = busy(Model("a", concurrency=1), "b").when(Requested("a2")).then()
    scene.when(reload("b")).then(Refuse("a2", ModelNotFound))

    assert "`a` is not in the config any more" in str(scene.refusal)
    scene.when(Released("a1")).then(Terminate("a"))


def test_a_request_that_comes_too_late_is_refused() -> None:
    """Its model was there when its name was looked up."""
    scene = given("a", "b").when(reload("b")).when(Requested("a1"))

    assert isinstance(scene.refusal, ModelNotFound)


def test_what_needs_no_other_process_holds_at_once() -> None:
    """Here the time after which an idle model is unloaded, and how many requests it takes."""
    scene = given(Model("a"), "b").has("a")
    assert scene.deadline is None
    scene.when(reload(Model("a", ttl=10.0, concurrency=1), "b")).then()

    assert scene.deadline == 10.0
    scene.when(Requested("a1")).then(Grant("a1", "a")).when(Requested("a2")).then()


def test_a_change_that_is_taken_back_in_time_changes_nothing() -> None:
    """The process that was to leave is the right one again."""
    scene = busy(OLD).when(reload(NEW)).when(Requested("a2")).then()
    scene.when(reload(OLD)).then(Grant("a2", "a"))

    assert scene.run("a").retiring is None


def test_a_change_taken_back_too_late_starts_another_process() -> None:
    """One that has been told to end is not called back."""
    scene = given(OLD).has("a").when(reload(NEW)).then(Terminate("a")).when(reload(OLD)).then()

    assert scene.run("a").phase is Phase.STOPPING


def test_a_victim_that_has_changed_is_not_given_back() -> None:
    """Once nobody needs its place any more, its old process leaves all the same."""
    scene = busy(OLD, "b", max_loaded=1).when(Requested("b1")).then()
    assert scene.run("a").retiring is Reason.EVICTED
    scene.when(reload(NEW, max_loaded=1)).then(Refuse("b1", ModelNotFound))

    assert scene.run("a").retiring is Reason.RELOADED


@pytest.mark.parametrize("event", [UnloadAsked("a"), Closing()])
def test_who_asked_for_its_end_is_still_obeyed(event: UnloadAsked | Closing) -> None:
    """A reload neither puts off the end of an unloaded model nor calls it back."""
    scene = busy(OLD, drain_timeout=30.0).when(event).when(reload(NEW)).when(reload(OLD))

    assert scene.run("a").retiring in {Reason.UNLOADED, Reason.CLOSING}
    assert scene.run("a").cut_at == 30.0


def test_failures_of_a_changed_model_are_forgotten() -> None:
    """What failed was another start; the failures of others stay."""
    scene = given(OLD, "b", max_loaded=2)
    for model in ("a", "b"):
        scene.when(Requested(f"{model}1")).when(Exited(model, failure_of(model)))
    scene.when(reload(NEW, Model("b", ttl=1.0), max_loaded=2))

    assert scene.fleet.failures.keys() == {"b"}
    assert scene.fleet.breakers.keys() == {"b"}
    scene.when(Requested("a2")).then(Spawn("a"))


def test_a_crash_of_a_former_process_is_not_held_against_the_new_one() -> None:
    """It neither stops those who wait nor counts as a failure of what the config says now."""
    scene = busy(OLD).when(reload(NEW)).when(Requested("a2")).then()
    scene.when(Exited("a", failure_of("a", phase="serving"))).then(Spawn("a"))

    assert scene.fleet.failures == {}
    assert scene.fleet.breakers.get("a", Breaker()) == Breaker()


def test_less_room_is_made_at_once() -> None:
    """Whoever lowers `max_loaded` wants the memory back: idle models first, then the least recently used."""
    scene = given("a", "b", "c", max_loaded=3).has("a", "b", "c").when(Requested("a1")).then(Grant("a1", "a"))

    scene.when(reload("a", "b", "c", max_loaded=1)).then(Terminate("b"), Terminate("c"))
    assert scene.run("a").is_open


def test_a_victim_does_not_come_back_where_there_is_less_room() -> None:
    """It was to make room for somebody who has left meanwhile."""
    scene = busy("a", "b", "c", max_loaded=2).has("b").when(Requested("b1")).when(Requested("c1")).then()
    assert scene.run("a").retiring is Reason.EVICTED
    scene.when(reload("a", "b", "c", max_loaded=1)).when(Abandoned("c1")).then()

    assert scene.run("a").is_leaving


def test_pinned_models_stay_where_there_is_less_room() -> None:
    """That is what pinning means."""
    models = (Model("a", pinned=True), Model("b"))
    scene = given(*models, max_loaded=2).has("a", "b")

    scene.when(reload(*models, max_loaded=1)).then(Terminate("b"))


def test_more_room_lets_in_who_waits() -> None:
    """Without another word."""
    scene = busy("a", "b", max_loaded=1).when(Requested("b1")).then()

    scene.when(reload("a", "b", max_loaded=2)).then(Spawn("b"))
    assert scene.run("a").is_open


def test_other_groups_hold_at_once() -> None:
    """Two that had to be swapped may live side by side."""
    together = Groups({"g": Group(("a", "b"), swap=False)})
    scene = given("a", "b", routing=Groups({}), max_loaded=2).has("a")
    scene.when(Requested("a1")).when(Requested("b1")).then()

    scene.when(Reconfigured(replace(config_of("a", "b", max_loaded=2), routing=together))).then(Spawn("b"))


def test_other_priorities_put_the_queue_into_another_order() -> None:
    """And none at all into the order of arrival."""
    config = config_of("a", "b", "c", max_loaded=1)
    scene = given("a", "b", "c", max_loaded=1, priorities={"c": 1}).has("a").when(Requested("a1"))
    scene.when(Requested("b1")).when(Requested("c1"))
    assert scene.waiting == ["c1", "b1"]

    scene.when(Reconfigured(replace(config, priorities={"b": 2, "c": 1})))
    assert scene.waiting == ["b1", "c1"]
    scene.when(Reconfigured(replace(config, priorities={"c": 1}))).when(Reconfigured(config))
    assert scene.waiting == ["b1", "c1"]


def test_a_port_goes_from_one_model_to_another() -> None:
    """Numbered ports move when a model is put before others: who gets one waits until its former owner has gone."""
    scene = given(Model("b", port=5800), max_loaded=2).has("b").when(Requested("b1"))
    scene.when(reload(Model("a", port=5800), Model("b", port=5801), max_loaded=2)).then()
    scene.when(Requested("a1")).then()

    scene.when(Released("b1")).then(Terminate("b"))
    scene.when(Exited("b")).then(Spawn("a"))
