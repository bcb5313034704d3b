"""What it takes to be let in, for every path. A route that is not listed here is for managers.

With keys, scopes decide; without, whoever is near enough may manage, and anybody may use models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from supervisor.config.clients import Scope

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from starlette.routing import Route


@dataclass(frozen=True, slots=True)
class Door:
    """What a path asks of who comes."""

    scopes: frozenset[Scope] = frozenset()
    """What a key must be good for, all of it; empty: any key will do."""
    is_open: bool = False
    """Whether no key is needed."""
    manages: bool = False
    """Whether the rule `management` holds without keys, and other sites' pages are kept out."""
    acts: bool = False
    """Whether even a GET changes something."""
    names_model: bool = False
    """Whether it concerns one model, for which a key that is good for some only may be good."""
    infers: bool = False
    """Whether it uses a model, which a key's limits count."""
    of_one: Door | None = None
    """What holds in its place where the query names a model."""


OPEN = Door(is_open=True)
KEYED = Door()
INFERENCE = Door(frozenset({Scope.INFERENCE}), names_model=True, infers=True)
MANAGE = Door(frozenset({Scope.MANAGE}), manages=True)
METRICS = replace(MANAGE, of_one=INFERENCE)
"""Of all; with a model, its own, from its server."""
MANAGE_ONE = replace(MANAGE, names_model=True)
UNLOAD = replace(MANAGE, acts=True)
ADMIN = Door(frozenset({Scope.ADMIN}), manages=True)
CHILD = Door(frozenset({Scope.MANAGE, Scope.INFERENCE}), manages=True, names_model=True, infers=True)
"""To a child as it is: more than using its model."""

DOORS = {
    "/health": OPEN,
    "/v1/health": OPEN,
    "/wol-health": OPEN,
    "/favicon.ico": OPEN,
    "/upstream": OPEN,
    "/v1/models": KEYED,
    "/models": KEYED,
    "/v1/models/{name:path}": KEYED,
    "/api/version": KEYED,
    "/comfyui": KEYED,
    "/running": MANAGE,
    "/status": MANAGE,
    "/models/load": MANAGE_ONE,
    "/models/unload": MANAGE_ONE,
    "/unload": UNLOAD,
    "/api/models/unload": MANAGE,
    "/api/models/unload/{name:path}": MANAGE_ONE,
    "/api/profiles": MANAGE,
    "/api/profiles/active": MANAGE,
    "/api/inflight/{id}/cancel": MANAGE,
    "/api/events": MANAGE,
    "/api/reload": ADMIN,
    "/api/metrics/activity": MANAGE,
    "/api/metrics/stats": MANAGE,
    "/api/captures/{id}": MANAGE,
    "/api/performance": MANAGE,
    "/api/hardware": MANAGE,
    "/metrics": METRICS,
    "/logs": MANAGE,
    "/logs/stream": MANAGE,
    "/logs/stream/{name:path}": MANAGE_ONE,
    "/logs/{name:path}": MANAGE_ONE,
}
"""By the paths of the routes that answer by themselves (spec: llama-swap.md, section 1.8, for those that are open)."""
NOT_SERVED = frozenset(("/",))
"""Open though nobody is there yet, as in llama-swap: it says nothing of anybody."""


def names_model(method: str, query: bytes) -> bool:
    """Whether a request of `/metrics` is for the server of one model, or else for none: nothing of ours is changed."""
    return method not in {"GET", "HEAD"} or b"model=" in query


class Doors:
    """Those of a whole service: paths that use models, beginnings of paths that lead to children, and routes."""

    def __init__(self, inference: Collection[str], children: Iterable[str], routes: Iterable[Route]) -> None:
        self._exact = dict.fromkeys(NOT_SERVED, OPEN) | dict.fromkeys(inference, INFERENCE)
        self._children = tuple(children)
        self._patterns = []
        for route in routes:
            door = DOORS.get(route.path, MANAGE)
            if "{" in route.path:
                self._patterns.append((route.path_regex, door))
            else:
                self._exact[route.path] = door

    def of(self, path: str) -> Door:
        """The door of a path; where nothing is served, none but that to any answer."""
        door = self._exact.get(path)
        if door is not None:
            return door
        if path.startswith(self._children):
            return CHILD
        return next((door for pattern, door in self._patterns if pattern.match(path)), KEYED)
