"""The peers of one config: connections to each from its first request on, and whether it could be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.access.keys import KeyRing
from supervisor.llama.endpoint import endpoint_of
from supervisor.proxy.backend import PeerBackend, base_path
from supervisor.proxy.heads import Forwarding, Trail
from supervisor.proxy.upstream import Upstream

if TYPE_CHECKING:
    from supervisor.config.values import Config, Peer


class Peers:
    """What leads to other services."""

    def __init__(self, config: Config) -> None:
        self._peers = config.peers
        self._keys = KeyRing.of(config)
        self._backends: dict[str, PeerBackend] = {}

    def backend(self, peer: str) -> PeerBackend:
        """Who answers requests for models of a peer."""
        backend = self._backends.get(peer)
        if backend is None:
            backend = self._backends[peer] = PeerBackend(peer, _upstream(self._peers[peer], self._keys))
        return backend

    def reachable(self, peer: str) -> bool | None:
        """Whether the last request came through to a peer; None: there was none."""
        backend = self._backends.get(peer)
        return backend.upstream.is_reachable if backend is not None else None

    def close(self) -> None:
        """Close every connection; answers under way break."""
        for backend in self._backends.values():
            backend.upstream.close()

    def __repr__(self) -> str:
        upstreams = ", ".join(f"{peer}: {backend.upstream}" for peer, backend in self._backends.items())
        return f"<Peers [{upstreams}]>"


def _upstream(peer: Peer, keys: KeyRing) -> Upstream:
    endpoint = endpoint_of(peer.proxy)
    forwarding = Forwarding(
        host=endpoint.authority.encode(),
        base_path=base_path(endpoint),
        trail=Trail.HIDDEN,
        api_key=peer.api_key.encode() if peer.api_key else None,
        own_keys=keys,
    )
    return Upstream(endpoint, timeouts=peer.timeouts, forwarding=forwarding)
