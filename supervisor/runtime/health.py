"""Asking a server over HTTP whether it is ready, for those that do not say so themselves.

It is plain HTTP on this machine; `verify=False` spares the 20 ms that loading certificates would take.
"""

from __future__ import annotations

import anyio
import httpx

from supervisor.llama.endpoint import Endpoint, TcpEndpoint, UnixEndpoint

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5
NO_SUCH_PATH = frozenset({301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 501})
"""Statuses that no loading server answers with."""


async def poll_until_healthy(endpoint: Endpoint, path: str, *, patience: float) -> int:
    """Return 200 once `path` answers that, or, when it is `none`, once somebody accepts connections.

    A server that has answered `patience` seconds long that there is no such path will not change its mind: then that
    status is returned.
    """
    pause, missing_since = FIRST_PAUSE, None
    async with _client(endpoint) as client:
        while True:
            status = await (_accepts(endpoint) if path == "none" else _status(client, path))
            if status == httpx.codes.OK:
                return status
            now = anyio.current_time()
            missing_since = (missing_since or now) if status in NO_SUCH_PATH else None
            if missing_since is not None and now - missing_since >= patience:
                return status
            await anyio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)


def _client(endpoint: Endpoint) -> httpx.AsyncClient:
    match endpoint:
        case UnixEndpoint(path):
            transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)
            return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=5.0)
        case TcpEndpoint(port, host):
            return httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=5.0, trust_env=False, verify=False)


async def _status(client: httpx.AsyncClient, path: str) -> int:
    try:
        return (await client.get(path)).status_code
    except httpx.HTTPError:
        return 0


async def _accepts(endpoint: Endpoint) -> int:
    try:
        match endpoint:
            case UnixEndpoint(path):
                stream = await anyio.connect_unix(path)
                await stream.aclose()
            case TcpEndpoint(port, host):
                connection = await anyio.connect_tcp(host, port)
                await connection.aclose()
    except OSError:
        return 0
    return httpx.codes.OK
