"""What a decision log keeps of a step, taken again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec.json

from supervisor.fleet.planner import decide
from supervisor.record.notation import plain, value_of

if TYPE_CHECKING:
    from supervisor.fleet.essence import Essence
    from supervisor.fleet.step import Step
    from supervisor.fleet.values import Fleet


def through_json(value: object) -> Any:
    """The value, written and read."""
    return value_of(msgspec.json.decode(msgspec.json.encode(plain(value))))


def assert_same_again(essence: Essence, step: Step, after: Fleet) -> None:
    """All of it survives being written, and the planner says the same and comes to the same fleet by it."""
    kept, told = essence.fleet(step.before), essence.event(step.event)
    assert through_json(kept) == kept
    assert through_json(told) == told
    after_again, again = decide(through_json(kept), through_json(told), step.now)
    assert plain(again) == plain(tuple(map(essence.action, step.actions)))
    assert plain(through_json(again)) == plain(again)
    assert after_again == essence.fleet(after)
