"""Why the planner did what it did, in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.fleet.actions import Tell
from supervisor.fleet.decisions import Decision, Kind
from supervisor.fleet.memory import HOST
from supervisor.fleet.room import Room, limits
from supervisor.fleet.values import PLACES, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from supervisor.errors import SupervisorError
    from supervisor.fleet.books import Habit
    from supervisor.fleet.room import Placement
    from supervisor.fleet.values import Fleet, Run
    from supervisor.fleet.victims import Eviction


def started(run: Run, placement: Placement, room: Room, habit: Habit | None) -> Tell:
    """`room` is what was free before."""
    before = habit.devices if habit is not None else ()
    where = f" on {', '.join(run.devices)}" if run.devices else ""
    moved = f", where it was on {', '.join(before)} before" if before and before != run.devices else ""
    numbers = _needs(placement, room, all_of_it=True)
    reason = f"{run.model.id} starts{where}{moved}{f': it {numbers}' if numbers else ''}"
    return _tell(Kind.STARTED, run.model.id, reason)


def evicted(fleet: Fleet, eviction: Eviction, new: Iterable[Run], now: float) -> Tell:
    """Who was just chosen to make room, and how much there was before."""
    victims, placement = tuple(new), eviction.placement
    room = Room(limits(fleet, now), (run.footprint for run in fleet.runs))
    gone = " and ".join(described(run, now) for run in victims)
    why = (
        f"{eviction.model} {_needs(placement, room)}" if eviction.model else f"more is taken than may be: {_over(room)}"
    )
    return _tell(Kind.EVICTED, eviction.model, f"{why}; evicted {gone}", victims)


def _over(room: Room) -> str:
    over = {name: -free for name in room.limits if (free := room.free(name) or 0) < 0}
    parts = (
        f"{amount} too many are loaded" if name == PLACES else f"{size(amount)} {place(name)}"
        for name, amount in over.items()
    )
    return " and ".join(parts)


def evicted_by_rule(models: Iterable[str], victims: Iterable[Run], now: float) -> Tell:
    """Groups or a matrix said so, whatever room there is."""
    names, victims = tuple(models), tuple(victims)
    gone = " and ".join(described(run, now) for run in victims)
    comers = " and ".join(names) or "another model"
    return _tell(
        Kind.EVICTED, names[0] if names else "", f"{comers} may not be loaded beside it; evicted {gone}", victims
    )


def kept(run: Run) -> Tell:
    return _tell(Kind.KEPT, run.model.id, f"{run.model.id} stays: its room is not needed any more")


def retired(run: Run, now: float) -> Tell:
    return _tell(Kind.RETIRED, run.model.id, f"{run.model.id} was idle for {span(now - run.used_at)}, its `ttl`")


def refused(model: str, error: SupervisorError) -> Tell:
    return _tell(Kind.REFUSED, model, str(error))


def retried(run: Run, cause: str) -> Tell:
    reason = f"{run.model.id} ran out of memory although it should have fitted ({cause}): once more, with more room"
    return _tell(Kind.RETRIED, run.model.id, reason)


def waited(fleet: Fleet, model: str) -> Iterator[Tell]:
    """Why a request for this model was not let through, nor its start begun; nothing while the machine is asked."""
    if obstacle := _obstacle(fleet, model):
        yield _tell(Kind.WAITED, model, f"{model} waits: {obstacle}")


def _obstacle(fleet: Fleet, model: str) -> str:
    own = [run for run in fleet.runs if run.model.id == model]
    if any(run.phase is Phase.STARTING for run in own):
        return "it is loading"
    if any(run.is_open for run in own):
        return "it serves as many requests as its `concurrency` allows"
    leaving = [run for run in fleet.runs if run.is_leaving]
    if leaving:
        return ", ".join(_leaves(run) for run in leaving)
    busy = [run.model.id for run in fleet.runs if run.leases]
    if fleet.books.is_looking:
        return ""
    return f"there is no room beside {', '.join(busy)}" if busy else "others are before it"


def _leaves(run: Run) -> str:
    if run.phase is Phase.STOPPING or not run.leases:
        return f"{run.model.id} is being stopped"
    requests = "its request has" if run.leases == 1 else f"its {run.leases} requests have"
    return f"{run.model.id} leaves once {requests} been served"


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
    return f"{size(amount)} {place(name)} ({placement.footprint.source.value}), {size(max(0, free))} free"


def place(device: str) -> str:
    """`of memory`, `on CUDA0`."""
    return "of memory" if device == HOST else f"on {device}"


def size(amount: float) -> str:
    """Bytes for people."""
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"


def span(seconds: float) -> str:
    """A duration for people."""
    for length, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "m")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _tell(kind: Kind, model: str, reason: str, others: Iterable[Run] = ()) -> Tell:
    return Tell(Decision(kind, model, reason, tuple(run.model.id for run in others)))
