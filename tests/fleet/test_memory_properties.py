"""Random worlds with several devices: estimates that are wrong, runs that grow, others who take memory, late looks.

Everything that holds in a world that counts models holds here too; what memory adds is checked on top.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from supervisor.config.values import Memory, Spread
from supervisor.errors import CannotFit, Failure
from supervisor.fleet.actions import Load, Look, Spawn
from supervisor.fleet.events import Exited, Observed
from supervisor.fleet.memory import HOST, Device, Footprint, Measured, Reading, Source, sum_of
from supervisor.fleet.placing import Ways
from supervisor.fleet.planner import decide
from supervisor.fleet.room import Room, expected_limits, limits, takes
from supervisor.fleet.values import Fleet, Reason, Run
from tests.fleet import test_properties
from tests.fleet.scene import config_of
from tests.fleet.test_properties import DRAIN, MAX_WAIT, MODELS, NAMES
from tests.fleet.worlds import OTHERS, play_the_same

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.errors import SupervisorError
    from supervisor.fleet.actions import Action
    from supervisor.fleet.events import Event
    from supervisor.fleet.queue import Ticket

SIZES = {"CUDA0": 24, "CUDA1": 12, HOST: 64}
FOOTPRINTS = st.fixed_dictionaries({"CUDA0": st.integers(0, 16), HOST: st.integers(1, 16)})


class MemoryWorld(test_properties.World):
    """The machine answers when it likes, and what others hold is its secret until then."""

    @initialize(
        takes=st.fixed_dictionaries({model.id: FOOTPRINTS for model in MODELS}),
        gpus=st.integers(0, 2),
        spread=st.sampled_from(Spread),
        on_idle=st.none() | NAMES,
        unknown=NAMES,
    )
    def configured(  # type: ignore[override]
        self, takes: dict[str, dict[str, int]], gpus: int, spread: Spread, on_idle: str | None, unknown: str
    ) -> None:
        self.routing, self.priorities = None, {}
        self.sizes = {name: SIZES[name] for name in [*list(SIZES)[:gpus], HOST]}
        self.others = dict.fromkeys(self.sizes, 0)
        self.server = {}
        self.looks = 0
        self.has_called_home = False
        server = {"max_loaded": None, "max_queue": 1000, "max_wait": MAX_WAIT, "drain_timeout": DRAIN}
        memory = Memory(reserve=1, budget={HOST: 32}, spread=spread)
        self.fleet = Fleet(replace(config_of(*MODELS, **server, on_idle=on_idle), memory=memory))
        for model, amounts in takes.items():
            if model != unknown:
                self.fleet, _ = decide(self.fleet, Measured(model, Footprint(amounts)), self.now)

    # The machine.

    @precondition(lambda self: self.looks)
    @rule(fails=st.booleans())
    def answer_look(self, fails: bool) -> None:
        """Some drivers do not answer."""
        self.looks -= 1
        self.step(Observed(None if fails else self.reading()))

    def reading(self) -> Reading:
        devices = tuple(Device(name, name, size) for name, size in self.sizes.items())
        held = sum_of(run.footprint for run in self.fleet.runs)
        free = {name: max(0, size - self.others[name] - held.get(name, 0)) for name, size in self.sizes.items()}
        return Reading(devices, free)

    @rule(data=st.data(), amount=st.integers(0, 12))
    def others_take(self, data: st.DataObject, amount: int) -> None:
        self.others[data.draw(st.sampled_from(sorted(self.others)))] = amount

    @rule(model=NAMES, amounts=FOOTPRINTS, measured=st.booleans())
    def learn(self, model: str, amounts: dict[str, int], measured: bool) -> None:
        """A run has grown, or the files have changed."""
        source = Source.MEASURED if measured else Source.ESTIMATE
        self.step(Measured(model, Footprint(amounts, source=source)))

    @precondition(lambda self: any(not child.ready for child in self.children.values()))
    @rule(data=st.data())
    def run_out_of_memory(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from([run for run, child in self.children.items() if not child.ready]))
        child = self.children.pop(run)
        failure = Failure("f", child.model.id, "out_of_device_memory", "no", "less", "loading", "2026-01-01T00:00:00Z")
        self.step(Exited(run, failure))

    # What the planner says, and whether it may.

    def note(self, action: Action) -> None:
        match action:
            case Look():
                self.looks += 1
                assert self.looks == 1, "one question at a time is enough"
            case Load(model):
                assert model == self.fleet.config.server.on_idle
                assert not any(child.leases for child in self.children.values())
            case _:
                super().note(action)

    def step(self, event: Event) -> None:
        before = self.recounted()
        super().step(event)
        self.check_victims(before)

    def perform(self, action: Action, event: Event, before: Fleet) -> None:
        if isinstance(action, Spawn):
            self.check_room(action)
        super().perform(action, event, before)

    def check_room(self, action: Spawn) -> None:
        """What all living runs take stays within every budget, as far as it is known."""
        living = [run.footprint for run in self.fleet.runs if run.id in self.children or run.id == action.run.id]
        self.within(sum_of(living), action)

    def within(self, taken: Mapping[str, int], action: Spawn) -> None:
        budget = limits(self.fleet, self.now, by_reading=False)
        mine = {name for name, amount in action.run.footprint.total().items() if amount}
        for name in mine & budget.keys():
            assert taken[name] <= budget[name], f"{name} is overdrawn"

    def check_victims(self, before: Fleet) -> None:
        """Any one of those who were chosen for one model would have been one too few.

        That is asked where one model waits for room and nothing is over its budget, for then all were chosen for it.
        """
        was = {run.id for run in before.runs if run.retiring is Reason.EVICTED}
        new = [run for run in self.fleet.runs if run.retiring is Reason.EVICTED and run.id not in was]
        here = {run.model.id for run in self.fleet.runs if not run.is_leaving}
        cold = [model for model in self.fleet.queue.wanted if model not in here]
        if not new or len(cold) != 1 or was:
            return
        within = expected_limits(self.fleet, self.now)
        budget = limits(self.fleet, self.now, by_reading=False)
        taken = sum_of(run.footprint for run in self.fleet.runs)
        if any(amount > budget.get(name, amount) for name, amount in taken.items()):
            return
        staying = [run for run in self.fleet.runs if not run.is_leaving]
        options = Ways(self.fleet, within).of(cold[0])
        for spared in new:
            room = Room(within, (run.footprint for run in [*staying, spared]))
            assert all(room.lacks(option.footprint) for option in options), f"{spared.model.id} need not leave"

    def check_refuse(self, ticket: Ticket, error: SupervisorError, event: Event, before: Fleet) -> None:
        """Beside pinned runs it fits nowhere, or others hold the rest."""
        if not isinstance(error, CannotFit):
            super().check_refuse(ticket, error, event, before)

    def is_in_the_way(self, run: Run, ticket: Ticket, before: Fleet) -> bool:
        """Whether it holds something of what the ticket's model lacks, wherever that is put: then and now."""
        return not run.model.pinned and all(
            takes(run.footprint) & self.lacking(fleet, ticket.model) for fleet in (before, self.fleet)
        )

    def lacking(self, fleet: Fleet, model: str) -> set[str]:
        room = Room(limits(fleet, self.now), (run.footprint for run in fleet.runs))
        options = Ways(fleet, expected_limits(fleet, self.now)).of(model)
        found = [room.lacks(each.footprint) for each in options]
        return {name for each in found for name in each} if all(found) else set()

    def go_on(self) -> None:
        if self.looks:
            self.looks -= 1
            return self.step(Observed(self.reading()))
        if any(child.told_to_end or not child.ready or child.leases for child in self.children.values()):
            return super().go_on()
        self.others = dict.fromkeys(self.sizes, 0)
        return self.wait(1.0)

    def reload(self) -> None:  # type: ignore[override]
        """Another config is played where models are counted."""

    def late(self, run: int, event: type) -> None:  # type: ignore[override]
        """An exit is news for the books."""


def test_random_worlds_with_memory() -> None:
    """The same in every run."""
    play_the_same(MemoryWorld)


@pytest.mark.slow
class TestOtherWorldsWithMemory(MemoryWorld.TestCase):
    settings = OTHERS
