"""Groups, a matrix and priorities as a dialogue with the planner (spec: llama-swap.md, 2.6 to 2.8)."""

from __future__ import annotations

import pytest

from supervisor.config.routing import DEFAULT_GROUP, Group, Groups
from supervisor.config.values import Model
from supervisor.errors import CannotFit, ModelNotFound, QueueFull
from supervisor.fleet.actions import Grant, Refuse, Spawn, Terminate
from supervisor.fleet.events import Abandoned, BecameReady, Exited, Released, Requested, Tick, UnloadAsked
from supervisor.fleet.values import Phase, Reason
from tests.fleet.scene import Scene, failure_of, given, matrix_of

PLACES = 9
"""More than there are models: room is not what these are about."""


def grouped(*models: str | Model, **groups: Group) -> Scene:
    """These groups, and the rest in the default group."""
    taken = {member for group in groups.values() for member in group.members}
    names = [model if isinstance(model, str) else model.id for model in models]
    rest = Group(tuple(name for name in names if name not in taken))
    return given(*models, routing=Groups({**groups, DEFAULT_GROUP: rest}), max_loaded=PLACES)


# The scheduler: rules 2 to 4 are in test_planner.py.


def test_unknown_model_is_refused_before_anything_else() -> None:
    """2.6, rule 1: its name may have gone between the look at it and this."""
    scene = given("a", max_queue=0)

    scene.when(Requested("x1")).then(Refuse("x1", ModelNotFound))


def test_queue_is_walked_again_after_an_unload() -> None:
    """2.6: not only after swaps and requests."""
    scene = grouped("a", "b").has("a").when(Requested("a1")).when(Requested("b1")).then()

    scene.when(UnloadAsked("a", force=True)).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))


def test_unload_holds_up_nobody_else() -> None:
    """Unlike 2.6: while the requests of a model that is unloaded are waited for, all others go on."""
    scene = given("a", "b", "c", max_loaded=3).has("a", "b").when(Requested("a1")).when(UnloadAsked("a")).then()

    scene.when(Requested("b1")).then(Grant("b1", "b"))
    scene.when(Requested("c1")).then(Spawn("c"))


def test_unload_does_not_drop_who_waits_in_line() -> None:
    """Unlike 2.6: who waits for a model that is neither loaded nor loading has lost nothing by its unload."""
    scene = grouped("a", "b").has("a").when(Requested("a1")).when(Requested("b1"))

    scene.when(UnloadAsked("b")).then()
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))


# Groups.


