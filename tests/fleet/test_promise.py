"""What `max_wait` promises, played against clients who never stop asking for what is loaded."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.config.routing import Group, Groups, Matrix
from supervisor.config.values import Spread
from supervisor.fleet.actions import Grant, Look, Spawn, Terminate
from supervisor.fleet.events import Tick
from supervisor.fleet.planner import next_deadline
from tests.fleet.scene import matrix_of
from tests.fleet.test_memory_properties import MemoryWorld
from tests.fleet.test_properties import MAX_WAIT, MODELS, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.fleet.actions import Action
    from supervisor.fleet.events import Event
    from supervisor.fleet.values import Fleet, RunId

LOAD, EXIT, LEASE = 4.0, 0.5, 3.0
SIEGE = 60
"""Seconds for which a new request comes before the last one has ended."""
BUSY, RARE = "plain", ("other", "third")
LONGEST_WAIT = MAX_WAIT + 3 * (LOAD + LEASE + EXIT)
"""A swap that has begun, the swap of who came before, and one's own; all of them after `max_wait`."""

ROOMS = st.sampled_from(
    [
        (1, None),
        (2, None),
        (9, Groups({"g": Group((BUSY, *RARE))})),
        (9, Groups({"g": Group((BUSY,)), "h": Group(RARE, swap=False)})),
        (9, matrix_of(BUSY, " & ".join(RARE))),
        (9, matrix_of(f"{BUSY} & {RARE[0]}", RARE[1])),
    ]
)
"""How many models may be loaded, and which of them together."""
ARRIVALS = st.dictionaries(st.sampled_from(RARE), st.integers(0, 300).map(lambda tenths: tenths / 10), min_size=1)
"""When somebody comes for a model that is not asked for all the time."""


class Besieged(World):
    """A world in which loads, exits and requests take their time, and one model always has a request."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.waits: list[tuple[str, float]] = []

    def at(self, time: float, happen: Callable[[], None]) -> None:
        heappush(self.due, (time, next(self.order), happen))

    def play(self, arrivals: dict[str, float]) -> None:
        for number in range(SIEGE):
            self.at(float(number), lambda: self.request(BUSY))
        for model, time in arrivals.items():
            self.at(time, lambda model=model: self.request(model))
        while self.due:
            deadline = next_deadline(self.fleet, self.now)
            if deadline is not None and deadline < self.due[0][0]:
                self.now = deadline
                self.step(Tick())
            else:
                self.now, _, happen = heappop(self.due)
                happen()

    @property
    def longest_wait(self) -> float:
        """Of those who do not ask all the time."""
        return max(seconds for model, seconds in self.waits if model in RARE)

    def request(self, model: str) -> None:
        run, waits = self.fleet.run_of(model), len(self.waits)
        leases = self.children[run.id].leases if run else 0
        super().request(model)
        if run and len(self.waits) == waits and self.children[run.id].leases > leases:
            self.at(self.now + LEASE, lambda: self.end_lease(run.id))

    def perform(self, action: Action, event: Event, before: Fleet) -> None:
        if isinstance(action, Grant):
            ticket = self.waiting[action.ticket]
            self.waits.append((ticket.model, self.now - ticket.since))
        super().perform(action, event, before)
        match action:
            case Spawn(run):
                self.at(self.now + LOAD, lambda: self.say_ready(run.id))
            case Terminate(run_id):
                self.at(self.now + EXIT, lambda: self.end(run_id))
            case Grant(_, run_id):
                self.at(self.now + LEASE, lambda: self.end_lease(run_id))
            case Look():
                self.at(self.now + EXIT / 10, lambda: self.answer_look(fails=False))

    def say_ready(self, run: RunId) -> None:
        if run in self.children:  # and not told to end while it loaded
            super().say_ready(run)


class BesiegedMemory(Besieged, MemoryWorld):
    """The same where memory is what there is too little of."""


@settings(max_examples=20, derandomize=True)
@given(ROOMS, st.dictionaries(st.sampled_from((BUSY, *RARE)), st.integers(-1, 2)), ARRIVALS)
def test_model_that_is_never_idle_keeps_nobody_waiting_for_longer_than_promised(
    room: tuple[int, Groups | Matrix | None], priorities: dict[str, int], arrivals: dict[str, float]
) -> None:
    """Whatever rules and priorities there are, and however long the other clients go on."""
    world = Besieged()
    max_loaded, routing = room
    world.configured(max_loaded=max_loaded, max_queue=1000, routing=routing, priorities=priorities)

    world.play(arrivals)

    assert not world.waiting
    assert world.longest_wait <= LONGEST_WAIT


@settings(max_examples=20, derandomize=True)
@given(st.fixed_dictionaries({name: st.integers(8, 20) for name in (BUSY, *RARE)}), st.integers(1, 2), ARRIVALS)
def test_neither_where_memory_is_short(sizes: dict[str, int], gpus: int, arrivals: dict[str, float]) -> None:
    """The busy model is on one device, or on all of them."""
    world = BesiegedMemory()
    takes = {model.id: {"CUDA0": sizes.get(model.id, 1), "host": 1} for model in MODELS}
    world.configured(takes=takes, gpus=gpus, spread=Spread.PACK, on_idle=None, unknown="brief")

    world.play(arrivals)

    assert not world.waiting
    assert world.longest_wait <= LONGEST_WAIT
