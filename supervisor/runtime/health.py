"""Asking a server over HTTP whether it is ready, for those that do not say so themselves.

`verify=False` where there is no TLS spares the 20 ms that loading certificates takes.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import httpx

from supervisor.llama.endpoint import Endpoint, HttpEndpoint, TcpEndpoint, UnixEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("supervisor.health")

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
    async with await client_of(endpoint, key) as client:
        while True:
            status = 0
            with anyio.move_on_after(probe_seconds) as scope:
                status = await (_accepts(endpoint) if path == "none" else _status(client, path))
            if scope.cancelled_caught:
                probe_seconds = min(probe_seconds * 2, LONGEST_PROBE)
            heard(status)
            if status == httpx.codes.OK:
                return status
            now = anyio.current_time()
            missing_since = (missing_since or now) if status in NO_SUCH_PATH else None
            if missing_since is not None and now - missing_since >= patience:
                return status
            await anyio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)


async def client_of(endpoint: Endpoint, key: str | None = None) -> httpx.AsyncClient:
    """A client of a child's server that sends it this key; it sets no limit to how long anything takes."""
    client = await _plain_client_of(endpoint)
    if key is not None:
        client.headers["authorization"] = f"Bearer {key}"
    return client


async def _plain_client_of(endpoint: Endpoint) -> httpx.AsyncClient:
    match endpoint:
        case UnixEndpoint(path):
            transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)
            return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None)
        case HttpEndpoint(tls=True):
            trusted = await anyio.to_thread.run_sync(ssl.create_default_context, abandon_on_cancel=True)
            return httpx.AsyncClient(base_url=str(endpoint), timeout=None, trust_env=False, verify=trusted)
        case _:
            return httpx.AsyncClient(base_url=str(endpoint), timeout=None, trust_env=False, verify=False)


async def _status(client: httpx.AsyncClient, path: str) -> int:
    try:
        async with client.stream("GET", path) as answer:  # its body may be long, or without an end
            return answer.status_code
    except httpx.HTTPError as exc:
        is_known = isinstance(exc, httpx.ConnectError) and "SSL" not in str(exc)
        logger.log(logging.DEBUG if is_known else logging.WARNING, "%s%s: %s", client.base_url, path, exc)
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
    return httpx.codes.OK
