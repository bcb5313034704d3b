"""The planner as a dialogue: something happens, it says what to do. The stage directions are in scene.py."""

from __future__ import annotations

import pytest

from supervisor.config.values import Model, Overload
from supervisor.errors import CannotFit, ConcurrencyLimit, ModelFailed, ModelUnloaded, QueueFull, ShuttingDown
from supervisor.fleet.actions import Grant, Refuse, Spawn, Terminate
from supervisor.fleet.events import (
    Abandoned,
    BecameReady,
    Checked,
    Closing,
    Exited,
    Released,
    Requested,
    Tick,
    UnloadAsked,
)
from supervisor.fleet.values import Count, Phase, Reason
from tests.fleet.scene import failure_of, given

# Loading.


def test_first_request_loads_the_model() -> None:
    """A request for a cold model starts it, waits while it loads, and is let through when it is ready."""
    scene = given("a")

    scene.when(Requested("a1")).then(Spawn("a"))
    scene.when(Tick(), at=5).then()
    scene.when(BecameReady("a")).then(Grant("a1", "a"))


def test_requests_queue_while_the_model_loads() -> None:
    """2.6, rule 3: everybody who asks during a load is let through by the same child, in order of arrival."""
    scene = given("a").when(Requested("a1"))

    scene.when(Requested("a2")).then()
    scene.when(Requested("a3")).then()
    scene.when(BecameReady("a")).then(Grant("a1", "a"), Grant("a2", "a"), Grant("a3", "a"))


def test_loaded_model_serves_at_once() -> None:
    """2.6, rule 4: a request for a ready model does not wait, however many are served already."""
    scene = given("a").has("a")

    scene.when(Requested("a1")).then(Grant("a1", "a"))
    scene.when(Requested("a2")).then(Grant("a2", "a"))


