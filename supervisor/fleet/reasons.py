"""Why the planner did what it did, in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.config.routing import Groups
from supervisor.fleet.actions import Refuse, Tell
from supervisor.fleet.decisions import Decision, Kind
from supervisor.fleet.events import Observed, Requested
from supervisor.fleet.memory import HOST
from supervisor.fleet.staying import Turns
from supervisor.fleet.values import PLACES, Phase
from supervisor.fleet.victims import lingering

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from supervisor.config.routing import Matrix
    from supervisor.config.values import Config
    from supervisor.errors import SupervisorError
    from supervisor.fleet.actions import Action
    from supervisor.fleet.books import Habit
    from supervisor.fleet.events import Event
    from supervisor.fleet.placing import Placement
    from supervisor.fleet.room import Room
    from supervisor.fleet.values import Fleet, Run
    from supervisor.fleet.victims import Eviction

MOST_NAMES = 5
"""Of those who come first."""


def told(before: Fleet, event: Event, after: Fleet, actions: Sequence[Action], now: float) -> Iterator[Tell]:
    """What is seen only when a step is over: who was refused, and who has to wait."""
    yield from _refusals(before, event, actions)
    yield from _waits(before, event, after, now)


def _refusals(before: Fleet, event: Event, actions: Sequence[Action]) -> Iterator[Tell]:
    """Once for each model, not for each of its requests."""
    errors = {action.ticket: action.error for action in actions if isinstance(action, Refuse)}
    if not errors:
        return
    by_model: dict[str, list[SupervisorError]] = {}
    for ticket in (*before.queue, *([event.ticket] if isinstance(event, Requested) else [])):
        if ticket.id in errors:
            by_model.setdefault(ticket.model, []).append(errors[ticket.id])
    yield from (_refused(model, each[0], len(each)) for model, each in by_model.items())


def _waits(before: Fleet, event: Event, after: Fleet, now: float) -> Iterator[Tell]:
    """The first who waits for a model: when it comes, or once the machine was asked for its sake."""
    match event:
        case Requested(ticket) if after.queue.waiting_for(ticket.model) == 1:
            models = {ticket.model} - {run.model.id for run in after.runs if run.id > before.spawned}
        case Observed():
            came = {model for model, crowd in after.queue.wanted.items() if crowd.first.since > before.books.read_at}
            models = came - {run.model.id for run in after.runs if not run.is_leaving}
        case _:
            return
    for model in after.queue.wanted if models else ():
        if model in models:
            yield from _waited(after, model, now)


def started(run: Run, placement: Placement, room: Room, habit: Habit | None) -> Tell:
    """`room` is what was free before."""
    before = habit.devices if habit is not None else ()
    where = f" on {', '.join(run.devices)}" if run.devices else ""
    moved = f", where it was on {', '.join(before)} before" if before and before != run.devices else ""
    numbers = f"it {needed}" if (needed := _needs(placement, room, all_of_it=True)) else _places(room)
    return _tell(Kind.STARTED, run.model.id, f"{run.model.id} starts{where}{moved}{f': {numbers}' if numbers else ''}")


def _places(room: Room) -> str:
    """Where nothing but their number limits models."""
    free = room.free(PLACES)
    if free is None:
        return ""
    most = room.limits[PLACES]
    return f"{most - free} of {most} places {'is' if most - free == 1 else 'are'} taken"


def sent_for(model: str, quiet: float) -> Tell:
    return _tell(Kind.STARTED, model, f"{model} is sent for: nothing was asked for in {span(quiet)}")


def evicted(eviction: Eviction, new: Iterable[Run], now: float) -> Tell:
    """Who was just chosen to make room, and how much there was before."""
    victims, room = tuple(new), eviction.room
    gone = " and ".join(described(run, now) for run in victims)
    needed = _needs(eviction.placement, room)
    why = f"{eviction.model} {needed}" if eviction.model else f"more is taken than may be: {_over(room)}"
    return _tell(Kind.EVICTED, eviction.model, f"{why}; evicted {gone}", victims)


def _over(room: Room) -> str:
    parts = (
        f"{amount} too many are loaded" if name == PLACES else f"{size(amount)} {place(name)}"
        for name, amount in room.over().items()
    )
    return " and ".join(parts)


def evicted_by_rule(routing: Groups | Matrix | None, models: Iterable[str], victims: Sequence[Run], now: float) -> Tell:
    """Groups or a matrix said so, whatever room there is."""
    names = tuple(models)
    comers = " and ".join(names) or "another model"
    others = " and ".join(run.model.id for run in victims)
    gone = " and ".join(described(run, now) for run in victims)
    rule = "groups" if isinstance(routing, Groups) else "matrix"
    reason = f"{comers} may not be loaded beside {others}, by the {rule}; evicted {gone}"
    return _tell(Kind.EVICTED, names[0] if names else "", reason, victims)


def kept(run: Run) -> Tell:
    return _tell(Kind.KEPT, run.model.id, f"{run.model.id} stays: its room is not needed any more")


def retired(run: Run, now: float) -> Tell:
    ttl = span(run.model.ttl or 0.0)
    reason = f"{run.model.id} leaves: nobody used it for {span(now - run.used_at)} (`ttl` is {ttl})"
    return _tell(Kind.RETIRED, run.model.id, reason)


def _refused(model: str, error: SupervisorError, count: int) -> Tell:
    requests = f"a request for {model} is" if count == 1 else f"{count} requests for {model} are"
    return _tell(Kind.REFUSED, model, f"{requests} refused: {error}")


def unloaded(run: Run, grace: float) -> Tell:
    """By hand."""
    end = f"may take {span(grace)} to end" if grace else ("is cut" if run.leases == 1 else "are cut")
    rest = f": {_requests(run)} {end}" if run.leases else ""
    return _tell(Kind.UNLOADED, run.model.id, f"{run.model.id} is unloaded, as was asked for{rest}")


def cut(run: Run) -> Tell:
    number = "a request" if run.leases == 1 else f"{run.leases} requests"
    return _tell(Kind.CUT, run.model.id, f"{run.model.id} ends, which cuts {number}: `drain_timeout` is over")


def reloaded(run: Run, config: Config) -> Tell:
    """Another config holds."""
    name = run.model.id
    why = "another config starts it otherwise" if name in config.models else "it is in the config no more"
    rest = f"; {_requests(run)} may end before" if run.leases else ""
    return _tell(Kind.RELOADED, name, f"{name} leaves, for {why}{rest}")


def _requests(run: Run) -> str:
    return "its request" if run.leases == 1 else f"its {run.leases} requests"


def retried(run: Run, cause: str) -> Tell:
    reason = f"{run.model.id} ran out of memory although it should have fitted ({cause}): once more, with more room"
    return _tell(Kind.RETRIED, run.model.id, reason)


def _waited(fleet: Fleet, model: str, now: float) -> Iterator[Tell]:
    """Why a request for this model was not let through, nor its start begun; nothing while the machine is asked."""
    if obstacle := "; ".join(_obstacles(fleet, model, now)):
        yield _tell(Kind.WAITED, model, f"{model} waits: {obstacle}")


def _obstacles(fleet: Fleet, model: str, now: float) -> Iterator[str]:
    own = next((run for run in fleet.runs if run.model.id == model and not run.is_leaving), None)
    if own is not None:
        yield (
            "it is loading"
            if own.phase is Phase.STARTING
            else f"{_requests(own)} {'takes' if own.leases == 1 else 'take'} all of its `concurrency`"
        )
        return
    here = [run for run in fleet.runs if not run.is_leaving]
    first = [name for name in fleet.queue.places if name != model and all(run.model.id != name for run in here)]
    if leaving := [run for run in fleet.runs if run.is_leaving]:
        yield from map(_leaves, leaving)
    elif fleet.books.is_looking:
        return
    elif here:
        yield f"there is no room beside {' and '.join(_stays(fleet, run, model, now) for run in here)}"
    if ahead := first[: fleet.queue.places[model]]:
        names = (*ahead[:MOST_NAMES], *(["others"] if len(ahead) > MOST_NAMES else []))
        yield f"{' and '.join(names)} {'comes' if len(names) == 1 else 'come'} first"


def _stays(fleet: Fleet, run: Run, model: str, now: float) -> str:
    """And why it does not leave for this model."""
    left = Turns(fleet).until(run, model) - now
    if run.model.pinned:
        why = "pinned"
    elif run.phase is Phase.STARTING:
        why = "loading"
    elif run.leases:
        why = f"{run.leases} in flight{f', may go on for {span(left)} more' if left > 0 else ''}"
    else:
        lingers = left > 0 and run.id in lingering(fleet, model, now)
        why = f"idle {span(now - run.used_at)}{f', may stay for {span(left)} more' if lingers else ''}"
    return f"{run.model.id} ({why})"


def _leaves(run: Run) -> str:
    if run.phase is Phase.STOPPING or not run.leases:
        return f"{run.model.id} is being stopped"
    return f"{run.model.id} leaves once {_requests(run)} {'has' if run.leases == 1 else 'have'} been served"


def described(run: Run, now: float) -> str:
    """`qwen-8b (6.0 GiB, idle 4 m)`."""
    total = sum(run.footprint.total().values())
    use = f"{run.leases} in flight" if run.leases else f"idle {span(now - run.used_at)}"
    return f"{run.model.id} ({f'{size(total)}, ' if total else ''}{use})"


def never_fits(name: str, options: Sequence[Placement], room: Room, pinned: Sequence[Run]) -> str:
    """Of all ways to place it, the one that lacks least."""
    option = _nearest(options, room)
    names = ", ".join(f"`{run.model.id}`" for run in pinned)
    if PLACES in room.lacks(option.footprint):
        return f"`{name}` can never be loaded: pinned models ({names}) hold all {room.limits[PLACES]} places"
    beside = f" beside pinned models ({names})" if pinned else ""
    return f"`{name}` can never be loaded{beside}: it {_needs(option, room)}"


def hint(options: Sequence[Placement], room: Room) -> str:
    if PLACES in room.lacks(_nearest(options, room).footprint):
        return "raise `server.max_loaded`, or unpin one of them"
    return "lower its `ctx-size`, choose a smaller quantisation, or raise `memory.budget` if the number is wrong"


def taken_by_others(name: str, options: Sequence[Placement], room: Room) -> str:
    """What the machine says against the ledger."""
    return (
        f"`{name}` cannot be loaded now: it {_needs(_nearest(options, room), room)}, for other processes hold the rest"
    )


def _nearest(options: Sequence[Placement], room: Room) -> Placement:
    return min(options, key=lambda option: sum(room.lacks(option.footprint).values()))


def _needs(placement: Placement, room: Room, *, all_of_it: bool = False) -> str:
    """`needs 17.2 GiB on CUDA0 (measured), 3.1 GiB free`: of all it takes, or of what is too little."""
    lacking = room.lacks(placement.footprint)
    needed = {
        name: amount
        for name, amount in room.need(placement.footprint).items()
        if name in lacking or (all_of_it and name != PLACES)
    }
    return "needs " + " and ".join(_part(placement, name, needed[name], room) for name in needed) if needed else ""


def _part(placement: Placement, name: str, amount: int, room: Room) -> str:
    free = room.free(name) or 0
    if name == PLACES:
        return f"a place, and all {room.limits[PLACES]} are taken" if free <= 0 else "a place"
    shared = placement.footprint.total().get(name, 0) - amount
    beside = f", {size(shared)} more are shared" if shared > 0 else ""
    return f"{size(amount)} {place(name)} ({placement.footprint.source.value}{beside}), {size(max(0, free))} free"


def place(device: str) -> str:
    """`of memory`, `on CUDA0`."""
    return "of memory" if device == HOST else f"on {device}"


def size(amount: float) -> str:
    """Bytes of memory for people."""
    for length, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if amount >= length:
            return f"{amount / length:.{1 if length == 2**30 else 0}f} {unit}"
    return f"{amount / 2**10:.0f} KiB"


def span(seconds: float) -> str:
    """A duration for people."""
    for length, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "m")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _tell(kind: Kind, model: str, reason: str, others: Iterable[Run] = ()) -> Tell:
    return Tell(Decision(kind, model, reason, tuple(run.model.id for run in others)))
