"""Who answers a request: a child of ours that a lease holds, or a peer. What an answer that fails is told as, too."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import anyio

from supervisor.access.keys import NO_KEYS
from supervisor.errors import (
    ModelCrashed,
    ModelUnloaded,
    ShuttingDown,
    SupervisorError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from supervisor.llama.endpoint import HttpEndpoint
from supervisor.proxy.heads import AS_IT_CAME, Forwarding, Trail
from supervisor.proxy.opening import NoConnection
from supervisor.proxy.upstream import IDLE_SECONDS, Upstream

if TYPE_CHECKING:
    from supervisor.access.keys import KeyRing
    from supervisor.config.values import Timeouts
    from supervisor.fleet.values import RunId
    from supervisor.llama.endpoint import Endpoint
    from supervisor.runtime.live import Lease, LiveRun

LAST_WORDS = 2.0
"""Seconds a broken connection waits to learn what became of its child."""
DEATH_NOTICE = 0.05
"""Seconds in which we learn of a child's death after its connections have ended."""


class Origin(Protocol):
    """Where an answer comes from."""

    heard_at: float
    """When the last byte of one came."""


class Backend(Protocol):
    """What an exchange needs to know of who answers it."""

    @property
    def name(self) -> str:
        """As the log has it."""

    @property
    def upstream(self) -> Upstream:
        """The connections to it."""

    @property
    def origin(self) -> Origin:
        """Who is told of each piece; not by a call, for there are many."""

    def begin(self) -> None:
        """An answer is owed from now on."""

    def end(self) -> None:
        """Nothing more is owed; told once."""

    def late(self) -> SupervisorError:
        """No answer has begun within the limit."""

    async def unreachable(self, error: UpstreamUnreachable) -> SupervisorError:
        """Why there is no connection."""

    async def broke(self) -> SupervisorError:
        """Why a connection ended before the answer did."""

    async def died(self) -> SupervisorError | None:
        """Why an answer whose end was that of its connection is not whole; None: nothing speaks against it."""


class LocalBackend:
    """A child of ours; a lease is given back at the end of each answer."""

    __slots__ = ("lease", "origin", "upstream")

    def __init__(self, lease: Lease, upstream: Upstream) -> None:
        self.lease = lease
        self.origin: LiveRun = lease.run
        self.upstream = upstream

    @property
    def name(self) -> str:
        return self.origin.model.id

    def begin(self) -> None:
        self.origin.awaited += 1

    def end(self) -> None:
        self.origin.awaited -= 1
        self.lease.give_back()

    def late(self) -> SupervisorError:
        return UpstreamTimeout(f"`{self.name}` has not begun to answer within {self.upstream.response_header:g} s")

    async def unreachable(self, error: UpstreamUnreachable) -> SupervisorError:
        return await self._last_words(error)

    async def broke(self) -> SupervisorError:
        error = UpstreamUnreachable(f"`{self.name}` closed the connection before the end of its answer")
        return await self._last_words(error)

    async def died(self) -> SupervisorError | None:
        with anyio.move_on_after(DEATH_NOTICE):
            await self.origin.gone.wait()
        return ModelCrashed(self.origin.failure) if self.origin.failure is not None else None

    async def _last_words(self, error: UpstreamUnreachable) -> SupervisorError:
        """What became of the child behind a connection that ended: its crash, our own doing, or nothing known."""
        run = self.origin
        if run.is_cut_by_shutdown:
            return ShuttingDown("the service was shut down before the answer was complete")
        if run.is_cut:
            return ModelUnloaded(f"`{run.model.id}` was unloaded before it had answered")
        with anyio.move_on_after(LAST_WORDS):
            await run.gone.wait()
        return ModelCrashed(run.failure) if run.failure is not None else error


