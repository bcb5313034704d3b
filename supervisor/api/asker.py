"""Whose request it is that a route answers, and what the audit is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from supervisor.access.keys import may_use, require_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from supervisor.config.clients import ClientKey
    from supervisor.fleet.names import Names


class Asker(Protocol):
    """The request as it came in."""

    deed: str

    @property
    def key(self) -> ClientKey | None: ...


def asker_of(request: Request) -> Asker:
    """Who asks."""
    return cast("Asker", request.scope["llama_supervise.client"])


def reached(request: Request, path: str) -> str:
    """A path of ours as the client reaches it, through whichever reverse proxy."""
    return f"{request.scope.get('root_path', '')}{path}"


def about_model(request: Request, names: Names, name: str) -> None:
    """Note that a request is about this model; raises `ModelForbidden` if it is not for its key."""
    asker = asker_of(request)
    asker.deed = name
    if asker.key is not None:
        require_model(asker.key, name, names.whole_name(name))


def visible(request: Request, names: Names) -> Callable[[str], bool] | None:
    """Which names the list of models has for who asks; None: all."""
    key = asker_of(request).key
    if key is None or key.models is None:
        return None
    return lambda name: may_use(key, name, names.whole_name(name))
