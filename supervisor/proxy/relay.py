"""The data plane: a request's bytes to its child and the answer's bytes back, as a bare ASGI endpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

import anyio

from supervisor.errors import (
    MethodNotAllowed,
    ModelCrashed,
    ModelNotLoaded,
    ModelUnloaded,
    SupervisorError,
    UpstreamUnreachable,
)
from supervisor.proxy import filters
from supervisor.proxy.bodies import ClientGone, model_in_form, model_in_json, read_body
from supervisor.proxy.dialects import Dialect, error_event, error_response
from supervisor.proxy.disconnect import Disconnect
from supervisor.proxy.heads import header, is_event_stream, request_head, response_headers
from supervisor.proxy.routes import ROUTES, UPSTREAM, Route, Source, dialect_of
from supervisor.proxy.upstream import Upstream, UpstreamBroken

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from supervisor.fleet.names import Names, Target
    from supervisor.fleet.values import RunId
    from supervisor.proxy.upstream import Connection, Headers
    from supervisor.runtime.live import LiveRun
    from supervisor.runtime.pool import Pool

logger = logging.getLogger("supervisor.proxy")

LAST_WORDS = 2.0
"""Seconds a broken connection waits to learn what became of its child."""


class Redirect(Exception):
    """Raised when the client has to ask at another address."""

    def __init__(self, target: bytes) -> None:
        super().__init__(target)
        self.target = target


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its way to a child."""

    method: bytes
    target: bytes
    """Path and query as the child gets them."""
    headers: Headers
    body: bytes
    model: Target
    dialect: Dialect
    wakes: bool = True

    @property
    def head(self) -> bytes:
        has_length = self.body or self.method in {b"POST", b"PUT", b"PATCH"}
        return request_head(self.method, self.target, self.headers, len(self.body) if has_length else None)


