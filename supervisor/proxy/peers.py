"""The peers of the config in force: connections to each from its first request on, and whether it could be reached."""

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
        self._backends: dict[str, PeerBackend] = {}
        self._former: list[Upstream] = []
        """Those of earlier configs, until their last answer has ended."""
        self.adopt(config)

    def adopt(self, config: Config) -> None:
        """Let this config hold; answers under way come from where they come."""
        self._peers = config.peers
        self._keys = KeyRing.of(config)
        for name, backend in tuple(self._backends.items()):
            upstream, peer = backend.upstream, config.peers.get(name)
            if peer is not None and endpoint_of(peer.proxy) == upstream.endpoint:
                upstream.adopt(peer.timeouts, _forwarding(peer, self._keys))
            else:
                del self._backends[name]
                upstream.dry_up()
                self._former.append(upstream)
        self._former = [upstream for upstream in self._former if upstream.is_used]

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
        for upstream in (*self._former, *(backend.upstream for backend in self._backends.values())):
            upstream.close()

    def __repr__(self) -> str:
        upstreams = ", ".join(f"{peer}: {backend.upstream}" for peer, backend in self._backends.items())
        return f"<Peers [{upstreams}]>"


def _upstream(peer: Peer, keys: KeyRing) -> Upstream:
    return Upstream(endpoint_of(peer.proxy), timeouts=peer.timeouts, forwarding=_forwarding(peer, keys))


def _forwarding(peer: Peer, keys: KeyRing) -> Forwarding:
    endpoint = endpoint_of(peer.proxy)
    return Forwarding(
        host=endpoint.authority.encode(),
        base_path=base_path(endpoint),
        trail=Trail.HIDDEN,
        api_key=peer.api_key.encode() if peer.api_key else None,
        own_keys=keys,
    )
