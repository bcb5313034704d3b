"""What holds whatever happens, in whatever order: the world outside the planner, played by a state machine.

The machine keeps its own books (children, clients, leases) and believes the planner nothing. Where a property needs a
definition, it is in the docstring of its check.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.config.changes import needs_another_run
from supervisor.config.routing import Group, Groups, Matrix
from supervisor.config.values import Model
from supervisor.errors import CannotFit, ModelFailed, ModelNotFound, ModelUnloaded, QueueFull, ShuttingDown
from supervisor.fleet.actions import Grant, Refuse, Spawn, Tell, Terminate
from supervisor.fleet.constraints import evicted_by
from supervisor.fleet.events import (
    Abandoned,
    BecameReady,
    Checked,
    Closing,
    Exited,
    Reconfigured,
    Released,
    Requested,
    Tick,
    UnloadAsked,
)
from supervisor.fleet.planner import decide, next_deadline
from supervisor.fleet.queue import Ticket, TicketId
from supervisor.fleet.values import Count, Fleet, Reason, Run, RunId
from tests.fleet.scene import config_of, failure_of, matrix_of
from tests.fleet.worlds import OTHERS, play_the_same

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.errors import SupervisorError
    from supervisor.fleet.actions import Action
    from supervisor.fleet.events import Event

MODELS = (
    Model("plain"),
    Model("other"),
    Model("third"),
    Model("brief", ttl=20.0),
    Model("narrow", concurrency=1),
    Model("pinned", pinned=True),
)
NAMES = st.sampled_from([model.id for model in MODELS])


def version(model: Model, number: int) -> Model | None:
    others = replace(model, ttl=40.0), replace(model, concurrency=2, pinned=False), None
    return (model, model, *others, *(replace(model, options={"ctx-size": size}) for size in (1, 2)))[number]


VERSIONS = st.fixed_dictionaries({model.id: st.integers(0, 6).map(partial(version, model)) for model in MODELS})
"""What each model is in the next config: as it was, going on as another, gone, or one that needs another process."""
PRIORITIES = st.dictionaries(NAMES, st.integers(-1, 2), max_size=3)


@st.composite
def groups(draw: st.DrawFn) -> Groups:
    """Each model in one of three groups; who is in the third is in none."""
    places = [draw(st.integers(0, 2)) for _ in MODELS]
    flags = st.tuples(st.booleans(), st.booleans(), st.booleans())
    members = [tuple(model.id for model, place in zip(MODELS, places, strict=True) if place == n) for n in range(2)]
    return Groups({f"g{n}": Group(members[n], *draw(flags)) for n in range(2)})


@st.composite
def matrices(draw: st.DrawFn) -> Matrix:
    """Sets of alternatives, so that some models are in several sets and some in none."""
    part = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: f"({' | '.join(names)})")
    sets = draw(st.lists(st.lists(part, min_size=1, max_size=3).map(" & ".join), min_size=1, max_size=3))
    return matrix_of(*sets, **draw(st.dictionaries(NAMES, st.integers(1, 3))))


ROUTINGS = st.none() | groups() | matrices()
DRAIN, MAX_WAIT = 30.0, 5.0
TICKS_TO_REST = 0
"""How many times the planner may have more to say about the same moment; what design.md promises is 0."""
BOUND = 500
"""Steps after which the world must have come to rest; more than any example needs."""


@dataclass
class Child:
    """A process, as the world outside the planner sees it."""

    model: Model
    used_at: float
    leases: int = 0
    ready: bool = False
    told_to_end: bool = False
    cut_at: float | None = None
    """From when on its requests may be cut: somebody unloaded it or closed the service."""


class World(RuleBasedStateMachine):
    """Children that start, fail, crash and leave late; clients that ask, give up and finish; time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.closing = False
        self.children: dict[RunId, Child] = {}
        self.living = 0
        """Children after the step before; beyond the budget there are never more than that."""
        self.waiting: dict[TicketId, Ticket] = {}
        self.answered: set[TicketId] = set()
        self.numbers = count(1)

    @initialize(
        max_loaded=st.sampled_from([1, 2, 3, len(MODELS)]),
        max_queue=st.sampled_from([2, 1000]),
        routing=ROUTINGS,
        priorities=PRIORITIES,
    )
    def configured(
        self, max_loaded: int, max_queue: int, routing: Groups | Matrix | None, priorities: dict[str, int]
    ) -> None:
        server = {"max_loaded": max_loaded, "max_queue": max_queue, "max_wait": MAX_WAIT, "drain_timeout": DRAIN}
        self.server = server
        self.routing = routing
        self.priorities = priorities
        self.fleet = Fleet(replace(config_of(*MODELS, **server), routing=routing, priorities=priorities))

    # Clients.

    @rule(model=NAMES)
    def request(self, model: str) -> None:
        """On the hot path a request is not the planner's business."""
        run = self.fleet.run_of(model)
        if run and run.is_open and not run.is_full and model not in self.fleet.queue.wanted:
            self.children[run.id].leases += 1
            self.children[run.id].used_at = self.now
            self.fleet = self.recounted()
            return
        ticket = Ticket(TicketId(next(self.numbers)), model, self.now)
        self.waiting[ticket.id] = ticket
        self.step(Requested(ticket))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[ticket]
        self.step(Abandoned(ticket))

    @precondition(lambda self: any(child.leases for child in self.children.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.end_lease(data.draw(st.sampled_from([run for run, child in self.children.items() if child.leases])))

    def end_lease(self, run: RunId) -> None:
        """The planner hears of it when somebody waits or the run is retiring."""
        self.children[run].leases -= 1
        self.children[run].used_at = self.now
        known = next(known for known in self.fleet.runs if known.id == run)
        if self.fleet.queue or known.retiring:
            self.step(Released(run))
        else:
            self.fleet = self.recounted()

    # Children.

    @precondition(lambda self: any(not child.ready for child in self.children.values()))
    @rule(data=st.data())
    def become_ready(self, data: st.DataObject) -> None:
        """It may be a child that was told to end and did not read that yet."""
        self.say_ready(data.draw(st.sampled_from([run for run, child in self.children.items() if not child.ready])))

    def say_ready(self, run: RunId) -> None:
        child = self.children[run]
        child.ready = True
        child.used_at = self.now
        self.step(BecameReady(run))

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """It could not start, or it crashed."""
        run = data.draw(st.sampled_from(sorted(self.children)))
        child = self.children.pop(run)
        self.step(Exited(run, failure_of(child.model.id)))

    @precondition(lambda self: any(child.told_to_end for child in self.children.values()))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from([run for run, child in self.children.items() if child.told_to_end])))

    def end(self, run: RunId) -> None:
        del self.children[run]
        self.step(Exited(run))

    @rule(run=st.integers(1, 5), event=st.sampled_from([BecameReady, Exited, Released]))
    def late(self, run: int, event: type[BecameReady | Exited | Released]) -> None:
        """An event of a run that is gone is no more than a `Tick`."""
        if run not in self.children:
            assert decide(self.fleet, event(RunId(run)), self.now)[0] == decide(self.fleet, Tick(), self.now)[0]

    # The household.

    @rule(model=NAMES, wrong=st.booleans())
    def check(self, model: str, wrong: bool) -> None:
        self.step(Checked(model, failure_of(model) if wrong else None))

    @rule(model=st.none() | NAMES, force=st.booleans())
    def unload(self, model: str | None, force: bool) -> None:
        self.may_be_cut(model, self.now if force else self.now + DRAIN)
        self.step(UnloadAsked(model, force))

    @precondition(lambda self: self.now > 150)
    @rule()
    def close(self) -> None:
        self.closing = True
        self.may_be_cut(None, self.now + DRAIN)
        self.step(Closing())
        assert not self.waiting

    def may_be_cut(self, model: str | None, at: float) -> None:
        for child in self.children.values():
            if model in {None, child.model.id}:
                child.cut_at = at if child.cut_at is None else min(at, child.cut_at)

    @rule(versions=VERSIONS, max_loaded=st.sampled_from([1, 2, 3]), routing=ROUTINGS, priorities=PRIORITIES)
    def reload(
        self,
        versions: dict[str, Model | None],
        max_loaded: int,
        routing: Groups | Matrix | None,
        priorities: dict[str, int],
    ) -> None:
        """Nobody's request is cut or lost by it, and what has not changed is not touched."""
        models = [model for model in versions.values() if model is not None]
        server = {**self.server, "max_loaded": max_loaded}
        config = replace(config_of(*models, **server), routing=routing, priorities=priorities)
        before = {run.id: run for run in self.recounted().runs}
        self.routing, self.priorities = routing, priorities
        for child in self.children.values():
            model = config.models.get(child.model.id)
            if model is not None and not needs_another_run(child.model, model) and not child.told_to_end:
                child.model = model
        self.step(Reconfigured(config))
        for run in self.fleet.runs:
            if run.id in before and before[run.id].retiring is None and len(before) <= max_loaded:
                assert (run.retiring is Reason.RELOADED) == self.is_outdated(self.children[run.id])

    def is_outdated(self, child: Child) -> bool:
        """Whether the config in force has another process for this model, or none."""
        model = self.fleet.config.models.get(child.model.id)
        return model is None or needs_another_run(child.model, model)

    @rule(seconds=st.sampled_from([1.0, 6.0, 31.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; the planner gets its ticks when it asked for them."""
        until = self.now + seconds
        for _ in range(BOUND):
            deadline = next_deadline(self.fleet, self.now)
            if deadline is None or deadline > until:
                break
            assert deadline > self.now, "a deadline that is over was not met"
            self.now = deadline
            self.step(Tick())
        self.now = until

    # What the planner says, and whether it may.

    def recounted(self) -> Fleet:
        return self.fleet.recounted(
            {run: Count(child.leases, child.used_at, self.known(run).gap) for run, child in self.children.items()}
        )

    def step(self, event: Event) -> None:
        before = self.recounted()
        self.fleet, actions = decide(before, event, self.now)
        actions = tuple(action for action in actions if not isinstance(action, Tell))
        for action in actions:
            self.perform(action, event, before)
        self.check_order(before, event, actions)
        assert list(self.fleet.queue) == self.in_order(self.fleet.queue)
        self.check_rest()

    def perform(self, action: Action, event: Event, before: Fleet) -> None:
        match action:
            case Spawn(run):
                assert not self.closing
                assert run.id not in self.children
                self.check_spawn(run.model.id)
                assert run.model is self.fleet.config.models[run.model.id]
                self.children[run.id] = Child(run.model, self.now)
            case Terminate(run_id):
                self.check_terminate(self.children[run_id])
                self.children[run_id].told_to_end = True
            case Grant(ticket, run_id):
                self.check_grant(self.answer(ticket), self.children[run_id])
                self.children[run_id].leases += 1
                self.children[run_id].used_at = self.now
            case Refuse(ticket, error):
                self.check_refuse(self.answer(ticket), error, event, before)
            case _:
                self.note(action)

    def note(self, action: Action) -> None:
        raise AssertionError(f"nobody asked for {action}")

    def answer(self, ticket: TicketId) -> Ticket:
        """Exactly one answer per ticket, and none to who went away."""
        assert ticket not in self.answered
        self.answered.add(ticket)
        return self.waiting.pop(ticket)

    def check_spawn(self, model: str) -> None:
        """Never beside a process that excludes it, whether that is to stay or not, and never twice."""
        living = frozenset(child.model.id for child in self.children.values())
        assert model not in living
        assert not evicted_by(self.routing, model, living)
        if isinstance(self.routing, Matrix):
            assert not living or self.routing.can_coexist(living | {model})
        for child in self.children.values():
            is_loading = not child.ready and not child.told_to_end
            assert not is_loading or model not in evicted_by(self.routing, child.model.id, frozenset([model]))

    def check_terminate(self, child: Child) -> None:
        """Nobody's request is cut, except by an unload or the end of the service, when its time is over.

        And a pinned child is ended by nothing else but groups or a matrix.
        """
        assert not child.told_to_end
        may_go = child.cut_at is not None or self.routing is not None or self.is_outdated(child)
        assert not child.model.pinned or may_go
        assert not child.leases or (child.cut_at is not None and child.cut_at <= self.now)

    def check_refuse(self, ticket: Ticket, error: SupervisorError, event: Event, before: Fleet) -> None:
        """Every refusal has its cause, and a full queue is the newest request's problem only."""
        match error:
            case ModelFailed():
                failed_now = isinstance(event, Exited) and before.run_of(ticket.model).id == event.run
                assert failed_now or self.fleet.breakers[ticket.model].retry_at > self.now
            case ModelUnloaded():
                assert isinstance(event, UnloadAsked)
                assert event.model in {None, ticket.model}
            case ShuttingDown():
                assert self.closing
            case QueueFull():
                assert isinstance(event, Requested)
                assert ticket == event.ticket
                assert len(self.waiting) >= self.fleet.config.server.max_queue
            case ModelNotFound():
                assert isinstance(event, Requested | Reconfigured)
                assert ticket.model not in self.fleet.config.models
            case CannotFit():
                pinned = [child for child in self.children.values() if child.model.pinned]
                assert len(pinned) >= self.fleet.config.server.max_loaded
            case _:
                raise AssertionError(f"no reason to say {error!r}")

    def check_grant(self, ticket: Ticket, child: Child) -> None:
        """Only to a ready child of that model which was not told to go and has a place."""
        assert child.model.id == ticket.model
        assert not self.is_outdated(child)
        assert child.ready
        assert not child.told_to_end
        assert child.cut_at is None
        assert child.model.concurrency is None or child.leases < child.model.concurrency

    def check_order(self, before: Fleet, event: Event, actions: tuple[Action, ...]) -> None:
        """FIFO within a model; and nobody who waits to be loaded longer than `max_wait` is overtaken by a `Grant`.

        But by those who waited for a load, when it ends.
        To wait to be loaded is to have no run, or one that is leaving. Who goes to a run that is not in the way of that
        overtakes nobody. A victim takes a request only if it is in nobody's way ahead, that is, if it was given back;
        where two wait, it may have been the victim of the one behind.
        """
        arrivals = self.in_order((*before.queue, event.ticket) if isinstance(event, Requested) else before.queue)
        places = {ticket.id: place for place, ticket in enumerate(arrivals)}
        granted = [(action.ticket, action.run) for action in actions if isinstance(action, Grant)]
        for ticket, run_id in granted:
            run = next(run for run in before.runs if run.id == run_id)
            ahead = [arrivals[place] for place in range(places[ticket]) if arrivals[place].id in self.waiting]
            assert all(other.model != run.model.id for other in ahead)
            blocked = [other for other in ahead if self.is_in_the_way(run, other, before)]
            if isinstance(event, Reconfigured):
                continue  # what stands in whose way is another matter then
            if self.known(run_id).ready_at == self.now:
                continue  # who has waited for a load goes with it
            assert not any(self.is_overdue(other, before) for other in blocked)
            cold = {other.model for other in arrivals if self.waits_for_room(other, before)}
            was_given_back = self.known(run_id).retiring is not Reason.EVICTED
            if run.retiring is Reason.EVICTED and not was_given_back and len(cold) == 1:
                assert not any(self.waits_for_room(other, before) for other in blocked)
        for _, run_id in granted:
            own = [places[ticket] for ticket, other in granted if other == run_id]
            assert own == sorted(own)

    def in_order(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Higher priorities first, in order of arrival among equals; who waits for longer than `max_wait` first."""
        late = [ticket for ticket in tickets if self.now - ticket.since >= MAX_WAIT]
        others = [ticket for ticket in tickets if ticket not in late]
        return [
            *sorted(late, key=lambda ticket: ticket.since),
            *sorted(others, key=lambda ticket: (-self.priorities.get(ticket.model, 0), ticket.id)),
        ]

    def is_in_the_way(self, run: Run, ticket: Ticket, before: Fleet) -> bool:
        """Whether it may not live beside this ticket's model, or there is no place to do so: then and now."""
        for fleet in (before, self.fleet):
            house = frozenset(other.model.id for other in fleet.runs if not other.is_leaving)
            has_room = self.has_room(fleet, ticket.model)
            excluded = run.model.id in evicted_by(self.routing, ticket.model, house | {run.model.id})
            if not excluded and (has_room or run.model.pinned):
                return False
        return True

    def has_room(self, fleet: Fleet, model: str) -> bool:
        return len(fleet.runs) < fleet.config.server.max_loaded

    def is_overdue(self, ticket: Ticket, before: Fleet) -> bool:
        return self.now - ticket.since >= MAX_WAIT and self.waits_for_room(ticket, before)

    def waits_for_room(self, ticket: Ticket, before: Fleet) -> bool:
        runs = [fleet.run_of(ticket.model) for fleet in (before, self.fleet)]
        return all(run is None or run.is_leaving for run in runs)

    def known(self, run_id: RunId) -> Run:
        return next(run for run in self.fleet.runs if run.id == run_id)

    def check_rest(self) -> None:
        """An immediate `Tick` changes nothing: whoever could be served was served by the event itself."""
        fleet = self.fleet
        for _ in range(TICKS_TO_REST):
            fleet, _ = decide(fleet, Tick(), self.now)
        assert decide(fleet, Tick(), self.now) == (fleet, ())

    @invariant()
    def memory(self) -> None:
        """Those that are to stay fit, and the planner knows every child with the leases it really has.

        Where a reload has left less room, pinned ones may be too many, and all may be until the last has left.
        """
        staying = [run for run in self.fleet.runs if not run.is_leaving]
        limit = self.fleet.config.server.max_loaded
        assert limit is None or len(staying) <= limit or all(run.model.pinned for run in staying)
        assert limit is None or len(self.children) <= max(limit, self.living)
        self.living = len(self.children)
        assert self.fleet == self.recounted()
        assert {run.id for run in self.fleet.runs} == self.children.keys()

    @invariant()
    def queue(self) -> None:
        """Who waits outside is who waits inside; nobody is lost."""
        assert sorted(ticket.id for ticket in self.fleet.queue) == sorted(self.waiting)

    @invariant()
    def idleness(self) -> None:
        """No idle child outlives its `ttl`, though the planner is told of no lease on the hot path."""
        for child in self.children.values():
            is_home = child.model.id == self.fleet.config.server.on_idle
            if child.ready and not child.leases and not child.told_to_end and child.model.ttl and not is_home:
                assert self.now - child.used_at <= child.model.ttl

    def teardown(self) -> None:
        """Once clients stop, leases end and starts succeed, the queue empties without anybody ticking."""
        if not hasattr(self, "fleet"):
            return
        for _ in range(BOUND):
            if not self.waiting:
                return
            self.go_on()
        raise AssertionError(f"still waiting: {self.fleet!r}")

    def go_on(self) -> None:
        for run, child in self.children.items():
            if child.told_to_end:
                return self.end(run)
            if not child.ready:
                return self.say_ready(run)
            if child.leases:
                return self.end_lease(run)
        raise AssertionError(f"stuck: {self.fleet!r}, waiting {sorted(self.waiting)}")


def test_random_worlds() -> None:
    """The same in every run."""
    play_the_same(World)


@pytest.mark.slow
class TestOtherWorlds(World.TestCase):
    settings = OTHERS
