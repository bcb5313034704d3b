"""The peers of the config in force: connections to each from its first request on, and whether it could be reached."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from supervisor.access.keys import KeyRing
from supervisor.llama.endpoint import HttpEndpoint, endpoint_of
from supervisor.proxy.backend import PeerBackend, base_path
from supervisor.proxy.forward_proxy import forward_proxy
from supervisor.proxy.heads import Forwarding, Trail
from supervisor.proxy.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.config.values import Config, Peer
    from supervisor.proxy.forward_proxy import ForwardProxy

logger = logging.getLogger("supervisor.proxy")


class Peers:
    """What leads to other services."""

    def __init__(self, config: Config, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
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
                upstream.adopt(peer.timeouts, _forwarding(peer, self._keys, upstream.through))
            else:
                del self._backends[name]
                upstream.dry_up()
                self._former.append(upstream)
        self._former = [upstream for upstream in self._former if upstream.is_used]

    def backend(self, peer: str) -> PeerBackend:
        """Who answers requests for models of a peer."""
        backend = self._backends.get(peer)
        if backend is None:
            backend = self._backends[peer] = PeerBackend(peer, self._upstream(peer))
        return backend

    def reachable(self, peer: str) -> bool | None:
        """Whether the last request came through to a peer; None: there was none."""
        backend = self._backends.get(peer)
        return backend.upstream.is_reachable if backend is not None else None

    def close(self) -> None:
        """Close every connection; answers under way break."""
        for upstream in (*self._former, *(backend.upstream for backend in self._backends.values())):
            upstream.close()

    def _upstream(self, name: str) -> Upstream:
        peer = self._peers[name]
        endpoint = endpoint_of(peer.proxy)
        through = forward_proxy(endpoint, self._environ)
        if through is not None:
            logger.info("the peer %s is asked through the proxy %s, for NO_PROXY does not name it", name, through)
        forwarding = _forwarding(peer, self._keys, through)
        return Upstream(endpoint, timeouts=peer.timeouts, forwarding=forwarding, through=through)

    def __repr__(self) -> str:
        upstreams = ", ".join(f"{peer}: {backend.upstream}" for peer, backend in self._backends.items())
        return f"<Peers [{upstreams}]>"


def _forwarding(peer: Peer, keys: KeyRing, through: ForwardProxy | None) -> Forwarding:
    endpoint = endpoint_of(peer.proxy)
    host, path = endpoint.authority.encode(), base_path(endpoint)
    asked = through if isinstance(endpoint, HttpEndpoint) and not endpoint.tls else None
    return Forwarding(
        host=host,
        base_path=b"http://" + host + path if asked is not None else path,
        trail=Trail.HIDDEN,
        api_key=peer.api_key.encode() if peer.api_key else None,
        own_keys=keys,
        proxy_authorization=asked.authorization if asked is not None else None,
    )