def test_member_of_a_swapping_group_takes_the_place_of_another() -> None:
    """2.7: in g and g.swap. It starts when the other's process is gone, though there is room for both."""
    scene = grouped("a", "b", g=Group(("a", "b"))).has("a")

    scene.when(Requested("b1")).then(Terminate("a"))
    scene.when(Tick(), at=5).then()
    scene.when(Exited("a")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"))


def test_members_of_a_group_without_swap_live_together() -> None:
    """2.7: in g and not g.swap."""
    scene = grouped("a", "b", "c", g=Group(("a", "b", "c"), swap=False)).has("a")

    scene.when(Requested("b1")).then(Spawn("b"))
    scene.when(Requested("c1")).then(Spawn("c"))
    scene.when(Requested("a1")).then(Grant("a1", "a"))


def test_exclusive_group_evicts_other_groups() -> None:
    """2.7: in another group, g.exclusive and not h.persistent. All of them at once."""
    scene = grouped("a", "d", "e", g=Group(("a",)), h=Group(("d", "e"), swap=False)).has("d", "e")

    scene.when(Requested("a1")).then(Terminate("d"), Terminate("e"))
    scene.when(Exited("e")).then()
    scene.when(Exited("d")).then(Spawn("a"))


def test_persistent_group_stays() -> None:
    """2.7: h.persistent is left loaded by an exclusive group."""
    always = Group(("e",), swap=False, exclusive=False, persistent=True)
    scene = grouped("a", "b", "e", always=always).has("e", "a")

    scene.when(Requested("b1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))
    assert scene.run("e").is_open


def test_non_exclusive_group_evicts_no_other() -> None:
    """2.7: a non-exclusive target never evicts other groups, even exclusive ones."""
    scene = grouped("a", "e", side=Group(("e",), exclusive=False)).has("a")

    scene.when(Requested("e1")).then(Spawn("e"))
    scene.when(BecameReady("e")).then(Grant("e1", "e"))
    scene.when(Requested("a1")).then(Grant("a1", "a"))


def test_non_exclusive_group_is_evicted_by_an_exclusive_one() -> None:
    """2.7: it is not symmetric: what may come beside the other must leave when the other comes."""
    scene = grouped("a", "e", side=Group(("e",), exclusive=False)).has("e")

    scene.when(Requested("a1")).then(Terminate("e"))


def test_default_group_swaps() -> None:
    """2.7: models in no group are in one that swaps and is exclusive."""
    scene = grouped("a", "b", "d", g=Group(("d",), exclusive=False)).has("a")

    scene.when(Requested("b1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"))
    scene.when(Released("b1")).when(Requested("d1")).then(Spawn("d"))
    scene.when(BecameReady("d")).when(Released("d1")).when(Requested("a1")).then(Terminate("b"), Terminate("d"))


def test_request_for_a_ready_model_evicts_nobody() -> None:
    """Unlike 2.7: who may come beside an exclusive model stays until that model has to be loaded again."""
    scene = grouped("a", "e", side=Group(("e",), exclusive=False)).has("a", "e")

    scene.when(Requested("a1")).then(Grant("a1", "a"))
    assert scene.run("e").is_open


# The order of things.


def test_busy_model_is_drained_before_it_is_evicted() -> None:
    """2.6, rule 6: a run that serves is never cut, and who asks for it meanwhile waits his turn."""
    scene = grouped("a", "b", g=Group(("a", "b"))).has("a").when(Requested("a1"))

    scene.when(Requested("b1")).then()
    scene.when(Requested("a2")).then()
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"))
    scene.when(Released("b1")).then(Terminate("b"))
    scene.when(Exited("b")).then(Spawn("a"))


def test_alternating_requests_cost_one_swap() -> None:
    """2.6: A B C A B C becomes A A B B C C."""
    scene = grouped("a", "b", "c").when(Requested("a1")).when(Requested("b1")).when(Requested("c1"))
    scene.when(Requested("a2")).when(Requested("b2")).when(Requested("c2"))

    scene.when(BecameReady("a")).then(Grant("a1", "a"), Grant("a2", "a"))
    scene.when(Released("a1")).when(Released("a2")).when(Exited("a")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"), Grant("b2", "b"))
    scene.when(Released("b1")).when(Released("b2")).when(Exited("b")).then(Spawn("c"))
    scene.when(BecameReady("c")).then(Grant("c1", "c"), Grant("c2", "c"))


def test_load_that_somebody_waits_for_is_not_evicted() -> None:
    """2.6, rule 5: who would evict a model that is starting waits until it has served."""
    scene = grouped("a", "b").when(Requested("a1"))

    scene.when(Requested("b1")).then()
    scene.when(BecameReady("a")).then(Grant("a1", "a"))
    scene.when(Released("a1")).then(Terminate("a"))


def test_load_that_a_later_ticket_waits_for_is_not_evicted() -> None:
    """2.6, rule 5: whoever it is that waits for it."""
    scene = grouped("a", "b").when(Requested("a1")).when(Requested("b1")).when(Requested("a2"))

    scene.when(Abandoned("a1")).then()
    scene.when(BecameReady("a")).then(Grant("a2", "a"))
    scene.when(Released("a2")).then(Terminate("a"))


def test_load_that_nobody_waits_for_is_evicted() -> None:
    """2.6: a load whose client left goes on, until another model needs it gone."""
    scene = grouped("a", "b").when(Requested("a1")).when(Abandoned("a1"))

    scene.when(Requested("b1")).then(Terminate("a"))


def test_model_does_not_start_beside_one_that_would_evict_it() -> None:
    """2.6, rule 5: it would evict us. Once that one is ready, the two may live together."""
    scene = grouped("a", "e", side=Group(("e",), exclusive=False)).when(Requested("a1"))

    scene.when(Requested("e1")).then()
    scene.when(BecameReady("a")).then(Grant("a1", "a"), Spawn("e"))


def test_model_does_not_start_in_the_way_of_an_earlier_one() -> None:
    """Who would only have to leave again lets the one before him start first."""
    scene = grouped("a", "b", "e", side=Group(("e",), exclusive=False)).has("a").when(Requested("a1"))
    scene.when(Requested("b1")).then()

    scene.when(Requested("e1")).then()
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))
    scene.when(BecameReady("b")).then(Grant("b1", "b"), Spawn("e"))


def two_pairs() -> Scene:
    """a or b on one side, c or d on the other."""
    pairs = {"g": Group(("a", "b"), exclusive=False), "h": Group(("c", "d"), exclusive=False)}
    return grouped("a", "b", "c", "d", **pairs)


@pytest.mark.parametrize("kind", ["groups", "matrix"])
def test_disjoint_swaps_go_on_side_by_side(kind: str) -> None:
    """2.6, rule 7: neither waits for the other, however long the other's requests take."""
    matrix = matrix_of("(a | b) & (d | c)")
    scene = two_pairs() if kind == "groups" else given("a", "b", "c", "d", routing=matrix, max_loaded=PLACES)
    scene.has("a", "c").when(Requested("a1"))

    scene.when(Requested("b1")).then()
    scene.when(Requested("d1")).then(Terminate("c"))
    scene.when(Exited("c")).then(Spawn("d"))
    scene.when(BecameReady("d")).then(Grant("d1", "d"))
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))


