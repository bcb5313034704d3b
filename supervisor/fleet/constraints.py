"""Which models have to leave before another may start: the groups or the matrix of a config, and what follows from it.

The rules themselves are llama-swap's (spec: llama-swap.md, 2.7 and 2.8). What is added is order: who waits longer goes
first, and nobody starts what would only be in his way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, assert_never

from supervisor.config.routing import DEFAULT_GROUP, Group, Groups, Matrix
from supervisor.fleet.matrix import Search, shared_models
from supervisor.fleet.queue import CLOSEST
from supervisor.fleet.values import Phase, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from supervisor.fleet.values import Fleet, Run

LOOKAHEAD = 16
"""How many models that cannot start are looked beyond, for one further back in the queue that can."""

DEFAULT = (DEFAULT_GROUP, Group(()))


def evicted_by(routing: Groups | Matrix | None, target: str, running: frozenset[str]) -> frozenset[str]:
    """The running models that have to leave before this one may start.

    Whether one of them is pinned makes no difference: to pin a model is to say that it does not leave for want of
    room, and a rule that names it is not about room.
    """
    match routing:
        case None:
            return frozenset()
        case Groups():
            return _evicted_by_group(routing, target, running)
        case Matrix():
            return _evicted_by_set(_Same(routing), target, running)
        case _:
            assert_never(routing)


def _evicted_by_group(groups: Groups, target: str, running: frozenset[str]) -> frozenset[str]:
    """1. the others of its group, if that swaps; 2. if it is exclusive, other groups that are not persistent."""
    group_of = _group_of(_Same(groups))
    own, group = group_of.get(target, DEFAULT)
    others = ((model, *group_of.get(model, DEFAULT)) for model in running if model != target)
    return frozenset(
        model
        for model, name, other in others
        if (group.swap if name == own else group.exclusive and not other.persistent)
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """A key that compares what is remembered about a routing by identity: it is made once for each config."""

    routing: Groups | Matrix

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.routing is other.routing

    def __hash__(self) -> int:
        return id(self.routing)


@lru_cache(maxsize=8)
def _group_of(same: _Same) -> Mapping[str, tuple[str, Group]]:
    assert isinstance(same.routing, Groups)
    return {model: (name, group) for name, group in same.routing.groups.items() for model in group.members}


@lru_cache(maxsize=8)
def _shared(same: _Same) -> frozenset[str]:
    assert isinstance(same.routing, Matrix)
    return shared_models(same.routing)


@lru_cache(maxsize=1024)
def _evicted_by_set(same: _Same, target: str, running: frozenset[str]) -> frozenset[str]:
    """Nobody if it runs already, else who is not in the cheapest permitted set with it, all if there is none."""
    assert isinstance(same.routing, Matrix)
    if target in running or not running:
        return frozenset()
    return running - Search(same.routing, target, running, _shared(same)).kept()


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the constraints let happen next."""

    coming: Sequence[str]
    """The closest cold models, in queue order, that wait for no more than the exit of runs that leave, and for room."""
    evicted: frozenset[str] = frozenset()
    """The models that have to leave for them."""


def outlook(fleet: Fleet) -> Outlook:
    """Who comes next and who leaves for it, in queue order; what is marked as evicted counts as if it stayed.

    A model waits in line if
    1. it would evict one that an earlier ticket waits for, or a load that anybody waits for;
    2. it would be evicted by one that is starting, or by an earlier one that has yet to start.
    Otherwise its swap goes on beside others.
    """
    routing, wanted = fleet.config.routing, fleet.queue.wanted
    staying = {run.model.id: run for run in fleet.runs if stays(run)}
    cold = [*islice((model for model in wanted if model not in staying), CLOSEST)]
    if routing is None:
        return Outlook(cold)
    loads = [model for model, run in staying.items() if run.phase is Phase.STARTING]
    untouchable = {model for model in loads if model in wanted}
    places = fleet.queue.places
    today = frozenset(staying)
    house, evicted, coming, ahead = today, frozenset[str](), list[str](), loads
    for model in cold[:LOOKAHEAD]:
        out = evicted_by(routing, model, house)
        beside = today - out | {model}
        if not any(other in untouchable or places.get(other, inf) < places[model] for other in out) and not any(
            model in evicted_by(routing, other, beside - {other}) for other in ahead if other not in out
        ):
            house = house - out | {model}
            evicted |= out
            coming.append(model)
        ahead.append(model)
    return Outlook(coming, evicted)


def stays(run: Run) -> bool:
    """Whether it is there, or would be if nobody else wanted its place."""
    return run.phase is not Phase.STOPPING and run.retiring in {None, Reason.EVICTED}


def may_start(fleet: Fleet, model: str) -> bool:
    """Whether everything that lives, if only to its end, may live beside this model.

    A port that is given from one model to another by a reload is free once the former process is gone.
    """
    port = fleet.config.models[model].port
    if port is not None and any(run.is_leaving and run.model.port == port for run in fleet.runs):
        return False
    return not evicted_by(fleet.config.routing, model, frozenset(run.model.id for run in fleet.runs))
