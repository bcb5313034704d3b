"""A step of the planner comes to its end: no rule takes back for ever what it has just done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.config.values import Config, Memory, Model, Server
from supervisor.fleet import planner
from supervisor.fleet.books import Books, Habit
from supervisor.fleet.events import Tick
from supervisor.fleet.memory import Device, Footprint, Reading, Source
from supervisor.fleet.planner import RULES, decide
from supervisor.fleet.queue import Queue, Ticket, TicketId
from supervisor.fleet.rules import in_turn
from supervisor.fleet.values import Fleet, Phase, Reason, Run, RunId

if TYPE_CHECKING:
    import pytest

    from supervisor.fleet.actions import Action

NOW = 87.1
GIB = 2**30
PASSES = 10
READY, STARTING, STOPPING, MARKED = Phase.READY, Phase.STARTING, Phase.STOPPING, Reason.EVICTED
RUNS = (
    # model, leases, phase, told to leave, on CUDA0 and CUDA1, used at, gap
    ("m1", 1, READY, None, (2, 3), 75.0, 48.4),
    ("m2", 1, READY, MARKED, (2, 3), 75.0, None),
    ("m3", 2, READY, MARKED, (3, 0), 9.4, 3.1),
    ("m6", 1, READY, None, (5, 0), 75.0, 3.3),
    ("m8", 0, STOPPING, MARKED, (2, 3), 62.6, 36.0),
    ("m10", 2, READY, None, (2, 3), 12.3, 5.1),
    ("m11", 2, READY, None, (3, 0), 81.1, None),
    ("m12", 2, READY, MARKED, (2, 3), -1.9, None),
    ("m13", 2, READY, None, (0, 5), -6.1, None),
    ("m14", 2, READY, MARKED, (0, 6), -16.5, None),
    ("m15", 1, READY, None, (0, 6), 75.0, None),
    ("m16", 2, READY, None, (4, 0), 4.0, 34.5),
    ("m17", 2, READY, None, (2, 3), 59.3, 10.0),
    ("m18", 2, READY, None, (1, 0), 75.0, 14.8),
    ("m19", 2, READY, MARKED, (5, 0), 75.0, None),
    ("m20", 2, READY, None, (2, 3), 43.3, None),
    ("m23", 2, READY, MARKED, (2, 3), 75.0, None),
    ("m24", 2, READY, None, (6, 0), 75.0, 33.3),
    ("m25", 2, READY, None, (0, 6), 53.9, 25.7),
    ("m26", 1, STARTING, None, (4, 0), -17.1, 17.9),
    ("m27", 0, STARTING, None, (2, 3), 35.8, 13.3),
    ("m29", 0, STARTING, None, (0, 4), -1.2, 4.5),
    ("m35", 0, STARTING, None, (0, 0), 75.0, 62.3),
)
COMING = {
    # what it takes, and since when somebody waits for it
    "m31": ((2, 3), 31.0),
    "m32": ((0, 1), 32.0),
    "m33": ((0, 5), 33.0),
    "m34": ((2, 3), 34.0),
    "m39": ((4, 0), 39.0),
    "m40": ((0, 3), 40.0),
    "m41": ((0, 4), 41.0),
    "m0": ((1, 0), 42.0),
    "m8": ((2, 3), 50.0),
    "m27": ((0, 0), 69.0),
    "m29": ((0, 0), 71.0),
}
LOADS = {
    **{
        "m0": 2.7,
        "m1": 8.7,
        "m2": 3.9,
        "m3": 1.1,
        "m6": 3.4,
        "m8": 0.5,
        "m10": 6.6,
        "m11": 8.2,
        "m12": 4.1,
        "m13": 6.5,
    },
    **{"m14": 2.5, "m15": 6.5, "m16": 7.5, "m17": 5.4, "m18": 3.1, "m19": 2.7, "m20": 8.2, "m23": 4.5, "m24": 6.3},
    **{"m25": 6.4, "m26": 8.6, "m27": 1.3, "m29": 2.0, "m31": 5.1, "m32": 2.7, "m33": 6.4, "m34": 3.0, "m35": 8.1},
    **{"m39": 6.7, "m40": 4.5, "m41": 9.0},
}
ROOM = {"CUDA0": 52 * GIB, "CUDA1": 52 * GIB}


def crowded() -> Fleet:
    """Many busy runs on two devices, some of them told to leave, and many who come: more than can all be weighed."""
    models = {name: Model(name, concurrency=2) for name in (*(row[0] for row in RUNS), *COMING)}
    runs = tuple(
        Run(RunId(number), models[name], phase, 0.0, used_at, leases, told, None, taking(*amounts), (), 0.0, gap)
        for number, (name, leases, phase, told, amounts, used_at, gap) in enumerate(RUNS)
    )
    tickets = (Ticket(TicketId(number), name, since) for number, (name, (_, since)) in enumerate(COMING.items()))
    reading = Reading(tuple(Device(name, name, total) for name, total in ROOM.items()))
    books = Books({name: taking(*amounts) for name, (amounts, _) in COMING.items()}, reading, NOW)
    config = Config(Path(), Server(max_wait=3600.0), models, memory=Memory(reserve=0))
    habits = {name: Habit(0.0, load_seconds=seconds) for name, seconds in LOADS.items()}
    return Fleet(config, runs, Queue.of(tickets), books=books, habits=habits, spawned=len(runs))


def taking(*amounts: int) -> Footprint:
    return Footprint({name: amount * GIB for name, amount in zip(ROOM, amounts, strict=True)}, source=Source.MEASURED)


def test_who_is_told_to_stay_is_not_told_to_leave_in_the_same_step() -> None:
    """Who was told to leave goes first; without him the choice may be such that he is wanted again."""
    fleet = in_turn(crowded(), NOW)

    for _ in range(PASSES):
        before = fleet
        for rule in RULES:
            fleet, _ = rule(fleet, NOW)

    assert fleet == before


def test_rules_that_never_agree_do_not_hang_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should there be such, the step ends all the same, and what comes next is decided as ever."""

    def one_more(fleet: Fleet, now: float) -> tuple[Fleet, tuple[Action, ...]]:
        return replace(fleet, spawned=fleet.spawned + 1), ()

    monkeypatch.setattr(planner, "RULES", (one_more,))

    fleet, _ = decide(Fleet(Config(Path())), Tick(), NOW)

    assert fleet.spawned == planner.MOST_PASSES
