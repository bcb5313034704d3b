"""Memory as a dialogue: who starts where, who leaves for it, and what is said about it. GiB are `G`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.config.values import Memory, Model, Spread
from supervisor.errors import CannotFit, Failure, ModelFailed
from supervisor.fleet.books import SETTLE_SECONDS
from supervisor.fleet.decisions import Kind
from supervisor.fleet.memory import HOST, Device, Footprint, Measured, Reading, Source
from supervisor.fleet.values import (
    BecameReady,
    Exited,
    Grant,
    Load,
    Look,
    Observed,
    Refuse,
    Released,
    Requested,
    Spawn,
    Terminate,
    Tick,
)
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


def test_own_runs_are_not_counted_twice() -> None:
    """What the machine says is taken was partly taken by us; that is in the ledger already."""
    scene = house("a", "b", takes={"a": {HOST: 6}, "b": {HOST: 6}}, memory=budget(host=12))
    loaded(scene, "a")

    scene.when(Requested("b1"), at=5).when(seen({HOST: 7}, host=16)).then(Spawn("b"))


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


def test_memory_that_does_not_come_back_is_another_s() -> None:
    """After a while what the machine says is believed, and the next one leaves."""
    takes = {"a": {"CUDA0": 6}, "b": {"CUDA0": 2}, "c": {"CUDA0": 6}}
    scene = house("a", "b", "c", takes=takes, memory=budget(CUDA0=8))
    loaded(scene, "a", "b", free={"CUDA0": 8})
    scene.when(Requested("c1"), at=10).when(seen({"CUDA0": 0}, CUDA0=8)).when(Exited("a"), at=11)

    scene.when(seen({"CUDA0": 4}, CUDA0=8), at=11 + SETTLE_SECONDS).then(Terminate("b"))


def test_unknown_footprint_is_alone_until_it_is_measured() -> None:
    """Nobody knows what a foreign server takes; once it runs, everybody does."""
    scene = house(Model("foreign", cmd=("x",)), "a", takes={"a": {HOST: 2}}, memory=budget(host=8))
    scene.when(Requested("foreign1")).when(seen({HOST: 16})).then(Spawn("foreign"))
    scene.when(BecameReady("foreign")).when(Requested("a1")).then()

    scene.when(Measured("foreign", Footprint({HOST: 1 * G}, source=MEASURED))).then(Spawn("a"))


def test_grown_run_makes_others_leave() -> None:
    """A prompt cache that outgrows the budget costs who is idle its place, not the machine its memory."""
    scene = house("a", "b", takes={"a": {HOST: 4}, "b": {HOST: 3}}, memory=budget(host=8))
    loaded(scene, "a", "b")
    scene.when(Requested("a1"), at=5).then(Grant("a1", "a"))

    scene.when(Measured("a", Footprint({HOST: 6 * G}, source=MEASURED))).then(Terminate("b"))


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


def test_what_no_gpu_holds_is_left_to_the_processor() -> None:
    """llama-server offloads what fits, unless it is told how many layers."""
    scene = house("a", takes={"a": {"CUDA0": 30, HOST: 1}}, memory=budget(CUDA0=24, host=32))
    scene.when(seen({"CUDA0": 24, HOST: 32})).when(Requested("a1")).then(Spawn("a"))

    assert scene.run("a").footprint.amounts == {"CUDA0": 24 * G, HOST: 7 * G}


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
