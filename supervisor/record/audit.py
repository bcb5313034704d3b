"""One line for every management action: who, what, and how it ended."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Protocol

from supervisor.record.rows import CLIENT_LEFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config.clients import ClientKey
    from supervisor.record.inflight import Watcher

logger = logging.getLogger("supervisor.audit")

LOOKS = frozenset(("GET", "HEAD", "OPTIONS"))


class Client(Protocol):
    """What is read of a request at its end."""

    watcher: Watcher | None
    deed: str

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def key(self) -> ClientKey | None: ...
    @property
    def status(self) -> int: ...
    @property
    def request_id(self) -> str: ...


class Audit:
    """A request for an action, on its way to its line. `whence` tells where it comes from."""

    __slots__ = ("_client", "_others", "_whence")

    def __init__(self, client: Client, whence: Callable[[], object]) -> None:
        self._client = client
        self._whence = whence
        self._others = client.watcher

    def client_began(self) -> None:
        if self._others is not None:
            self._others.client_began()

    def client_ended(self) -> None:
        client, who = self._client, str(self._whence())
        key, status = client.key.name if client.key is not None else "", client.status or CLIENT_LEFT
        facts = {"address": who, "key": key, "action": f"{client.method} {client.path}", "what": client.deed}
        logger.info(
            "%s%s: %s%s: %s",
            who,
            f" with the key {_shown(key)}" if key else "",
            _shown(facts["action"]),
            f" {_shown(client.deed)}" if client.deed else "",
            _outcome(status),
            extra={
                "audit": facts | {"status": status},
                "request_id": client.request_id or None,
                "address": who,
                "key": key or None,
                "status": status,
            },
        )
        if self._others is not None:
            self._others.client_ended()


def _outcome(status: int) -> str:
    if status in {401, 403}:
        return f"refused ({status})"
    if status == CLIENT_LEFT:
        return "the client left"
    return "done" if status < 400 else f"failed ({status})"


def _shown(text: str) -> str:
    """A text of somebody else's on one line, whatever it is."""
    text = text[:300]
    return text if text.isprintable() and text.isascii() else json.dumps(text)
