"""Memory as a dialogue: who starts where, who leaves for it, and what is said about it. GiB are `G`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.config.values import Memory, Model, Spread
from supervisor.errors import CannotFit, Failure, ModelFailed
from supervisor.fleet.actions import Grant, Load, Look, Refuse, Spawn, Terminate
from supervisor.fleet.books import SETTLE_SECONDS
from supervisor.fleet.decisions import Kind
from supervisor.fleet.events import Abandoned, BecameReady, Exited, Observed, Released, Requested, Tick
from supervisor.fleet.memory import HOST, Device, Footprint, Measured, Reading, Source
from tests.fleet.scene import Scene, given

G = 2**30
MEASURED = Source.MEASURED


def house(*models: str | Model, takes: dict[str, dict[str, int]], memory: Memory, **server: float | str) -> Scene:
    """Models with footprints in GiB by device, under these budgets; nothing else limits them."""
    scene = given(*models, **{"max_loaded": None, **server})
    scene.fleet = replace(scene.fleet, config=replace(scene.fleet.config, memory=memory))
    for model, amounts in takes.items():
        scene.when(Measured(model, Footprint({name: size * G for name, size in amounts.items()}, source=MEASURED)))
    return scene


def budget(reserve: int = 0, spread: Spread = Spread.PACK, **devices: int) -> Memory:
    return Memory(reserve * G, {name: size * G for name, size in devices.items()}, spread)


def seen(free: dict[str, int], **total: int) -> Observed:
    """What the machine says, in GiB: what is free now, and how large its devices are."""
    devices = tuple(Device(name, name, size * G) for name, size in (total or free).items())
    return Observed(Reading(devices, {name: size * G for name, size in free.items()}))


# Admission.


def test_machine_is_asked_before_a_start() -> None:
    """Nothing starts on a guess of what is free; one question is enough."""
    scene = house("a", takes={"a": {HOST: 4}}, memory=budget(host=8))

    scene.when(Requested("a1")).then(Look())
    scene.when(Requested("a2")).then()
    scene.when(seen({HOST: 16})).then(Spawn("a"))


def test_models_live_together_as_long_as_they_fit() -> None:
    """No number of models is asked for: the third does not fit, the second does."""
    scene = house("a", "b", "c", takes={name: {HOST: 4} for name in "abc"}, memory=budget(host=8))
    scene.when(Requested("a1")).when(seen({HOST: 16})).when(BecameReady("a")).when(Released("a1"))

    scene.when(Requested("b1"), at=2).then(Look())
    scene.when(seen({HOST: 16})).then(Spawn("b"))
    scene.when(BecameReady("b"), at=3).when(Released("b1"))
    scene.when(Requested("c1"), at=5).then(Terminate("a"), Look())


def test_no_more_leave_than_needed() -> None:
    """A large one alone makes the room, so the small one that would have to leave with another stays."""
    takes = {"small": {HOST: 2}, "large": {HOST: 6}, "new": {HOST: 5}}
    scene = house("small", "large", "new", takes=takes, memory=budget(host=8))
    loaded(scene, "small", "large")

    scene.when(Requested("new1"), at=9).then(Terminate("large"), Look())


def test_one_large_model_leaves_before_many_small_ones() -> None:
    """Of many runs, too: it is used as rarely as they are, and enough by itself."""
    sizes = {**{f"small-{n}x": 1 for n in range(6)}, "large": 6}
    scene = house(
        *sizes, "new", takes={n: {HOST: size} for n, size in {**sizes, "new": 6}.items()}, memory=budget(host=12)
    )
    loaded(scene, *sizes)

    scene.when(Requested("new1"), at=9).then(Terminate("large"), Look())


def test_small_model_that_would_leave_in_vain_stays() -> None:
    """Of many runs, too: it is the first to go by its use, but those who have to go after it are enough."""
    sizes = {"tiny": 1, **{f"model-{n}x": 2 for n in range(6)}}
    scene = house(
        *sizes, "new", takes={n: {HOST: size} for n, size in {**sizes, "new": 4}.items()}, memory=budget(host=13)
    )
    for at, model in enumerate(sizes):
        scene.when(Requested(f"{model}0"), at=at).when(seen({HOST: 16})).when(BecameReady(model))
        scene.when(Released(f"{model}0"))

    scene.when(Requested("new1"), at=60).then(Terminate("model-0x"), Terminate("model-1x"), Look())


def test_cheap_reload_leaves_before_a_dear_one() -> None:
    """Both are as large and were used as lately; what takes long to load stays."""
    scene = house("slow", "fast", "new", takes={n: {HOST: 4} for n in ("slow", "fast", "new")}, memory=budget(host=8))
    scene.when(Requested("slow1"), at=0).when(seen({HOST: 16})).when(BecameReady("slow"), at=60).when(Released("slow1"))
    scene.when(Requested("fast1"), at=60).when(seen({HOST: 16})).when(BecameReady("fast"), at=61)
    scene.when(Released("fast1"), at=61)

    scene.when(Requested("new1"), at=70).then(Terminate("fast"), Look())


def test_model_that_can_never_fit_is_refused_with_the_numbers() -> None:
    """At once, and 507: nothing that could leave would help."""
    scene = house("a", takes={"a": {HOST: 20}}, memory=budget(host=8)).when(seen({HOST: 16}))

    scene.when(Requested("a1")).then(Refuse("a1", CannotFit))
    assert "needs 20.0 GiB of memory (measured), 8.0 GiB free" in str(scene.refusal)
    assert scene.refusal.status == 507


def test_memory_of_others_counts() -> None:
    """By the ledger there is room; the machine says that somebody else has taken it."""
    scene = house("a", takes={"a": {HOST: 6}}, memory=budget(host=8))

    scene.when(Requested("a1")).when(seen({HOST: 3}, host=16)).then(Refuse("a1", CannotFit))
    assert "other processes" in str(scene.refusal)
    assert scene.refusal.retry_after


def test_ledger_decides_alone_where_the_machine_does_not_answer() -> None:
    """What it said once says nothing of now."""
    scene = house("a", "b", takes={"a": {HOST: 6}}, memory=budget(host=8))
    scene.when(Requested("a1")).when(seen({HOST: 3}, host=16)).then(Refuse("a1", CannotFit))

    scene.when(Requested("a2"), at=60).then(Look())
    scene.when(Observed(None)).then(Spawn("a"))
    scene.when(Measured("b", Footprint({HOST: 3 * G}))).when(Requested("b1")).then()


def test_own_runs_are_not_counted_twice() -> None:
    """What the machine says is taken was partly taken by us; that is in the ledger already."""
    scene = house("a", "b", takes={"a": {HOST: 6}, "b": {HOST: 6}}, memory=budget(host=12))
    loaded(scene, "a")

    scene.when(Requested("b1"), at=5).when(seen({HOST: 7}, host=16)).then(Spawn("b"))


def test_load_that_is_under_way_will_take_what_is_free_now() -> None:
    """What the machine says is free does not know of it yet."""
    scene = house("a", "b", takes={"a": {HOST: 6}, "b": {HOST: 6}}, memory=budget())
    scene.when(Requested("a1")).when(seen({HOST: 8}, host=16)).then(Spawn("a"))

    scene.when(Requested("b1"), at=2).when(seen({HOST: 8}, host=16)).then()
    scene.when(BecameReady("a"), at=3).when(Released("a1")).then(Terminate("a"))


def test_reserve_is_left_alone() -> None:
    """Without a budget a device is ours but for the reserve."""
    scene = house("a", "b", takes={"a": {HOST: 7}, "b": {HOST: 6}}, memory=budget(reserve=2))

    scene.when(seen({HOST: 8})).when(Requested("a1")).then(Refuse("a1", CannotFit))
    scene.when(Requested("b1")).then(Spawn("b"))


def test_memory_that_comes_back_late_is_waited_for() -> None:
    """A process is gone, the driver has not given back what it held: nobody else is evicted for that meanwhile."""
    takes = {"a": {"CUDA0": 6}, "b": {"CUDA0": 2}, "c": {"CUDA0": 6}}
    scene = house("a", "b", "c", takes=takes, memory=budget(CUDA0=8))
    loaded(scene, "a", "b", free={"CUDA0": 8})
    scene.when(Requested("c1"), at=10).then(Terminate("a"), Look())
    scene.when(seen({"CUDA0": 0}, CUDA0=8)).when(Exited("a"), at=11).then(Look())

    scene.when(seen({"CUDA0": 0}, CUDA0=8)).then()
    assert scene.deadline == pytest.approx(11.05)
    scene.when(Tick(), at=11.05).then(Look())
    scene.when(seen({"CUDA0": 6}, CUDA0=8)).then(Spawn("c"))


def test_model_does_not_make_do_with_the_processor_while_memory_comes_back() -> None:
    """What the machine says is free now is not what there will be in a moment; nor is nothing enough for anybody."""
    takes = {"a": {"CUDA0": 6}, "b": {"CUDA0": 6}}
    scene = house("a", "b", takes=takes, memory=budget(CUDA0=8, host=16))
    loaded(scene, "a", free={"CUDA0": 8, HOST: 16})
    scene.when(Requested("b1"), at=10).then(Terminate("a"), Look())
    scene.when(seen({"CUDA0": 2, HOST: 16}, CUDA0=8, host=16)).when(Exited("a"), at=11).then(Look())

    scene.when(seen({"CUDA0": 2, HOST: 16}, CUDA0=8, host=16)).then()
    scene.when(Tick(), at=11.05).when(seen({"CUDA0": 0, HOST: 16}, CUDA0=8, host=16)).then()
    scene.when(Tick(), at=11.1).when(seen({"CUDA0": 8, HOST: 16})).then(Spawn("b"))
    assert scene.run("b").footprint.amounts == {"CUDA0": 6 * G}


def test_memory_that_does_not_come_back_is_another_s() -> None:
    """After a while what the machine says is believed, and the next one leaves."""
    takes = {"a": {"CUDA0": 6}, "b": {"CUDA0": 2}, "c": {"CUDA0": 6}}
    scene = house("a", "b", "c", takes=takes, memory=budget(CUDA0=8))
    loaded(scene, "a", "b", free={"CUDA0": 8})
    scene.when(Requested("c1"), at=10).when(seen({"CUDA0": 0}, CUDA0=8)).when(Exited("a"), at=11)

    scene.when(seen({"CUDA0": 4}, CUDA0=8), at=11 + SETTLE_SECONDS).then(Terminate("b"))


def test_nobody_starts_where_an_earlier_one_is_about_to() -> None:
    """It lacks one device and not yet the other; who took that would be evicted again as soon as it had loaded."""
    takes = {"old": {"CUDA0": 8}, "large": {"CUDA0": 8, HOST: 8}, "small": {HOST: 4}}
    scene = house("old", "large", "small", takes=takes, memory=budget(CUDA0=8, host=8))
    loaded(scene, "old", free={"CUDA0": 8, HOST: 8})
    scene.when(Requested("large1"), at=10).then(Terminate("old"), Look())
    scene.when(Requested("small1")).when(Exited("old"), at=10.5)
    scene.when(seen({"CUDA0": 0, HOST: 8}, CUDA0=8, host=8)).then()

    scene.when(Tick(), at=10.55).when(seen({"CUDA0": 8, HOST: 8})).then(Spawn("large"))
    scene.when(BecameReady("large")).then(Grant("large1", "large"))


def test_nobody_is_let_through_by_a_start_that_an_overdue_ticket_waits_behind() -> None:
    """What an overdue model waits for goes to it, and not round and round among those behind it."""
    takes = {"old": {"CUDA0": 8}, "large": {"CUDA0": 8, HOST: 8}, "small": {HOST: 7}, "tiny": {HOST: 1}}
    scene = house("old", "large", "small", "tiny", takes=takes, memory=budget(CUDA0=8, host=9), max_wait=5)
    loaded(scene, "old", "tiny", free={"CUDA0": 8, HOST: 9})
    scene.when(Requested("old1"), at=10).when(Requested("large1")).when(Requested("small1"), at=12).then()

    scene.when(Tick(), at=15).when(seen({"CUDA0": 0, HOST: 8}, CUDA0=8, host=9)).then()
    scene.when(Requested("tiny1")).then(Grant("tiny1", "tiny"))
    scene.when(Released("old1")).then(Terminate("old"))
    scene.when(Exited("old"), at=15.1).when(seen({"CUDA0": 8, HOST: 8}, CUDA0=8, host=9)).then(Spawn("large"))


def test_who_waits_for_a_busy_model_holds_what_it_lacks() -> None:
    """Nobody behind it takes the rest of the device, though there is room for him now."""
    takes = {"busy": {"CUDA0": 12}, "large": {"CUDA0": 20}, "small": {"CUDA0": 10}}
    scene = house("busy", "large", "small", takes=takes, memory=budget(CUDA0=24), min_residency=10)
    loaded(scene, "busy", free={"CUDA0": 24})
    scene.when(Requested("busy1")).when(Requested("large1")).then()

    scene.when(Requested("small1")).then()
    scene.when(Tick(), at=10).when(Released("busy1")).then(Terminate("busy"))
    scene.when(Exited("busy")).when(seen({"CUDA0": 24})).then(Spawn("large"))


def test_file_that_two_models_map_is_there_once() -> None:
    """The second one takes only what is its own, and its leaving gives no more."""
    takes = Footprint({HOST: 1 * G}, {"/m.gguf": 6 * G}, MEASURED)
    scene = house("a", "b", "c", takes={"c": {HOST: 6}}, memory=budget(host=8))
    scene.when(Measured("a", takes)).when(Measured("b", takes))
    loaded(scene, "a", "b")

    scene.when(Requested("c1"), at=5).then(Terminate("a"), Terminate("b"), Look())


def test_unknown_footprint_is_alone_until_it_is_measured() -> None:
    """Nobody knows what a foreign server takes; once it runs, everybody does."""
    scene = house(Model("foreign", cmd=("x",)), "a", takes={"a": {HOST: 2}}, memory=budget(host=8))
    scene.when(Requested("foreign1")).when(seen({HOST: 16})).then(Spawn("foreign"))
    scene.when(BecameReady("foreign")).when(Requested("a1")).then()

    scene.when(Measured("foreign", Footprint({HOST: 1 * G}, source=MEASURED))).then(Spawn("a"))


def test_unknown_footprint_is_not_more_than_pinned_models_leave() -> None:
    """They stay; it is alone beside them."""
    models = [Model("p", pinned=True), Model("foreign", cmd=("x",))]
    scene = house(*models, "a", takes={"p": {HOST: 4}, "a": {HOST: 1}}, memory=budget(host=8))
    loaded(scene, "p")

    scene.when(Requested("foreign1")).then(Spawn("foreign"))
    scene.when(Requested("a1")).then()


def test_grown_run_makes_others_leave() -> None:
    """A prompt cache that outgrows the budget costs who is idle its place, not the machine its memory."""
    scene = house("a", "b", takes={"a": {HOST: 4}, "b": {HOST: 3}}, memory=budget(host=8))
    loaded(scene, "a", "b")
    scene.when(Requested("a1"), at=5).then(Grant("a1", "a"))

    scene.when(Measured("a", Footprint({HOST: 6 * G}, source=MEASURED))).then(Terminate("b"))


def test_grown_run_ends_nobody_who_is_asked_for() -> None:
    """It is no reason to swap what both are needed for; the machine has to bear it."""
    scene = house("a", "b", takes={"a": {HOST: 4}, "b": {HOST: 3}}, memory=budget(host=8))
    loaded(scene, "a", "b")
    scene.when(Requested("a1"), at=5).when(Requested("b1"))

    scene.when(Measured("a", Footprint({HOST: 6 * G}, source=MEASURED))).then()
    assert scene.run("a").is_open
    assert scene.run("b").is_open


# Placement.


def two_gpus(*models: str, spread: Spread = Spread.PACK, **sizes: int) -> Scene:
    memory = budget(spread=spread, CUDA0=24, CUDA1=12)
    takes = {name: {"CUDA0": size} for name, size in sizes.items()}
    return house(*models, takes=takes, memory=memory).when(seen({"CUDA0": 24, "CUDA1": 12}))


def test_model_goes_where_it_fits_best() -> None:
    """The large device stays empty for a large model."""
    scene = two_gpus("a", "b", a=10, b=20)

    scene.when(Requested("a1")).then(Spawn("a"))
    assert scene.run("a").devices == ("CUDA1",)
    scene.when(Requested("b1")).then(Spawn("b"))
    assert scene.run("b").devices == ("CUDA0",)


def test_models_are_spread_on_request() -> None:
    """The emptiest device first."""
    scene = two_gpus("a", "b", spread=Spread.SPREAD, a=4, b=4)

    scene.when(Requested("a1")).when(Requested("b1"))
    assert scene.run("a").devices == ("CUDA0",)
    assert scene.run("b").devices == ("CUDA0",)


def test_model_too_large_for_one_device_is_split() -> None:
    """As llama-server does it by itself, in proportion to their size; it is told nothing."""
    scene = two_gpus("a", a=30).when(Requested("a1"))

    assert scene.run("a").devices == ()
    assert scene.run("a").footprint.amounts == {"CUDA0": 20 * G, "CUDA1": 10 * G}


def test_placement_by_hand_is_kept() -> None:
    """Who says `device` means it."""
    by_hand = Model("a", options={"device": "CUDA0"})
    scene = house(by_hand, takes={"a": {"CUDA0": 4}}, memory=budget(CUDA0=24, CUDA1=12))
    scene.when(seen({"CUDA0": 24, "CUDA1": 12})).when(Requested("a1"))

    assert scene.run("a").devices == ()
    assert scene.run("a").footprint.amounts == {"CUDA0": 4 * G}


def test_loads_on_different_devices_go_on_at_the_same_time() -> None:
    """One waits for a busy model to leave its device; the other device does not wait with it."""
    models = [Model(name, options={"device": device}) for name, device in (("a", "0"), ("b", "0"), ("c", "1"))]
    takes = {"a": {"CUDA0": 20}, "b": {"CUDA0": 20}, "c": {"CUDA1": 10}}
    scene = house(*models, takes=takes, memory=budget(CUDA0=24, CUDA1=12), min_residency=0)
    free = seen({"CUDA0": 24, "CUDA1": 12})
    scene.when(free).when(Requested("a1")).when(BecameReady("a")).when(Requested("b1"), at=0.5)

    scene.when(Requested("c1")).then(Spawn("c"))


def test_place_that_is_kept_is_the_one_that_is_made() -> None:
    """It waits for the device that its victim leaves; on the other one somebody else may start."""
    sizes = {"busy": 20, "idle": 10, "waiting": 10, "other": 3}
    scene = two_gpus(*sizes, **sizes)
    for model in ("busy", "idle"):
        scene.when(Requested(f"{model}1")).when(BecameReady(model))
    scene.when(Released("idle1")).when(Requested("waiting1")).then(Terminate("idle"))

    scene.when(Requested("other1")).then(Spawn("other"))
    assert scene.run("other").devices == ("CUDA0",)


def test_what_no_gpu_holds_is_left_to_the_processor() -> None:
    """llama-server offloads what fits, unless it is told how many layers."""
    scene = house("a", takes={"a": {"CUDA0": 30, HOST: 1}}, memory=budget(CUDA0=24, host=32))
    scene.when(seen({"CUDA0": 24, HOST: 32})).when(Requested("a1")).then(Spawn("a"))

    assert scene.run("a").footprint.amounts == {"CUDA0": 24 * G, HOST: 7 * G}


def test_layers_that_are_asked_for_are_not_left_to_the_processor() -> None:
    """Who says `n-gpu-layers` means it; the model does not fit."""
    by_hand = Model("a", options={"n-gpu-layers": 99})
    scene = house(by_hand, takes={"a": {"CUDA0": 30, HOST: 1}}, memory=budget(CUDA0=24, host=64))

    scene.when(seen({"CUDA0": 24, HOST: 64})).when(Requested("a1")).then(Refuse("a1", CannotFit))


def test_device_without_anything_free_holds_nothing() -> None:
    """Not even a part of a model, however little that would be."""
    by_hand = Model("a", options={"n-gpu-layers": 99})
    scene = house(by_hand, takes={"a": {"CUDA0": 6}}, memory=budget(CUDA0=8))

    scene.when(Requested("a1")).when(seen({"CUDA0": 0}, CUDA0=8)).then(Refuse("a1", CannotFit))


# When the books are wrong.


def out_of_memory(model: str) -> Failure:
    return Failure("f1", model, "out_of_device_memory", "no", "less", "loading", "2026-01-01T00:00:00Z")


def test_start_that_ran_out_of_memory_is_tried_once_more_with_more_room() -> None:
    """The next victim leaves, whoever waits waits on, and the ledger has learned."""
    scene = house("a", "b", takes={"a": {"CUDA0": 4}, "b": {"CUDA0": 4}}, memory=budget(CUDA0=8))
    loaded(scene, "a", free={"CUDA0": 8})
    scene.when(Requested("b1"), at=5).when(seen({"CUDA0": 4}, CUDA0=8)).then(Spawn("b"))

    scene.when(Exited("b", out_of_memory("b")), at=6).then(Terminate("a"), Look())
    assert scene.told[0].kind is Kind.RETRIED
    scene.when(Exited("a"), at=7).when(seen({"CUDA0": 8}, CUDA0=8)).then(Spawn("b"))


def test_it_waits_for_one_who_is_busy_to_make_room() -> None:
    """Whoever may go on for now leaves in the end, and is as good as one who leaves at once."""
    takes = {"a": {"CUDA0": 4}, "b": {"CUDA0": 4}}
    scene = house("a", "b", takes=takes, memory=budget(CUDA0=8), min_residency=100)
    loaded(scene, "a", free={"CUDA0": 8})
    scene.when(Requested("a1"), at=5).when(Requested("b1")).when(seen({"CUDA0": 4}, CUDA0=8)).then(Spawn("b"))

    scene.when(Exited("b", out_of_memory("b")), at=6)
    assert scene.waiting == ["b1"]
    scene.when(Released("a1"), at=7).then(Terminate("a"))


def test_second_time_is_the_last() -> None:
    """What does not fit into an empty house is told to who asked."""
    scene = house("a", "b", takes={"a": {"CUDA0": 4}, "b": {"CUDA0": 4}}, memory=budget(CUDA0=8))
    loaded(scene, "a", free={"CUDA0": 8})
    scene.when(Requested("b1"), at=5).when(seen({"CUDA0": 4}, CUDA0=8)).when(Exited("b", out_of_memory("b")), at=6)
    scene.when(Exited("a"), at=7).when(seen({"CUDA0": 8}, CUDA0=8))

    scene.when(Exited("b", out_of_memory("b")), at=8).then(Refuse("b1", ModelFailed))


def test_it_is_tried_once_more_and_not_until_the_house_is_empty() -> None:
    """What a model needs twice as much of as the books say is not found by evicting everybody."""
    takes = {name: {"CUDA0": 4} for name in "abc"}
    scene = house("a", "b", "c", takes=takes, memory=budget(CUDA0=12))
    loaded(scene, "a", "b", free={"CUDA0": 12})
    scene.when(Requested("c1"), at=5).when(seen({"CUDA0": 4}, CUDA0=12)).when(Exited("c", out_of_memory("c")), at=6)
    scene.when(Exited("a"), at=7).when(seen({"CUDA0": 8}, CUDA0=12)).then(Spawn("c"))

    scene.when(Exited("c", out_of_memory("c")), at=8).then(Refuse("c1", ModelFailed))
    assert scene.run("b").is_open


def test_load_that_nobody_waits_for_is_not_tried_again() -> None:
    """It is a failed start like any other."""
    scene = house("a", "b", takes={"a": {"CUDA0": 4}, "b": {"CUDA0": 4}}, memory=budget(CUDA0=8))
    loaded(scene, "a", free={"CUDA0": 8})
    scene.when(Requested("b1"), at=5).when(seen({"CUDA0": 4}, CUDA0=8)).when(Abandoned("b1"))

    scene.when(Exited("b", out_of_memory("b")), at=6).then()
    assert "b" in scene.fleet.failures


def test_reserve_is_left_to_others_by_the_machine_s_reading_too() -> None:
    """There is room by the ledger, and 5 GiB are free; but 2 of them are not for us."""
    scene = house("a", takes={"a": {HOST: 4}}, memory=budget(reserve=2))

    scene.when(seen({HOST: 5}, host=16)).when(Requested("a1")).then(Refuse("a1", CannotFit))


def test_busy_model_that_was_just_loaded_goes_on_for_a_while() -> None:
    """Two models that are asked for all the time do not swap with every request."""
    scene = given("a", "b", min_residency=10.0).has("a").when(Requested("a1"), at=1).when(Requested("b1"), at=1)

    scene.when(Requested("a2"), at=2).then(Grant("a2", "a"))
    assert scene.deadline == 10
    scene.when(Tick(), at=10).then()
    assert scene.run("a").is_leaving


def test_residency_ends_with_the_patience_of_who_waits() -> None:
    """And the planner asks to be woken for that."""
    scene = given("a", "b", min_residency=100, max_wait=5).has("a").when(Requested("a1")).when(Requested("b1"), at=1)

    assert scene.deadline == 6
    scene.when(Tick(), at=6).then()
    assert scene.run("a").is_leaving


def test_idle_model_leaves_at_once_however_lately_it_was_loaded() -> None:
    """There is nothing to finish that it was loaded for."""
    scene = given("a", "b").when(Requested("a1")).when(BecameReady("a"), at=10).when(Released("a1"))

    scene.when(Requested("b1")).then(Terminate("a"))


# Words.


def test_eviction_explains_itself() -> None:
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


def test_waiting_explains_itself() -> None:
    """Whom one waits for, and how many requests it still serves."""
    scene = given("a", "b", min_residency=0).has("a").when(Requested("a1"))

    scene.when(Requested("b1"))
    assert [decision.reason for decision in scene.told][-1] == "b waits: a leaves once its request has been served"


# At home.


def test_quiet_house_loads_its_own_model() -> None:
    """Once nothing was asked for a while; and it has no `ttl` then."""
    scene = given(Model("home", ttl=5.0), "a", on_idle="home", max_loaded=2).has("a")

    assert scene.deadline == 60
    scene.when(Tick(), at=60).then(Load("home"))
    scene.when(Requested("home1")).then(Spawn("home"))
    scene.when(BecameReady("home")).when(Released("home1"))
    scene.when(Tick(), at=100).then()


def test_home_does_not_come_while_somebody_is_served() -> None:
    """It is what is there when nothing is asked for."""
    scene = given("home", "a", on_idle="home").has("a").when(Requested("a1"), at=1)

    scene.when(Tick(), at=100).then()
    scene.when(Released("a1")).then()
    scene.when(Tick(), at=160).then(Load("home"))


def loaded(scene: Scene, *models: str, free: dict[str, int] | None = None) -> None:
    """These are loaded, one after the other, and idle."""
    for model in models:
        scene.when(Requested(f"{model}0")).when(seen(free or {HOST: 16}))
        scene.when(BecameReady(model)).when(Released(f"{model}0"))
        assert scene.run(model).is_open
