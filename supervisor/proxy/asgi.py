"""A request served by an ASGI application: what is not the data plane, where a task per request is no cost."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

    from supervisor.proxy.client import Client


logger = logging.getLogger("supervisor.proxy")


class AsgiCall:
    """One request, whole, and its task."""

    def __init__(self, app: ASGIApp, client: Client, *, scheme: str = "http") -> None:
        self._app = app
        self._scheme = scheme
        self._client = client
        self._left = asyncio.Event()
        self._writable = asyncio.Event()
        self._is_read = False
        if not client.is_lagging:
            self._writable.set()

    def start(self) -> asyncio.Task[None]:
        """Serve; the task ends with the answer."""
        self._client.listener = self
        return asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        client = self._client
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": client.version,
            "method": client.method,
            "scheme": self._scheme,
            "path": client.prefix + client.path,
            "raw_path": client.prefix.encode() + client.raw_path,
            "query_string": client.query,
            "root_path": client.prefix,
            "headers": client.headers,
            "client": client.address,
            "server": None,
            "llama_supervise.client": client,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except Exception:
            logger.exception("bug: %s %s broke", client.method, client.path, extra={"request_id": client.request_id})
        if not client.is_answered and not client.is_gone:
            client.cut()

    async def _receive(self) -> Message:
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": self._client.take_body(), "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._writable.wait()
        client = self._client
        if client.is_gone:
            return
        if message["type"] == "http.response.start":
            client.begin(message["status"], [(name.lower(), value) for name, value in message["headers"]])
            return
        body = message.get("body", b"")
        if not message.get("more_body"):
            client.finish(body)
        elif body:
            client.write(body)
        else:
            client.flush()

    # What the client's connection tells.

    def client_left(self) -> None:
        self._left.set()
        self._writable.set()

    def client_lags(self) -> None:
        self._writable.clear()

    def client_keeps_up(self) -> None:
        self._writable.set()

    def client_sent(self) -> None:
        """Nothing more comes: the request was whole before it was served."""