class Children:
    """The children that requests have gone to, and the connections to each, until it is asked to leave."""

    def __init__(self) -> None:
        self._keys = NO_KEYS
        self._backends: dict[RunId, LocalBackend] = {}

    def adopt(self, keys: KeyRing) -> None:
        """Credentials with one of these keys reach none of them from now on; connections stay open."""
        self._keys = keys
        for backend in self._backends.values():
            backend.upstream.adopt(*treatment(backend.origin, keys))

    def behind(self, lease: Lease) -> LocalBackend:
        """The child that a lease holds. Those who use it share one backend, those who only look its connections."""
        run = lease.run
        known = self._backends.get(run.id)
        if known is not None and known.lease is lease:
            return known
        backend = LocalBackend(lease, local_upstream(run, self._keys) if known is None else known.upstream)
        if known is None:
            run.on_end(partial(self._forget, run.id))
        if known is None or lease is run.lease:
            self._backends[run.id] = backend
        return backend

    def _forget(self, run: RunId) -> None:
        self._backends.pop(run).upstream.close()


class PeerBackend:
    """Another service; one backend serves all requests to it."""

    __slots__ = ("_peer", "heard_at", "upstream")

    def __init__(self, peer: str, upstream: Upstream) -> None:
        self._peer = peer
        self.upstream = upstream
        self.heard_at = monotonic()

    @property
    def name(self) -> str:
        return f"peer {self._peer}"

    @property
    def origin(self) -> Origin:
        return self

    def begin(self) -> None:
        """It counts for itself."""

    def end(self) -> None:
        """It is nobody's to give back."""

    def late(self) -> SupervisorError:
        self.upstream.is_reachable = False
        seconds = self.upstream.response_header
        return UpstreamTimeout(f"the peer `{self._peer}` has not begun to answer within {seconds:g} s")

    async def unreachable(self, error: UpstreamUnreachable) -> SupervisorError:
        if self.upstream.is_closed:
            return _shutting_down()
        why = error.why if isinstance(error, NoConnection) else error.message
        hint = f"it should serve at {self.upstream.endpoint}"
        return UpstreamUnreachable(f"the peer `{self._peer}` cannot be reached: {why}", hint=hint)

    async def broke(self) -> SupervisorError:
        if self.upstream.is_closed:
            return _shutting_down()
        return UpstreamUnreachable(f"the peer `{self._peer}` closed the connection before the end of its answer")

    async def died(self) -> SupervisorError | None:
        return None


def local_upstream(run: LiveRun, keys: KeyRing = NO_KEYS) -> Upstream:
    """The connections to a child; credentials with one of `keys` do not reach it."""
    assert run.endpoint is not None
    timeouts, forwarding = treatment(run, keys)
    return Upstream(run.endpoint, timeouts=timeouts, forwarding=forwarding)


def treatment(run: LiveRun, keys: KeyRing) -> tuple[Timeouts, Forwarding]:
    """How long a child may take, and what of a request reaches it."""
    assert run.endpoint is not None
    timeouts = run.model.timeouts
    if not run.model.cmd:  # a llama-server of ours
        idle = IDLE_SECONDS if timeouts.idle_connection is None else min(IDLE_SECONDS, timeouts.idle_connection)
        timeouts = replace(timeouts, idle_connection=idle)
    return timeouts, _forwarding(run, run.endpoint, keys)


def _forwarding(run: LiveRun, endpoint: Endpoint, keys: KeyRing) -> Forwarding:
    key = run.api_key.encode() if run.api_key is not None else None
    if run.model.proxy is not None:
        path = base_path(endpoint)
        return Forwarding(host=None, base_path=path, trail=Trail.CONTINUED, api_key=key, own_keys=keys)
    return Forwarding(api_key=key, own_keys=keys) if keys or key else AS_IT_CAME


def base_path(endpoint: Endpoint) -> bytes:
    """What stands before the path of every request to a server."""
    return endpoint.base_path.encode() if isinstance(endpoint, HttpEndpoint) else b""


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the service was shut down before the answer was complete")
