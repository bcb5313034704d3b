"""How long who waits will wait, by what loads took before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.fleet.books import FIRST_GUESS
from supervisor.fleet.values import Phase

if TYPE_CHECKING:
    from supervisor.fleet.values import Fleet, Run


def expected_wait(fleet: Fleet, model: str, now: float) -> float:
    """Seconds of loading until a request for this model is let through; 0 where it is loaded.

    Loads that are under way come to their end side by side, those that are waited for one after the other. How long
    requests take that have to end before, nobody knows: it is at least so long.
    """
    run = fleet.run_of(model)
    if run is not None and not run.is_leaving:
        return _left(fleet, run, now)
    under_way = [_left(fleet, each, now) for each in fleet.runs if not each.is_leaving]
    here = {each.model.id for each in fleet.runs if not each.is_leaving}
    place = fleet.queue.places.get(model, len(fleet.queue.places))
    ahead = [name for name, before in fleet.queue.places.items() if before < place and name not in here]
    return max(under_way, default=0.0) + sum(load_seconds(fleet, name) for name in [*ahead, model])


def load_seconds(fleet: Fleet, model: str) -> float:
    """What its last load took; before the first, what loads of others took on average."""
    known = [habit.load_seconds for habit in fleet.habits.values() if habit.load_seconds is not None]
    habit = fleet.habits.get(model)
    if habit is not None and habit.load_seconds is not None:
        return habit.load_seconds
    return sum(known) / len(known) if known else FIRST_GUESS


def _left(fleet: Fleet, run: Run, now: float) -> float:
    """Of its load."""
    return max(0.0, run.started_at + load_seconds(fleet, run.model.id) - now) if run.phase is Phase.STARTING else 0.0