class Proxy:
    """Serves every route that leads to a child."""

    def __init__(self, pool: Pool, names: Names) -> None:
        self._pool = pool
        self._names = names
        self._max_body = pool.config.server.max_body
        self._upstreams: dict[RunId, Upstream] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the caller has chosen it by its path."""
        route = ROUTES.get(scope["path"])
        try:
            call = await (self._routed(route, scope, receive) if route else self._addressed(scope, receive))
            with Disconnect(receive):
                await self._serve(call, send)
        except SupervisorError as exc:
            await refuse(exc, scope, send, route.dialect if route else dialect_of(scope["path"]))
        except Redirect as exc:
            await _redirect(exc.target, scope, send)
        except ClientGone:
            pass

    async def _routed(self, route: Route, scope: Scope, receive: Receive) -> Call:
        if scope["method"] not in route.methods:
            allowed = " or ".join(sorted(route.methods))
            raise MethodNotAllowed(f"`{scope['path']}` does not take {scope['method']}", hint=f"use {allowed}")
        body = await read_body(scope, receive, self._max_body)
        model = self._names.resolve(_model_named(route, scope, body))
        if model.filters and route.source is Source.JSON:
            body = filters.apply(model.filters, body)
        return _call(scope, scope["raw_path"], body, model, route.dialect, wakes=route.wakes)

    async def _addressed(self, scope: Scope, receive: Receive) -> Call:
        """A request to `/upstream/MODEL/PATH`."""
        model, rest = addressed_model(self._names, scope["raw_path"])
        if not rest:
            raise Redirect(scope["raw_path"] + b"/")
        body = await read_body(scope, receive, self._max_body)
        return _call(scope, rest, body, model, dialect_of(scope["path"]))

    async def _serve(self, call: Call, send: Send) -> None:
        if not call.wakes:
            self._require_loaded(call.model)
        with await self._pool.lease(call.model.model) as run:
            upstream = self._upstream(run)
            try:
                connection = await _exchange(upstream, call)
            except (UpstreamBroken, UpstreamUnreachable) as exc:
                raise await _last_words(run, exc) from exc
            try:
                await _relay(connection, run, call, send)
            finally:
                upstream.release(connection)

    def _upstream(self, run: LiveRun) -> Upstream:
        upstream = self._upstreams.get(run.id)
        if upstream is None:
            assert run.endpoint is not None
            upstream = self._upstreams[run.id] = Upstream(run.endpoint)
            run.on_end(lambda: self._upstreams.pop(run.id).close())
        return upstream

    def _require_loaded(self, model: Target) -> None:
        run = self._pool.fleet.run_of(model.model)
        if run is None or not run.is_open:
            raise ModelNotLoaded(f"`{model.model}` is not loaded", hint="looking at a model does not load it")


async def _exchange(upstream: Upstream, call: Call) -> Connection:
    """Send the request and await the head; once more on a fresh connection if a kept one had just ended."""
    connection = await upstream.acquire()
    while True:
        try:
            connection.send(call.method, call.head, call.body)
            await connection.head()
            return connection
        except UpstreamBroken:
            upstream.release(connection)
            if not connection.has_served:
                raise
        except BaseException:
            upstream.release(connection)
            raise
        connection = await upstream.acquire(fresh=True)


async def _relay(connection: Connection, run: LiveRun, call: Call, send: Send) -> None:
    is_cross_origin = header(call.headers, b"origin") is not None
    status, headers = await connection.head()
    answer = response_headers(headers, is_cross_origin=is_cross_origin)
    if status in {204, 304}:
        answer = [pair for pair in answer if pair[0] != b"content-length"]  # of the body that is not sent
    await send({"type": "http.response.start", "status": status, "headers": answer})
    chunk: bytes | None = b""
    try:
        while (chunk := await connection.read()) is not None:
            more = not connection.is_drained
            await send({"type": "http.response.body", "body": chunk, "more_body": more})
            if not more:
                return
    except UpstreamBroken as exc:
        error = await _last_words(run, exc)
        logger.warning("an answer of %s was cut: %s", run.model.id, error)
        if not is_event_stream(headers) or header(headers, b"content-length") is not None:
            return  # uvicorn closes the connection: the only way to say that bytes are missing
        chunk = b"\n\n" + error_event(error, call.dialect)
        await send({"type": "http.response.body", "body": chunk, "more_body": False})
    else:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _last_words(run: LiveRun, exc: UpstreamBroken | UpstreamUnreachable) -> SupervisorError:
    """What became of the child behind a connection that ended: its crash, our own doing, or nothing known."""
    if run.scope.cancel_called:
        return ModelUnloaded(f"`{run.model.id}` was unloaded before it had answered")
    with anyio.move_on_after(LAST_WORDS):
        await run.gone.wait()
    if run.failure is not None:
        return ModelCrashed(run.failure)
    if isinstance(exc, UpstreamUnreachable):
        return exc
    return UpstreamUnreachable(f"`{run.model.id}` closed the connection before the end of its answer")


async def refuse(error: SupervisorError, scope: Scope, send: Send, dialect: Dialect = Dialect.OPENAI) -> None:
    """Answer with an error."""
    status, headers, body = error_response(error, dialect, header(scope["headers"], b"accept") or b"")
    if header(scope["headers"], b"origin") is not None:
        headers.append((b"access-control-allow-origin", b"*"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _redirect(target: bytes, scope: Scope, send: Send) -> None:
    """To the same place with a slash at its end, so that relative links of a child's page lead to the child."""
    query: bytes = scope["query_string"]
    location = target + b"?" + query if query else target
    status = 301 if scope["method"] in {"GET", "HEAD"} else 308
    headers = [(b"location", location), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def addressed_model(names: Names, raw_path: bytes) -> tuple[Target, bytes]:
    """The model that `/upstream/MODEL/PATH` names, and the path as the client encoded it, empty if there is none.

    Raises `ModelNotFound`.
    """
    segments = raw_path.removeprefix(UPSTREAM.encode()).split(b"/")
    model, count = names.split([unquote(segment.decode("latin-1")) for segment in segments])
    return model, b"".join(b"/" + segment for segment in segments[count:])


def _model_named(route: Route, scope: Scope, body: bytes) -> str | None:
    match route.source:
        case Source.JSON:
            return model_in_json(body)
        case Source.FORM:
            return model_in_form(header(scope["headers"], b"content-type") or b"", body)
        case Source.QUERY:
            return next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("model", ())), None)


def _call(scope: Scope, path: bytes, body: bytes, model: Target, dialect: Dialect, *, wakes: bool = True) -> Call:
    query: bytes = scope["query_string"]
    target = path + b"?" + query if query else path
    return Call(scope["method"].encode(), target, scope["headers"], body, model, dialect, wakes)
