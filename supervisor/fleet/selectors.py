"""Which of a selector's targets serves a request (spec: llama-swap.md, section 2.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.config.values import Strategy
from supervisor.errors import NoTarget
from supervisor.fleet.values import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.fleet.names import Choice, Target
    from supervisor.fleet.values import Run


def pick(choice: Choice, runs: Mapping[str, Run], reserved: Mapping[str, int], *, turn: int = 0) -> Target:
    """The target for the next request.

    `reserved` counts requests under way that were made through this selector by the whole names of their models,
    `turn` all it has ever seen: it decides among equals. Raises `NoTarget` when all are on their way out.
    """
    match choice.strategy:
        case Strategy.PIN:
            return choice.targets[0]
        case Strategy.WARM:
            return _warmest(choice.targets, runs)
        case Strategy.SPILLOVER:
            return _next_to_fill(choice, runs, reserved, turn)


def _warmest(targets: tuple[Target, ...], runs: Mapping[str, Run]) -> Target:
    for phase in (Phase.READY, Phase.STARTING):
        for target in targets:
            run = runs.get(target.model)
            if run is not None and run.phase is phase and not run.is_leaving:
                return target
    return targets[0]


def _next_to_fill(choice: Choice, runs: Mapping[str, Run], reserved: Mapping[str, int], turn: int) -> Target:
    """Those in use up to `spillover` requests each, then the next cold one, then the least busy in turn."""
    usable = [target for target in choice.targets if not _is_leaving(target, runs)]
    if not usable:
        raise NoTarget(f'selector "{choice.selector}" has no available spillover targets')
    active = [target for target in usable if target.peer is not None or target.model in runs]
    for target in active:
        if reserved.get(target.whole_name, 0) < choice.spillover:
            return target
    for target in usable:
        if target not in active:
            return target
    least = min(reserved.get(target.whole_name, 0) for target in active)
    equals = [target for target in active if reserved.get(target.whole_name, 0) == least]
    return equals[turn % len(equals)]


def _is_leaving(target: Target, runs: Mapping[str, Run]) -> bool:
    run = runs.get(target.model) if target.peer is None else None
    return run is not None and run.is_leaving