def test_two_models_come_for_one_that_leaves() -> None:
    """2.6, rule 5, softened: both evict the same, and they may live together, so they start together."""
    scene = given("a", "b", "c", routing=matrix_of("a & b", "c"), max_loaded=PLACES).has("c")

    scene.when(Requested("a1")).then(Terminate("c"))
    scene.when(Requested("b1")).then()
    scene.when(Exited("c")).then(Spawn("a"), Spawn("b"))


def test_eviction_is_given_back_when_nobody_wants_it() -> None:
    """2.6: the queued request's client left, so no load happens; those who waited for the victim are served at once."""
    scene = grouped("a", "b").has("a").when(Requested("a1")).when(Requested("b1")).when(Requested("a2"))

    scene.when(Abandoned("b1")).then(Grant("a2", "a"))
    scene.when(Released("a1")).then()
    assert scene.run("a").is_open


def test_model_that_an_earlier_ticket_waits_for_stays() -> None:
    """Who came first is served first, even if the model has no place for him just now; then it leaves."""
    scene = grouped(Model("a", concurrency=1), "b").has("a").when(Requested("a1")).when(Requested("a2"))

    scene.when(Requested("b1")).then()
    scene.when(Released("a1")).then(Grant("a2", "a"))
    scene.when(Released("a2")).then(Terminate("a"))


def test_failed_swap_lets_the_next_one_start() -> None:
    """2.6: what was evicted stays evicted, and the queue goes on."""
    scene = grouped("a", "b", "c").has("a").when(Requested("b1")).when(Requested("c1")).when(Exited("a"))

    scene.when(Exited("b", failure_of("b")))
    assert scene.actions[-1] == Spawn(scene.run("c"))


def test_unloading_model_is_waited_for() -> None:
    """What leaves for another reason is not beside anybody either until it is gone."""
    scene = grouped("a", "b").has("a").when(Requested("a1")).when(UnloadAsked("a"))

    scene.when(Requested("b1")).then()
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))


