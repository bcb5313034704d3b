"""What is worked out once about footprints and limits is worked out again for others."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from supervisor.config.values import Model
from supervisor.errors import CannotFit
from supervisor.fleet.actions import Refuse, Spawn, Terminate
from supervisor.fleet.events import Exited, Reconfigured, Requested, UnloadAsked
from supervisor.fleet.memory import HOST, Footprint, Measured, Source
from supervisor.fleet.placing import Ways
from supervisor.fleet.planner import decide
from supervisor.fleet.queue import Ticket, TicketId
from supervisor.fleet.room import Room
from supervisor.fleet.same import Same
from supervisor.fleet.values import PLACES, Fleet
from tests.fleet.test_memory_planning import G, budget, house, loaded, seen

GPUS = {"CUDA0": 8 * G, "CUDA1": 8 * G, HOST: 16 * G}


def test_ways_are_worked_out_once_for_the_same_books_and_limits() -> None:
    """Every rule asks for them at every step."""
    fleet = house("a", takes={"a": {"CUDA0": 4}}, memory=budget()).fleet

    assert Ways(fleet, GPUS).of("a") is Ways(replace(fleet, closing=True), dict(GPUS)).of("a")


def test_ways_of_another_footprint_are_others() -> None:
    """It was measured since."""
    scene = house("a", takes={"a": {"CUDA0": 4}}, memory=budget())
    before = Ways(scene.fleet, GPUS).of("a")

    scene.when(Measured("a", Footprint({"CUDA0": 2}, source=Source.MEASURED)))

    assert before[0].footprint.amounts == {"CUDA0": 4 * G}
    assert Ways(scene.fleet, GPUS).of("a")[0].footprint.amounts == {"CUDA0": 2}


def test_ways_within_other_limits_are_others() -> None:
    """llama-server splits layers in proportion to what it finds free."""
    fleet = house("a", takes={"a": {"CUDA0": 12}}, memory=budget()).fleet

    *_, split = Ways(fleet, {"CUDA0": 8 * G, "CUDA1": 16 * G}).of("a")
    *_, even = Ways(fleet, {"CUDA0": 8 * G, "CUDA1": 8 * G}).of("a")

    assert split.footprint.amounts == {"CUDA0": 4 * G, "CUDA1": 8 * G}
    assert even.footprint.amounts == {"CUDA0": 6 * G, "CUDA1": 6 * G}


def test_ways_of_another_config_are_others() -> None:
    """By hand a model goes where its options say."""
    fleet = house("a", takes={"a": {"CUDA0": 4}}, memory=budget()).fleet
    before = Ways(fleet, GPUS).of("a")

    by_hand = replace(fleet.config, models={"a": Model("a", options={"device": "CUDA0"})})

    assert len(before) == 3
    assert len(Ways(replace(fleet, config=by_hand), GPUS).of("a")) == 1


def test_what_could_never_fit_does_once_it_is_measured_smaller() -> None:
    """An estimate was too high."""
    scene = house("a", takes={"a": {HOST: 12}}, memory=budget(host=8))
    scene.when(Requested("a1")).when(seen({HOST: 16})).then(Refuse("a1", CannotFit))

    scene.when(Measured("a", Footprint({HOST: 4 * G}, source=Source.MEASURED)))
    scene.when(Requested("a2")).then(Spawn("a"))


def test_what_could_never_fit_does_once_there_is_more() -> None:
    """Without a budget it is the machine that says how much there is."""
    scene = house("a", takes={"a": {HOST: 12}}, memory=budget())
    scene.when(Requested("a1")).when(seen({HOST: 8})).then(Refuse("a1", CannotFit))

    scene.when(seen({HOST: 16})).when(Requested("a2")).then(Spawn("a"))


def test_what_could_never_fit_does_once_the_pinned_one_has_gone() -> None:
    """By hand: nothing else makes it leave."""
    scene = house(Model("p", pinned=True), "a", takes={"p": {HOST: 6}, "a": {HOST: 4}}, memory=budget(host=8))
    loaded(scene, "p")
    scene.when(Requested("a1")).then(Refuse("a1", CannotFit))

    scene.when(UnloadAsked("p")).when(Requested("a2")).then()
    scene.when(Exited("p")).then(Spawn("a"))


def test_what_could_never_fit_does_once_the_config_says_so() -> None:
    """Nobody is pinned any more."""
    scene = house(Model("p", pinned=True), "a", takes={"p": {HOST: 6}, "a": {HOST: 4}}, memory=budget(host=8))
    loaded(scene, "p")
    scene.when(Requested("a1")).then(Refuse("a1", CannotFit))

    scene.when(Reconfigured(replace(scene.fleet.config, models={"p": Model("p"), "a": Model("a")})))
    scene.when(Requested("a2")).then(Terminate("p"))


def test_what_could_never_fit_does_once_its_options_allow_it() -> None:
    """Without a number of layers llama-server leaves to the processor what the GPU cannot hold."""
    by_hand = Model("a", options={"n-gpu-layers": 99})
    scene = house(by_hand, takes={"a": {"CUDA0": 12}}, memory=budget())
    there_is = seen({"CUDA0": 8, HOST: 16})
    scene.when(Requested("a1")).when(there_is).then(Refuse("a1", CannotFit))

    scene.when(Reconfigured(replace(scene.fleet.config, models={"a": Model("a")})))
    scene.when(Requested("a2")).then(Spawn("a"))


def test_what_could_never_fit_does_in_another_house_with_the_same_config_and_books() -> None:
    """A replay has several: what is pinned there, and takes how much, is not what it was in the first."""
    scene = house(Model("p", pinned=True), "a", takes={"p": {HOST: 6}, "a": {HOST: 4}}, memory=budget(host=8))
    loaded(scene, "p")
    fleet = scene.fleet
    (pinned,) = fleet.runs
    smaller = replace(fleet, runs=(replace(pinned, footprint=Footprint({HOST: 2 * G})),))

    def is_refused(fleet: Fleet) -> bool:
        _, actions = decide(fleet, Requested(Ticket(TicketId(1), "a", 30.0)), 30.0)
        return any(isinstance(action, Refuse) for action in actions)

    assert [is_refused(fleet), is_refused(smaller), is_refused(fleet)] == [True, False, True]


AMOUNTS = st.dictionaries(st.sampled_from((HOST, "CUDA0")), st.integers(0, 3))
FOOTPRINTS = st.builds(Footprint, AMOUNTS, st.dictionaries(st.sampled_from("fg"), st.integers(0, 3)))
LIMITS = st.dictionaries(st.sampled_from((PLACES, HOST, "CUDA0")), st.integers(0, 5))


@given(LIMITS, st.lists(FOOTPRINTS, max_size=4), FOOTPRINTS)
def test_what_fits_lacks_nothing(limits: dict[str, int], holders: list[Footprint], footprint: Footprint) -> None:
    """Whether is asked more often than how much, and answered in another way."""
    room = Room(limits, holders)

    assert room.fits(footprint) == (not room.lacks(footprint))


@given(LIMITS, st.lists(FOOTPRINTS, min_size=1, max_size=4), FOOTPRINTS)
def test_who_leaves_a_copy_is_still_in_the_room(
    limits: dict[str, int], holders: list[Footprint], footprint: Footprint
) -> None:
    """And who has come and gone has left nothing."""
    room = Room(limits, holders)
    before = room.lacks(footprint)

    room.copy().give_back(holders[0])
    room.take(holders[0])
    room.give_back(holders[0])

    assert room.lacks(footprint) == before


def test_equal_values_are_not_the_same() -> None:
    """What is remembered about one is not told about another."""
    one, other = Footprint(), Footprint()

    assert Same(one, "a") == Same(one, "a")
    assert hash(Same(one)) == hash(Same(one))
    assert one == other
    assert Same(one) != Same(other)