def test_models_that_fit_live_side_by_side() -> None:
    """Nobody is evicted while there is a free place."""
    scene = given("a", "b", max_loaded=2).has("a")

    scene.when(Requested("b1")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"))
    scene.when(Requested("a1")).then(Grant("a1", "a"))


def test_two_models_load_at_the_same_time() -> None:
    """A load does not wait for another load when both fit."""
    scene = given("a", "b", max_loaded=2)

    scene.when(Requested("a1")).then(Spawn("a"))
    scene.when(Requested("b1")).then(Spawn("b"))


def test_abandoned_load_finishes() -> None:
    """2.6: a load is not thrown away because its client went away; the next one will be glad of it."""
    scene = given("a").when(Requested("a1"))

    scene.when(Abandoned("a1")).then()
    scene.when(BecameReady("a")).then()
    scene.when(Requested("a2")).then(Grant("a2", "a"))


def test_abandoned_load_is_evicted_when_its_place_is_needed() -> None:
    """Nobody waits for the end of a load that nobody wants."""
    scene = given("a", "b").when(Requested("a1")).when(Abandoned("a1"))

    scene.when(Requested("b1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))


def test_wanted_load_is_not_evicted() -> None:
    """A load that somebody waits for comes to its end and serves him before it goes."""
    scene = given("a", "b").when(Requested("a1"))

    scene.when(Requested("b1")).then()
    scene.when(BecameReady("a")).then(Grant("a1", "a"))
    scene.when(Released("a1")).then(Terminate("a"))


def test_load_that_a_later_ticket_waits_for_is_not_evicted() -> None:
    """Not even when he came after the one who needs the place: half a load helps nobody (llama.cpp #25528)."""
    scene = given("a", "b").when(Requested("a1")).when(Requested("b1")).when(Requested("a2"))

    scene.when(Abandoned("a1")).then()
    scene.when(BecameReady("a")).then(Grant("a2", "a"))
    scene.when(Released("a2")).then(Terminate("a"))


# Swapping.


def test_idle_model_makes_room() -> None:
    """An idle model leaves at once; its place is taken only when its process is gone."""
    scene = given("a", "b").has("a")

    scene.when(Requested("b1")).then(Terminate("a"))
    scene.when(Tick(), at=5).then()
    scene.when(Exited("a")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"))


def test_alternating_requests_cost_one_swap() -> None:
    """A B A B becomes A A B B."""
    scene = given("a", "b").when(Requested("a1"))
    scene.when(Requested("b1")).when(Requested("a2")).when(Requested("b2"))

    scene.when(BecameReady("a")).then(Grant("a1", "a"), Grant("a2", "a"))
    scene.when(Released("a1")).then()
    scene.when(Released("a2")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"), Grant("b2", "b"))


def test_busy_victim_is_not_terminated_before_its_last_lease_ended() -> None:
    """A swap cuts nobody, however long he takes."""
    scene = given("a", "b").has("a").when(Requested("a1")).when(Requested("a2"))

    scene.when(Requested("b1")).then()
    scene.when(Released("a2")).then()
    scene.when(Tick(), at=10_000).then()
    scene.when(Released("a1")).then(Terminate("a"))


def test_victim_takes_no_new_requests() -> None:
    """Who asks for a victim queues behind the swap, so a steady stream cannot hold its place for ever."""
    scene = given("a", "b").has("a").when(Requested("a1")).when(Requested("b1"))

    scene.when(Requested("a2")).then()
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Requested("a3")).then()
    scene.when(Exited("a")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"))
    scene.when(Released("b1")).then(Terminate("b"))
    scene.when(Exited("b")).then(Spawn("a"))
    scene.when(BecameReady("a")).then(Grant("a2", "a"), Grant("a3", "a"))


def test_idle_before_busy() -> None:
    """The victim is an idle model, even when a busy one was used longer ago."""
    scene = given("a", "b", "c", max_loaded=2).has("a").when(Requested("a1"))
    scene.when(Tick(), at=10).has("b")

    scene.when(Requested("c1")).then(Terminate("b"))


def test_least_recently_used_leaves_first() -> None:
    """Among idle models the victim is the one whose last request ended longest ago."""
    scene = given("a", "b", "c", max_loaded=2).has("a", "b")
    scene.when(Requested("b1"), at=1).when(Requested("a1"), at=2).when(Released("a1"), at=3).when(Released("b1"), at=4)

    scene.when(Requested("c1"), at=5).then(Terminate("a"))


def test_least_recently_used_among_busy() -> None:
    """When all are busy, the one that got its last request longest ago is drained, and no other."""
    scene = given("a", "b", "c", max_loaded=2).has("a", "b")
    scene.when(Requested("b1"), at=1).when(Requested("a1"), at=2)

    scene.when(Requested("c1"), at=3).then()
    scene.when(Requested("a2")).then(Grant("a2", "a"))
    scene.when(Requested("b2")).then()


def test_another_victim_is_chosen_when_it_is_idle_first() -> None:
    """Room is made by whoever can leave first; the victim that is not needed any more serves on, at once."""
    scene = given("a", "b", "c", max_loaded=2).has("a", "b")
    scene.when(Requested("a1"), at=1).when(Requested("b1"), at=2).when(Requested("c1"), at=3).when(Requested("a2"))

    scene.when(Released("b1"), at=4).then(Grant("a2", "a"), Terminate("b"))
    scene.when(Exited("b")).then(Spawn("c"))


def test_victim_stays_the_victim_when_nothing_better_turns_up() -> None:
    """A choice among busy models is not made anew with every request."""
    scene = given("a", "b", "c", max_loaded=2).has("a", "b")
    scene.when(Requested("a1"), at=1).when(Requested("b1"), at=2).when(Requested("c1"), at=3)
    scene.fleet = scene.fleet.recounted({scene.run("a").id: Count(1, 10.0)})

    scene.when(Tick(), at=11).then()
    scene.when(Requested("b2")).then(Grant("b2", "b"))
    scene.when(Requested("a2")).then()


def test_victim_is_given_back_when_nobody_wants_its_place() -> None:
    """The client of the swap went away: the victim stays, and those who waited for it are served at once."""
    scene = given("a", "b").has("a").when(Requested("a1")).when(Requested("b1")).when(Requested("a2"))

    scene.when(Abandoned("b1")).then(Grant("a2", "a"))
    scene.when(Released("a1")).then()
    assert scene.run("a").is_open


def test_terminated_victim_does_not_come_back() -> None:
    """Once a child was told to end, giving up the swap changes nothing; its model starts anew when wanted."""
    scene = given("a", "b").has("a").when(Requested("b1"))

    scene.when(Abandoned("b1")).then()
    assert scene.run("a").retiring is Reason.EVICTED
    scene.when(Requested("a1")).then()
    scene.when(Exited("a")).then(Spawn("a"))


def test_model_of_an_earlier_ticket_is_no_victim() -> None:
    """Who came first is served by the loaded model first, even if it has no place for him just now."""
    scene = given(Model("a", concurrency=1), "b").has("a").when(Requested("a1")).when(Requested("a2"))

    scene.when(Requested("b1")).then()
    scene.when(Released("a1")).then(Grant("a2", "a"))
    scene.when(Released("a2")).then(Terminate("a"))


def test_just_loaded_model_serves_before_it_is_evicted() -> None:
    """A model is not evicted between its start and its first request (llama.cpp #28443)."""
    scene = given("a", "b").has("a").when(Requested("b1")).when(Requested("a1")).when(Exited("a"))

    scene.when(BecameReady("b")).then(Grant("b1", "b"))
    scene.when(Released("b1")).then(Terminate("b"))


def test_one_place_needs_one_victim() -> None:
    """A swap takes no more than it needs, and a second one takes its own beside it."""
    scene = given("a", "b", "c", "d", max_loaded=2).has("a", "b")

    scene.when(Requested("c1")).then(Terminate("a"))
    scene.when(Requested("b1")).then(Grant("b1", "b"))
    scene.when(Requested("d1")).then()
    scene.when(Released("b1")).then(Terminate("b"))


def test_place_that_becomes_free_otherwise_ends_the_search() -> None:
    """A crash elsewhere makes the room: the victim is given back."""
    scene = given("a", "b", "c", max_loaded=2).has("a", "b")
    scene.when(Requested("a1"), at=1).when(Requested("b1"), at=2).when(Requested("c1"), at=3).when(Requested("a2"))

    scene.when(Exited("b", failure_of("b", phase="serving"))).then(Grant("a2", "a"), Spawn("c"))


# Waiting in line.


def test_nobody_slips_into_the_place_of_the_head_of_the_line() -> None:
    """A place that becomes free goes to who has waited longest."""
    scene = given("a", "b", "c").has("a").when(Requested("a1")).when(Requested("b1")).when(Requested("c1"))

    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"))
    scene.when(Released("b1")).then(Terminate("b"))
    scene.when(Exited("b")).then(Spawn("c"))


def test_head_of_the_line_holds_only_what_it_waits_for() -> None:
    """Who waits for the end of its own model's old process leaves the free place to the next."""
    scene = given("a", "b", max_loaded=2).has("a").when(UnloadAsked("a")).when(Requested("a1"))

    scene.when(Requested("b1")).then(Spawn("b"))
    scene.when(Exited("a")).then(Spawn("a"))


def test_loaded_models_serve_while_the_head_waits() -> None:
    """A line for a place does not stop those who need none."""
    scene = given("a", "b", "c", max_loaded=2).has("a", "b").when(Requested("a1"), at=1).when(Requested("b1"), at=2)
    scene.when(Requested("c1"), at=3)

    scene.when(Requested("b2"), at=60).then(Grant("b2", "b"))


def test_overtaking_ends_after_max_wait() -> None:
    """Who has waited for a place for `max_wait` is overtaken by nobody who uses a place that could become his."""
    scene = given("a", Model("b", concurrency=1), "c", max_loaded=2, max_wait=60).has("a", "b")
    scene.when(Requested("a1"), at=1).when(Requested("b1"), at=2).when(Requested("c1"), at=3).when(Requested("b2"))

    scene.when(Released("b1"), at=64).then(Terminate("b"))
    scene.when(Exited("b")).then(Spawn("c"))


def test_overtaking_is_allowed_until_max_wait() -> None:
    """Up to `max_wait`, serving on what is loaded comes before the swap."""
    scene = given("a", Model("b", concurrency=1), "c", max_loaded=2, max_wait=60).has("a", "b")
    scene.when(Requested("a1"), at=1).when(Requested("b1"), at=2).when(Requested("c1"), at=3).when(Requested("b2"))

    scene.when(Released("b1"), at=62).then(Grant("b2", "b"))


def test_who_waited_for_a_load_goes_with_it() -> None:
    """Also past an overdue ticket: each would need a load of his own otherwise."""
    scene = given("a", "b", max_wait=60).when(Requested("a1")).when(Requested("b1")).when(Requested("a2"))

    scene.when(BecameReady("a"), at=61).then(Grant("a1", "a"), Grant("a2", "a"))
    scene.when(Requested("a3")).when(Released("a1")).then()
    scene.when(Released("a2")).then(Terminate("a"))


def test_overdue_ticket_ends_the_run_of_grants() -> None:
    """Who finds no place when the load ends goes behind it."""
    scene = given(Model("a", concurrency=1), "b", max_wait=60)
    scene.when(Requested("a1")).when(Requested("b1")).when(Requested("a2"))

    scene.when(BecameReady("a"), at=61).then(Grant("a1", "a"))
    scene.when(Released("a1")).then(Terminate("a"))


def test_pinned_model_is_open_to_all_even_behind_an_overdue_ticket() -> None:
    """A place that never becomes free cannot be taken away from who waits for one."""
    scene = given(Model("p", pinned=True, concurrency=1), "a", "b", max_loaded=2, max_wait=60).has("p", "a")
    scene.when(Requested("a1")).when(Requested("p1")).when(Requested("b1")).when(Requested("p2"))

    scene.when(Released("p1"), at=61).then(Grant("p2", "p"))


def test_waiting_for_a_slow_load_holds_nobody_up() -> None:
    """`max_wait` is about places; whose model is loading has one."""
    scene = given(Model("a", concurrency=1), "b", max_loaded=2, max_wait=60).has("a").when(Requested("a1"))
    scene.when(Requested("b1")).when(Requested("a2"))

    scene.when(Released("a1"), at=100).then(Grant("a2", "a"))


def test_concurrency_limits_requests_at_a_time() -> None:
    """With `concurrency`, a request more waits for the end of another, without a second child."""
    scene = given(Model("a", concurrency=2), max_loaded=2).has("a")

    scene.when(Requested("a1")).then(Grant("a1", "a"))
    scene.when(Requested("a2")).then(Grant("a2", "a"))
    scene.when(Requested("a3")).then()
    scene.when(Requested("a4")).then()
    scene.when(Released("a2")).then(Grant("a3", "a"))


def test_full_queue_refuses_the_newest() -> None:
    """Who finds `max_queue` requests waiting is told to come back; those who wait are not touched."""
    scene = given("a", "b", max_queue=2).when(Requested("a1")).when(Requested("b1"))

    scene.when(Requested("a2")).then(Refuse("a2", QueueFull))
    assert scene.refusal.status == 429
    assert scene.refusal.retry_after == 1
    assert str(scene.refusal) == "2 requests are waiting already"
    assert scene.waiting == ["a1", "b1"]


def test_full_queue_does_not_refuse_who_need_not_wait() -> None:
    """A ready model serves, however long the line for others is."""
    scene = given("a", "b", "c", max_loaded=2, max_queue=1).has("a", "b").when(Requested("a1"), at=1)
    scene.when(Requested("b1"), at=2).when(Requested("c1"), at=3)

    scene.when(Requested("b2")).then(Grant("b2", "b"))
    scene.when(Requested("a2")).then(Refuse("a2", QueueFull))


def test_full_queue_refuses_who_waits_for_a_full_model() -> None:
    """A ready model without a free place is a wait like any other."""
    scene = given(Model("a", concurrency=1), max_queue=1).has("a").when(Requested("a1")).when(Requested("a2"))

    scene.when(Requested("a3")).then(Refuse("a3", QueueFull))


def refusing(name: str = "a", *, concurrency: int = 2) -> Model:
    return Model(name, concurrency=concurrency, overload=Overload.REFUSE)


def test_too_many_requests_are_refused_at_once() -> None:
    """2.6, rule 2: a model that refuses counts requests that wait for its load, and forgets those that left."""
    scene = given(refusing()).when(Requested("a1")).when(Requested("a2"))

    scene.when(Requested("a3")).then(Refuse("a3", ConcurrencyLimit))
    scene.when(Abandoned("a1")).when(Requested("a4"))
    scene.when(BecameReady("a")).then(Grant("a2", "a"), Grant("a4", "a"))


def test_requests_that_are_served_count_until_they_end() -> None:
    """2.6, rule 2: the next one is let through when one has ended; another model's do not count."""
    scene = given(refusing(), refusing("b"), max_loaded=2).has("a", "b").when(Requested("b1"))
    scene.when(Requested("a1")).when(Requested("a2"))

    scene.when(Requested("a3")).then(Refuse("a3", ConcurrencyLimit))
    assert scene.refusal.retry_after == 1.0
    scene.when(Released("a1")).when(Requested("a4")).then(Grant("a4", "a"))


# Pinned models.


def test_pinned_model_is_never_evicted() -> None:
    """Room is made by another model, even a busy one used later."""
    scene = given(Model("p", pinned=True), "a", "b", max_loaded=2).has("p").when(Requested("a1"), at=1)
    scene.when(BecameReady("a"), at=2)

    scene.when(Requested("b1"), at=3).then()
    scene.when(Released("a1"), at=4).then(Terminate("a"))


def test_model_that_can_never_fit_is_refused_at_once() -> None:
    """When pinned models hold all places, the answer says which, and what to change."""
    scene = given(Model("p", pinned=True), Model("q", pinned=True), "a", max_loaded=2).has("p", "q")

    scene.when(Requested("a1")).then(Refuse("a1", CannotFit))
    assert scene.refusal.status == 507
    assert str(scene.refusal) == "`a` can never be loaded: pinned models (`p`, `q`) hold all 2 places"
    assert "max_loaded" in scene.refusal.hint


def test_pinned_model_serves_although_it_fills_the_house() -> None:
    """A pinned model is not in its own way."""
    scene = given(Model("p", pinned=True), "a").has("p")

    scene.when(Requested("p1")).then(Grant("p1", "p"))


def test_pinned_model_evicts_others() -> None:
    """A pinned model gets its place like any other; who waited behind it for the last one cannot be helped."""
    scene = given(Model("p", pinned=True), "a").has("a")

    scene.when(Requested("p1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("p"))
    scene.when(Requested("a1")).then(Refuse("a1", CannotFit))
    scene.when(BecameReady("p")).then(Grant("p1", "p"))


def test_pinned_model_can_be_unloaded_by_hand() -> None:
    """Pinned means never evicted, not never unloaded."""
    scene = given(Model("p", pinned=True)).has("p")

    scene.when(UnloadAsked("p")).then(Terminate("p"))


# Idleness.


def test_idle_model_leaves_after_its_ttl() -> None:
    """The planner asks to be woken when the time is over, and then ends the child."""
    scene = given(Model("a", ttl=60)).when(Tick(), at=100).has("a")

    assert scene.deadline == 160
    scene.when(Tick(), at=159).then()
    scene.when(Tick(), at=160).then(Terminate("a"))
    assert scene.deadline is None


def test_idle_time_starts_when_the_model_is_ready() -> None:
    """A long load is not idleness, even if nobody waits for its end."""
    scene = given(Model("a", ttl=60)).when(Requested("a1")).when(Abandoned("a1"))

    assert scene.deadline is None
    scene.when(BecameReady("a"), at=100).then()
    assert scene.deadline == 160


def test_busy_model_is_not_idle() -> None:
    """While a request is served the planner only looks again later; idle time starts when the last one ends."""
    scene = given(Model("a", ttl=60)).has("a").when(Requested("a1"), at=10)

    assert scene.deadline == 70
    scene.when(Tick(), at=70).then()
    assert scene.deadline == 130
    scene.when(Released("a1"), at=100).then()
    assert scene.deadline == 160
    scene.when(Tick(), at=159).then()
    scene.when(Tick(), at=160).then(Terminate("a"))


def test_request_at_the_last_moment_keeps_the_model() -> None:
    """Who comes when the time is over is served before the model is looked at."""
    scene = given(Model("a", ttl=60)).has("a")

    scene.when(Requested("a1"), at=60).then(Grant("a1", "a"))


def test_model_without_ttl_stays() -> None:
    """Without `ttl` nobody is woken and nothing is unloaded."""
    scene = given("a").has("a")

    assert scene.deadline is None
    scene.when(Tick(), at=1_000_000).then()


def test_earliest_deadline_counts() -> None:
    """With several reasons to wake up, the first is named."""
    scene = given(Model("a", ttl=60), Model("b", ttl=20), "c", max_loaded=3, drain_timeout=10).has("a", "b", "c")

    assert scene.deadline == 20
    scene.when(Requested("c1")).when(UnloadAsked("c"))
    assert scene.deadline == 10


# Unloading by hand.


def test_unload_ends_an_idle_model() -> None:
    """An idle model goes at once; others stay."""
    scene = given("a", "b", max_loaded=2).has("a", "b")

    scene.when(UnloadAsked("a")).then(Terminate("a"))


def test_unload_waits_for_requests_in_flight() -> None:
    """An unload lets requests finish, and ends the child with the last of them."""
    scene = given("a", drain_timeout=30).has("a").when(Requested("a1"))

    scene.when(UnloadAsked("a"), at=10).then()
    scene.when(Released("a1"), at=20).then(Terminate("a"))
    assert scene.deadline is None


def test_unload_cuts_after_drain_timeout() -> None:
    """Requests that take longer than `drain_timeout` are cut; the planner asks to be woken for that."""
    scene = given("a", drain_timeout=30).has("a").when(Requested("a1")).when(UnloadAsked("a"), at=10)

    assert scene.deadline == 40
    scene.when(Tick(), at=39).then()
    scene.when(Tick(), at=40).then(Terminate("a"))
    assert scene.deadline is None


def test_forced_unload_cuts_at_once() -> None:
    """With `force` nobody is waited for, not even after a gentler unload."""
    scene = given("a").has("a").when(Requested("a1")).when(UnloadAsked("a"))

    scene.when(UnloadAsked("a", force=True)).then(Terminate("a"))


def test_second_unload_does_not_prolong_the_first() -> None:
    """Asking again does not start the drain anew."""
    scene = given("a", drain_timeout=30).has("a").when(Requested("a1")).when(UnloadAsked("a"))

    scene.when(UnloadAsked("a"), at=20).then()
    assert scene.deadline == 30


def test_unloading_model_takes_no_new_requests() -> None:
    """Who asks for a model that is being unloaded gets a fresh child, even when the client of a swap goes away."""
    scene = given("a", "b").has("a").when(Requested("a1")).when(UnloadAsked("a"))

    scene.when(Requested("a2")).then()
    scene.when(Requested("b1")).then()
    scene.when(Abandoned("b1")).then()
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("a"))
    scene.when(BecameReady("a")).then(Grant("a2", "a"))


def test_place_of_an_unloading_model_is_waited_for() -> None:
    """Nobody is evicted for a place that is about to become free."""
    scene = given("a", "b", "c", max_loaded=2).has("a", "b").when(Requested("a1")).when(UnloadAsked("a"))

    scene.when(Requested("c1")).then()
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("c"))


def test_unload_while_loading_refuses_who_waits() -> None:
    """2.6: an unload ends a load and tells those who wait for it, or they would start it again."""
    scene = given("a", "b", max_loaded=2).when(Requested("a1")).when(Requested("b1")).when(Requested("a2"))

    scene.when(UnloadAsked("a")).then(Refuse("a1", ModelUnloaded), Refuse("a2", ModelUnloaded), Terminate("a"))
    scene.when(Exited("a")).then()
    assert scene.waiting == ["b1"]


def test_unload_of_a_ready_model_keeps_who_waits_for_it() -> None:
    """Who waits for a place in a model that is unloaded gets one in a fresh child."""
    scene = given(Model("a", concurrency=1)).has("a").when(Requested("a1")).when(Requested("a2"))

    scene.when(UnloadAsked("a")).then()
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("a"))
    scene.when(BecameReady("a")).then(Grant("a2", "a"))


def test_unload_of_a_victim_is_final() -> None:
    """A victim that is unloaded by hand is not given back."""
    scene = given("a", "b").has("a").when(Requested("a1")).when(Requested("b1")).when(UnloadAsked("a"))

    scene.when(Abandoned("b1")).then()
    scene.when(Released("a1")).then(Terminate("a"))


def test_unload_of_all() -> None:
    """Without a name, everything goes: idle and loading at once, busy when it is done."""
    scene = given("a", "b", "c", max_loaded=3).has("a", "b").when(Requested("b1")).when(Requested("c1"))

    scene.when(UnloadAsked()).then(Refuse("c1", ModelUnloaded), Terminate("a"), Terminate("c"))
    scene.when(Released("b1")).then(Terminate("b"))


def test_unload_of_a_cold_model_does_nothing() -> None:
    """There is nothing to end, and who waits for his turn keeps it."""
    scene = given("a", "b").when(Requested("a1")).when(Requested("b1"))

    scene.when(UnloadAsked("b")).then()
    assert scene.waiting == ["a1", "b1"]


# Failures.


def test_failed_start_refuses_all_who_wait_for_it() -> None:
    """2.6: everybody who waits for a model that could not start learns why; the others go on."""
    scene = given("a", "b").when(Requested("a1")).when(Requested("b1")).when(Requested("a2"))
    failure = failure_of("a")

    scene.when(Exited("a", failure)).then(Refuse("a1", ModelFailed), Refuse("a2", ModelFailed), Spawn("b"))
    assert [action.error.failure.id for action in scene.actions[:2]] == [failure.id, failure.id]
    assert scene.fleet.failures["a"].id == failure.id


def test_failure_is_kept_until_the_model_becomes_ready() -> None:
    """A later request tries again; only a success wipes the slate, and only that model's."""
    scene = given("a", "b").when(Requested("b1")).when(Exited("b", failure_of("b")))
    scene.when(Requested("a1")).when(Exited("a", failure_of("a")))

    scene.when(Requested("a2"), at=60).then(Spawn("a"))
    assert set(scene.fleet.failures) == {"a", "b"}
    scene.when(BecameReady("a")).then(Grant("a2", "a"))
    assert set(scene.fleet.failures) == {"b"}


def test_failed_check_is_kept_as_failure() -> None:
    """What a look at a cold model found is remembered like a failed start; a clean look at another changes nothing."""
    scene = given("a", "b")
    failure = failure_of("a", phase="preparing")

    scene.when(Checked("a", failure)).then()
    scene.when(Checked("b", None)).then()
    assert scene.fleet.failures["a"].id == failure.id


def test_crash_while_serving_restarts_for_those_who_wait() -> None:
    """A crash is not the fault of who waits: he gets a fresh start. It is kept until that succeeds."""
    scene = given(Model("a", concurrency=1)).has("a").when(Requested("a1")).when(Requested("a2"))

    scene.when(Exited("a", failure_of("a", phase="serving"))).then(Spawn("a"))
    assert set(scene.fleet.failures) == {"a"}
    scene.when(BecameReady("a")).then(Grant("a2", "a"))
    assert not scene.fleet.failures


def test_crash_while_nobody_waits_leaves_the_model_cold() -> None:
    """A crash is no reason to start a model that nobody asks for."""
    scene = given("a").has("a")

    scene.when(Exited("a", failure_of("a", phase="serving"))).then()
    assert not scene.fleet.runs
    assert set(scene.fleet.failures) == {"a"}


def test_wanted_end_is_no_failure() -> None:
    """A child that ends because it was told to is not reported."""
    scene = given("a").has("a").when(UnloadAsked("a"))

    scene.when(Exited("a")).then()
    assert not scene.fleet.failures


# The end of the service.


def test_closing_refuses_everybody_and_ends_what_is_idle() -> None:
    """Nobody waits for a service that is going down; idle and loading children go at once."""
    scene = given("a", "b", "c", max_loaded=2).has("a").when(Requested("b1")).when(Requested("c1"))

    scene.when(Closing()).then(Refuse("b1", ShuttingDown), Refuse("c1", ShuttingDown), Terminate("b"))
    assert scene.run("a").phase is Phase.STOPPING  # it made room for c
    scene.when(Exited("a")).when(Exited("b"))
    assert not scene.fleet.runs


def test_closing_lets_requests_finish() -> None:
    """A request in flight has `drain_timeout` to end."""
    scene = given("a", "b", max_loaded=2, drain_timeout=30).has("a", "b").when(Requested("a1"))

    scene.when(Closing(), at=10).then(Terminate("b"))
    scene.when(Released("a1"), at=20).then(Terminate("a"))


def test_closing_cuts_after_drain_timeout() -> None:
    """Who takes longer is cut."""
    scene = given("a", drain_timeout=30).has("a").when(Requested("a1")).when(Closing(), at=10)

    assert scene.deadline == 40
    scene.when(Tick(), at=40).then(Terminate("a"))


def test_closed_service_starts_nothing() -> None:
    """Who comes late is refused, whether his model is cold or still draining."""
    scene = given("a", "b", max_loaded=2).has("a").when(Requested("a1")).when(Closing())

    scene.when(Requested("b1")).then(Refuse("b1", ShuttingDown))
    scene.when(Requested("a2")).then(Refuse("a2", ShuttingDown))
    assert scene.refusal.status == 503


# Late news.


def test_ready_after_terminate_changes_nothing() -> None:
    """A child that was told to end serves nobody, even if it says that it could."""
    scene = given("a", "b").when(Requested("a1")).when(Abandoned("a1")).when(Requested("b1")).when(Requested("a2"))
    before = scene.fleet

    scene.when(BecameReady("a"), at=5).then()
    assert scene.fleet == before


@pytest.mark.parametrize("late", [Exited("a"), Exited("a", failure_of("a")), BecameReady("a")], ids=repr)
def test_news_of_a_gone_run_changes_nothing(late: Exited | BecameReady) -> None:
    """A process is gone once; what is said of it afterwards is not held against its successor's model."""
    scene = given("a", "b").has("a").when(Requested("b1")).when(Exited("a")).when(Requested("a1"))
    before = scene.fleet

    scene.when(late, at=5).then()
    assert scene.fleet == before


def test_release_of_a_gone_run_changes_nothing() -> None:
    """The lease of a crashed child may end after it."""
    scene = given("a", "b").has("a").when(Requested("a1")).when(Exited("a", failure_of("a"))).when(Requested("b1"))
    before = scene.fleet

    scene.when(Released("a1"), at=5).then()
    assert scene.fleet == before


def test_abandoning_an_answered_ticket_changes_nothing() -> None:
    """A client may go away in the moment it is let through."""
    scene = given("a").has("a").when(Requested("a1"))
    before = scene.fleet

    scene.when(Abandoned("a1"), at=5).then()
    assert scene.fleet == before


def test_fleet_shows_its_state() -> None:
    """The log says in a few words what there is."""
    scene = given("a", "b", "c", max_loaded=2)

    assert repr(scene.fleet) == "<Fleet [cold | 0 queued]>"
    scene.has("a").when(Requested("b1")).when(Requested("c1"))
    assert repr(scene.fleet) == "<Fleet [1 starting, 1 stopping | 2 queued]>"
    scene.when(Closing())
    assert repr(scene.fleet) == "<Fleet [2 stopping | 0 queued | closing]>"
