"""Asking a server over HTTP whether it is ready, for those that do not say so themselves.

It is plain HTTP on this machine; `verify=False` spares the 20 ms that loading certificates would take.
"""

from __future__ import annotations

import anyio
import httpx

from supervisor.llama.endpoint import Endpoint, TcpEndpoint, UnixEndpoint

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5


async def poll_until_healthy(endpoint: Endpoint, path: str) -> None:
    """Return once `path` answers 200, or, when it is `none`, once somebody accepts connections."""
    pause = FIRST_PAUSE
    async with _client(endpoint) as client:
        while not await (_accepts(endpoint) if path == "none" else _answers(client, path)):
            await anyio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)


def _client(endpoint: Endpoint) -> httpx.AsyncClient:
    match endpoint:
        case UnixEndpoint(path):
            transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)
            return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=5.0)
        case TcpEndpoint(port, host):
            return httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=5.0, trust_env=False, verify=False)


async def _answers(client: httpx.AsyncClient, path: str) -> bool:
    try:
        return (await client.get(path)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


async def _accepts(endpoint: Endpoint) -> bool:
    try:
        match endpoint:
            case UnixEndpoint(path):
                stream = await anyio.connect_unix(path)
                await stream.aclose()
            case TcpEndpoint(port, host):
                connection = await anyio.connect_tcp(host, port)
                await connection.aclose()
    except OSError:
        return False
    return True
