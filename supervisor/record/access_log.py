"""One line of our log for each request, when it has ended, in llama-swap's form (spec: llama-swap.md, section 0).

Lines go straight to where the log is kept: a record of `logging` would cost more than the rest of a short request.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from supervisor.config.values import LogFormat
from supervisor.record.go_time import format_duration
from supervisor.record.inflight import Headers, Watcher, remote_ip
from supervisor.record.own_log import Stamp
from supervisor.record.rows import CLIENT_LEFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config.clients import ClientKey
    from supervisor.config.values import Server

logger = logging.getLogger("supervisor.access")

QUIET = ("/wol-health", "/api/performance", "/metrics")
"""Beginnings of paths that are asked for so often that nothing else could be seen."""


class Request(Protocol):
    """What is read of a request at its end."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def request_id(self) -> str: ...
    @property
    def key(self) -> ClientKey | None: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def version(self) -> str: ...
    @property
    def address(self) -> tuple[str, int] | None: ...
    @property
    def status(self) -> int: ...
    @property
    def written(self) -> int: ...


class Client(Request, Protocol):
    """A request that tells of its end."""

    watcher: Watcher | None


class AccessLog:
    """Gives `write` a line for each request that has ended."""

    def __init__(self, write: Callable[[str], None], time_format: str) -> None:
        self._write = write
        self._stamp = Stamp(time_format)

    def began(self, client: Client) -> None:
        """From now on until its end a request is served."""
        client.watcher = _Served(self, client)

    def ended(self, request: Request, nanoseconds: int) -> None:
        """A request has taken this long."""
        path = request.path
        if path.startswith(QUIET):
            return
        if not path.isprintable():
            path = request.raw_path.decode("latin-1")  # else it could look like two lines
        headers = request.headers
        self._write(
            f"{self._stamp.at(time.time())}[INFO] Request {_printable(remote_ip(headers, request.address))} "
            f'"{request.method} {path} HTTP/{request.version}" {request.status or CLIENT_LEFT} {request.written} '
            f'"{_agent(headers)}" {format_duration(nanoseconds)}'
        )


class JsonAccessLog:
    """Writes a record of `logging` for each of them, with the facts beside the words."""

    def began(self, client: Client) -> None:
        """From now on until its end a request is served."""
        client.watcher = _Served(self, client)

    def ended(self, request: Request, nanoseconds: int) -> None:
        """A request has taken this long."""
        if request.path.startswith(QUIET):
            return
        path = _printable(request.path)
        status = request.status or CLIENT_LEFT
        logger.info(
            "%s %s %d",
            request.method,
            path,
            status,
            extra={
                "request_id": request.request_id,
                "key": request.key.name if request.key is not None else None,
                "address": _printable(remote_ip(request.headers, request.address)),
                "method": request.method,
                "path": path,
                "status": status,
                "bytes": request.written,
                "seconds": round(nanoseconds / 1e9, 6),
            },
        )


class _Served:
    """A request on its way to its line."""

    __slots__ = ("_client", "_log", "_since")

    def __init__(self, log: AccessLog | JsonAccessLog, client: Client) -> None:
        self._log = log
        self._client = client
        self._since = time.perf_counter_ns()

    def client_began(self) -> None:
        """The line is written at the end."""

    def client_ended(self) -> None:
        self._log.ended(self._client, time.perf_counter_ns() - self._since)


def access_log(server: Server, write: Callable[[str], None]) -> AccessLog | JsonAccessLog | None:
    """The log where a file of llama-swap's is read or the log is JSON, if its level lets such lines through."""
    if server.log_level not in {"debug", "info"}:
        return None
    if server.log_format is LogFormat.JSON:
        return JsonAccessLog()
    if server.log_time_format is None:
        return None
    return AccessLog(write, server.log_time_format)


def _agent(headers: Headers) -> str:
    for name, value in headers:
        if name == b"user-agent":
            return _printable(value.decode(errors="replace"))
    return ""


def _printable(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()
