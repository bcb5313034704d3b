"""Asking a server over HTTP whether it is ready, for those that do not say so themselves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from supervisor.llama.endpoint import HttpEndpoint, TcpEndpoint, UnixEndpoint
from supervisor.runtime.asking import Asker, NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.llama.endpoint import Endpoint

logger = logging.getLogger("supervisor.health")

OK = 200
FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5
FIRST_PROBE = 5.0
"""Seconds the first probe gets; one that hangs is not waited for, and the next one gets twice as long."""
LONGEST_PROBE = 60.0
NO_SUCH_PATH = frozenset({301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 501})
"""Statuses that no loading server answers with."""


async def poll_until_healthy(
    endpoint: Endpoint,
    path: str,
    *,
    patience: float,
    probe_seconds: float = FIRST_PROBE,
    heard: Callable[[int], None] = lambda _: None,
    key: str | None = None,
) -> int:
    """Return 200 once `path` answers that, or, when it is `none`, once somebody accepts connections.

    A server that has answered `patience` seconds long that there is no such path will not change its mind: then that
    status is returned. `heard` is told every answer, 0 for none. `key` is sent along.
    """
    pause, missing_since = FIRST_PAUSE, None
    asker = Asker(endpoint, key)
    while True:
        status = 0
        with anyio.move_on_after(probe_seconds) as scope:
            status = await (_accepts(endpoint) if path == "none" else _status(asker, endpoint, path))
        if scope.cancelled_caught:
            probe_seconds = min(probe_seconds * 2, LONGEST_PROBE)
        heard(status)
        if status == OK:
            return status
        now = anyio.current_time()
        missing_since = (missing_since or now) if status in NO_SUCH_PATH else None
        if missing_since is not None and now - missing_since >= patience:
            return status
        await anyio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)


async def _status(asker: Asker, endpoint: Endpoint, path: str) -> int:
    try:
        async with asker.get(path) as answer:
            return answer.status
    except NoAnswer as exc:
        logger.log(logging.DEBUG if exc.is_absent else logging.WARNING, "%s%s: %s", endpoint, path, exc)
        return 0


async def _accepts(endpoint: Endpoint) -> int:
    try:
        match endpoint:
            case UnixEndpoint(path):
                stream = await anyio.connect_unix(path)
                await stream.aclose()
            case TcpEndpoint(port, host) | HttpEndpoint(host, port):
                connection = await anyio.connect_tcp(host, port)
                await connection.aclose()
    except OSError:
        return 0
    return OK
