"""Answers without end, read piece by piece, without a server around them."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import Request

from tests.conftest import DEADLINE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.responses import Response
    from starlette.types import Message, Scope


def scope(path: str, query: str = "", *, method: str = "GET", version: str = "1.1", **headers: str) -> Scope:
    """As our server tells an application of a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": version,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 5),
        "path_params": {},
        "llama_supervise.client": SimpleNamespace(key=None, deed=""),
    }


def request(path: str, query: str = "", *, name: str | None = None, **options: Any) -> Request:
    """A request; `name` is what the route found in the path."""
    found = Request(scope(path, query, **options))
    if name is not None:
        found.path_params["name"] = name
    return found


class Answer:
    """What a client has of an answer so far. It takes nothing more while it is not willing."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: deque[bytes] = deque()
        self.is_complete = False
        self.left = anyio.Event()
        self.willing = anyio.Event()
        self.willing.set()
        self._news = anyio.Event()

    async def send(self, message: Message) -> None:
        await self.willing.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            if piece := message.get("body", b""):
                self.pieces.append(piece)
            self.is_complete = not message.get("more_body", False)
        self._news.set()
        self._news = anyio.Event()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def piece(self) -> str:
        """The next piece; empty at the end of the answer."""
        with anyio.fail_after(DEADLINE):
            while not self.pieces:
                if self.is_complete:
                    return ""
                await self._news.wait()
        return self.pieces.popleft().decode()

    async def until(self, text: str) -> str:
        """Everything up to a piece that has this text."""
        seen = ""
        while text not in seen:
            piece = await self.piece()
            assert piece, seen
            seen += piece
        return seen


class Messages:
    """The messages of an event stream, decoded twice."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._waiting: deque[tuple[str, Any]] = deque()

    async def next(self) -> tuple[str, Any]:
        """The kind and the data of the next one."""
        while not self._waiting:
            piece = await self._answer.piece()
            assert piece, "the stream has ended"
            self._waiting += decoded(piece)
        return self._waiting.popleft()

    async def until(self, kind: str) -> Any:
        """The data of the next one of this kind."""
        while (message := await self.next())[0] != kind:
            pass
        return message[1]


def decoded(piece: str) -> list[tuple[str, Any]]:
    """Whole frames, and nothing but frames and comments, in the very form that llama-swap gives them."""
    assert piece.endswith("\n\n")
    messages = []
    for frame in piece.removesuffix("\n\n").split("\n\n"):
        if not frame.startswith(":"):
            assert frame.startswith('event:message\ndata:{"type":"')
            message = json.loads(frame.removeprefix("event:message\ndata:"))
            assert message.keys() == {"type", "data"}
            messages.append((message["type"], json.loads(message["data"])))
    return messages


@contextlib.asynccontextmanager
async def reading(response: Response, **options: Any) -> AsyncIterator[Answer]:
    """An answer under way; its client leaves at the end, after which it must be over."""
    answer = Answer()
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(DEADLINE):
            tasks.start_soon(response, scope("/", **options), answer.receive, answer.send)
            yield answer
            answer.left.set()
            answer.willing.set()