def test_constraint_makes_the_room() -> None:
    """Who leaves by a rule leaves a place: nobody else is evicted for one."""
    routing = Groups({"g": Group(("a", "b"), exclusive=False), "h": Group(("c",), exclusive=False)})
    scene = given("a", "b", "c", routing=routing, max_loaded=2).has("c", "a")

    scene.when(Requested("b1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))
    assert scene.run("c").is_open


def test_room_and_constraints_together() -> None:
    """When the rules leave too little room, the least recently used goes as well."""
    side = Group(("c", "d"), swap=False, exclusive=False, persistent=True)
    routing = Groups({"side": side, DEFAULT_GROUP: Group(("a",))})
    scene = given("a", "c", "d", routing=routing, max_loaded=2).has("c", "d")

    scene.when(Requested("a1")).then(Terminate("c"))
    scene.when(Exited("c")).then(Spawn("a"))


# Pinned models.


def test_rule_evicts_a_pinned_model() -> None:
    """Pinned is about room; a rule that names a model means it (`pinned` is ours, not llama-swap's)."""
    scene = grouped(Model("p", pinned=True), "b").has("p")

    scene.when(Requested("b1")).then(Terminate("p"))
    scene.when(Exited("p")).then(Spawn("b"))


def test_pinned_model_that_a_rule_evicts_is_no_reason_to_refuse() -> None:
    """It holds the only place, and gives it."""
    routing = Groups({DEFAULT_GROUP: Group(("p", "b"))})
    scene = given(Model("p", pinned=True), "b", routing=routing).has("p")

    scene.when(Requested("b1")).then(Terminate("p"))


def test_pinned_model_that_no_rule_evicts_keeps_its_place() -> None:
    """As without rules: who can never fit is told so."""
    routing = Groups({"g": Group(("p", "b"), swap=False)})
    scene = given(Model("p", pinned=True), "b", routing=routing).has("p")

    scene.when(Requested("b1")).then(Refuse("b1", CannotFit))


# Waiting.


def test_overdue_ticket_closes_what_is_in_its_way() -> None:
    """After `max_wait` a model that loaded for a long time serves only who waited for that, then leaves."""
    scene = given("a", "b", routing=Groups({"g": Group(("a", "b"))}), max_loaded=PLACES, max_wait=60)
    scene.when(Requested("a1")).when(Requested("b1")).when(Requested("a2"))

    scene.when(BecameReady("a"), at=61).then(Grant("a1", "a"), Grant("a2", "a"))
    scene.when(Requested("a3"), at=62).then()
    scene.when(Released("a1")).when(Released("a2")).then(Terminate("a"))


def test_overdue_ticket_does_not_close_what_may_stay() -> None:
    """An embedder beside the models that swap serves, however long a swap takes."""
    groups = {"g": Group(("a", "b")), "always": Group(("e",), exclusive=False, persistent=True)}
    scene = given("a", "b", "e", routing=Groups(groups), max_loaded=PLACES, max_wait=60)
    scene.has("e", "a").when(Requested("a1")).when(Requested("b1"))

    scene.when(Requested("e1"), at=1000).then(Grant("e1", "e"))


def test_steady_stream_does_not_starve_who_waits() -> None:
    """Unlike 2.6 (issue 612): new requests for the model that has to leave queue behind the swap."""
    scene = grouped("a", "b").has("a").when(Requested("a1")).when(Requested("b1"))

    for number in range(2, 6):
        scene.when(Requested(f"a{number}"), at=number).then()
    scene.when(Released("a1")).then(Terminate("a"))


# Matrix.


def test_running_model_of_a_matrix_serves() -> None:
    """2.8: already running, no eviction."""
    scene = given("a", "b", routing=matrix_of("a & b"), max_loaded=PLACES).has("a", "b")

    scene.when(Requested("a1")).then(Grant("a1", "a"))


def test_models_of_one_set_load_together() -> None:
    """2.8: an expansion is a permitted coexistence; nothing in it is loaded before it is wanted."""
    scene = given("a", "b", "c", routing=matrix_of("a & b & c"), max_loaded=PLACES)

    scene.when(Requested("a1")).then(Spawn("a"))
    scene.when(Requested("c1")).then(Spawn("c"))


def test_cheapest_models_are_evicted() -> None:
    """2.8: the expansion that costs least: two cheap models rather than a dear one."""
    routing = matrix_of("a & b", "a & c & d", "b & c & d", b=5)
    scene = given("a", "b", "c", "d", routing=routing, max_loaded=PLACES).has("b", "c", "d")

    scene.when(Requested("a1")).then(Terminate("c"), Terminate("d"))


def test_first_set_is_chosen_among_equals() -> None:
    """2.8: ties by definition order."""
    routing = matrix_of("a & b", "a & c", "b & c")
    scene = given("a", "b", "c", routing=routing, max_loaded=PLACES).has("b", "c")

    scene.when(Requested("a1")).then(Terminate("c"))


def test_models_cost_one_each() -> None:
    """2.8: where nothing is said, two models are worth more than one."""
    routing = matrix_of("a & b", "a & c & d", "b & c & d")
    scene = given("a", "b", "c", "d", routing=routing, max_loaded=PLACES).has("b", "c", "d")

    scene.when(Requested("a1")).then(Terminate("b"))


def test_alternatives_exclude_each_other() -> None:
    """2.8: `|` is one of them, and `&` binds tighter."""
    scene = given("a", "b", "c", routing=matrix_of("a & b | c"), max_loaded=PLACES).has("a")

    scene.when(Requested("b1")).then(Spawn("b"))
    scene.when(BecameReady("b")).when(Released("b1")).when(Requested("c1")).then(Terminate("a"), Terminate("b"))


def test_set_includes_another() -> None:
    """2.8: `+name` says what the other set says."""
    routing = matrix_of("c | d", "a & +s1")
    scene = given("a", "c", "d", routing=routing, max_loaded=PLACES).has("c")

    scene.when(Requested("a1")).then(Spawn("a"))
    scene.when(BecameReady("a")).when(Requested("d1")).then(Terminate("c"))


def test_model_in_no_set_is_alone() -> None:
    """2.8: it evicts everything, and everything evicts it."""
    scene = given("a", "b", "z", routing=matrix_of("a & b"), max_loaded=PLACES).has("a", "b")

    scene.when(Requested("z1")).then(Terminate("a"), Terminate("b"))
    scene.when(Exited("a")).when(Exited("b")).then(Spawn("z"))
    scene.when(BecameReady("z")).when(Released("z1")).when(Requested("a1")).then(Terminate("z"))


def test_choice_of_a_set_counts_models_that_are_on_their_way() -> None:
    """A model that an earlier ticket waits for is there already for the choice of those behind."""
    routing = matrix_of("a & b", "b & c", "d", c=5)
    scene = given("a", "b", "c", "d", routing=routing, max_loaded=PLACES).has("d").when(Requested("a1"))

    scene.when(Requested("c1")).then()
    scene.when(Requested("b1")).then()
    scene.when(Exited("d")).then(Spawn("a"), Spawn("b"))
    scene.when(BecameReady("a")).when(BecameReady("b")).then(Grant("b1", "b"))
    scene.when(Released("a1")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("c"))


def test_what_leaves_by_itself_saves_the_others() -> None:
    """The choice is made anew while it is not carried out: a better one gives its victims back."""
    routing = matrix_of("a & b", "a & c", "b & c")
    scene = given("a", "b", Model("c"), routing=routing, max_loaded=PLACES).has("b", "c")
    scene.when(Requested("b1")).when(Requested("c1")).when(Requested("a1")).then()
    assert scene.run("c").retiring is Reason.EVICTED

    scene.when(UnloadAsked("b")).then()
    assert scene.run("c").is_open
    scene.when(Released("b1")).then(Terminate("b"))
    scene.when(Exited("b")).then(Spawn("a"))


# Priorities.


def test_higher_priority_goes_first() -> None:
    """2.6: ordered by priority, default 0, FIFO among equals."""
    scene = given("a", "b", "c", "d", priorities={"d": 10, "b": -1}).has("a").when(Requested("a1"))
    for ticket in ("b1", "c1", "d1", "c2", "d2"):
        scene.when(Requested(ticket)).then()

    assert scene.waiting == ["d1", "d2", "c1", "c2", "b1"]
    scene.when(Released("a1")).when(Exited("a")).then(Spawn("d"))


def test_priority_keeps_a_model_that_a_lower_one_would_evict() -> None:
    """A swap for a lower priority is put off while higher ones come."""
    scene = given("a", "b", priorities={"a": 1}, max_wait=60).has("a").when(Requested("a1")).when(Requested("b1"))

    scene.when(Requested("a2"), at=30).then(Grant("a2", "a"))
    assert scene.waiting == ["b1"]


def test_low_priority_is_overtaken_for_max_wait_only() -> None:
    """After that it is served before all others."""
    scene = given("a", "b", "c", priorities={"a": 1, "c": 2}, max_wait=60).has("a")
    scene.when(Requested("a1")).when(Requested("b1")).when(Requested("a2"), at=59).then(Grant("a2", "a"))

    scene.when(Requested("a3"), at=61).then()
    scene.when(Requested("c1")).then()
    assert scene.waiting == ["b1", "c1", "a3"]
    scene.when(Released("a1")).when(Released("a2")).then(Terminate("a"))
    scene.when(Exited("a")).then(Spawn("b"))


def test_full_queue_refuses_the_newest_whatever_its_priority() -> None:
    """Who has waited is not sent away for somebody who matters more."""
    scene = given("a", "b", "c", priorities={"c": 1}, max_queue=2).when(Requested("a1")).when(Requested("b1"))

    scene.when(Requested("c1")).then(Refuse("c1", QueueFull))
    assert scene.waiting == ["a1", "b1"]


def test_priority_does_not_stop_a_swap_that_has_begun() -> None:
    """What was told to end ends, and the higher priority starts in its place."""
    scene = given("a", "b", "c", priorities={"c": 1}).has("a").when(Requested("b1")).then(Terminate("a"))

    scene.when(Requested("c1")).then()
    assert scene.run("a").phase is Phase.STOPPING
    scene.when(Exited("a")).then(Spawn("c"))
