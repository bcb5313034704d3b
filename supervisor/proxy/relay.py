"""The data plane: a request's bytes to its child and the answer's bytes back, as a bare ASGI endpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

import anyio
import msgspec.json

from supervisor.errors import (
    MethodNotAllowed,
    ModelCrashed,
    ModelUnloaded,
    ShuttingDown,
    SupervisorError,
    UpstreamRefused,
    UpstreamUnreachable,
)
from supervisor.proxy import filters
from supervisor.proxy.answer import Answer
from supervisor.proxy.bodies import ClientGone, head_of_json, model_in_form, read_body
from supervisor.proxy.disconnect import Disconnect
from supervisor.proxy.heads import header, is_event_stream, request_head, response_headers
from supervisor.proxy.lines import WholeLines
from supervisor.proxy.patience import patient_lease
from supervisor.proxy.routes import ROUTES, UPSTREAM, Route, Source, dialect_of
from supervisor.proxy.upstream import Upstream, UpstreamBroken

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from supervisor.fleet.names import Names, Target
    from supervisor.fleet.values import RunId
    from supervisor.proxy.upstream import Connection, Headers
    from supervisor.runtime.lease import Lease
    from supervisor.runtime.live import LiveRun
    from supervisor.runtime.pool import Pool

logger = logging.getLogger("supervisor.proxy")

LAST_WORDS = 2.0
"""Seconds a broken connection waits to learn what became of its child."""
DEATH_NOTICE = 0.05
"""Seconds in which we learn of a child's death after its connections have ended."""
REFUSAL_LIMIT = 64 * 1024
"""Bytes read of an error that has to be put into a stream."""


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
    wakes: bool = True
    streams: bool = False

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
        dialect = route.dialect if route else dialect_of(scope["path"])
        answer = Answer(scope, send, dialect, is_open_to_browsers=route is not None)
        try:
            call = await (self._routed(route, scope, receive) if route else self._addressed(scope, receive))
            with Disconnect(receive):
                await self._serve(call, answer)
        except SupervisorError as exc:
            await answer.fail(exc)
        except Redirect as exc:
            await _redirect(exc.target, scope, send)
        except ClientGone:
            pass

    async def _routed(self, route: Route, scope: Scope, receive: Receive) -> Call:
        if scope["method"] not in route.methods:
            allowed = ", ".join(sorted(route.methods))
            raise MethodNotAllowed(f"`{scope['path']}` does not take {scope['method']}", allowed=allowed)
        body = await read_body(scope, receive, self._max_body)
        name, wants_stream = _understood(route, scope, body)
        model = self._names.resolve(name)
        if model.filters and route.source is Source.JSON:
            body = filters.apply(model.filters, body)
        streams = route.streams and wants_stream
        return _call(scope, scope["raw_path"], body, model, wakes=route.wakes, streams=streams)

    async def _addressed(self, scope: Scope, receive: Receive) -> Call:
        """A request to `/upstream/MODEL/PATH`."""
        model, rest = addressed_model(self._names, scope["raw_path"])
        if not rest:
            raise Redirect(scope["raw_path"] + b"/")
        body = await read_body(scope, receive, self._max_body)
        return _call(scope, rest, body, model)

    async def _serve(self, call: Call, answer: Answer) -> None:
        with await self._lease(call, answer) as run:
            run.awaited += 1
            try:
                await self._pass_on(call, run, answer)
            finally:
                run.awaited -= 1

    async def _lease(self, call: Call, answer: Answer) -> Lease:
        model = call.model.model
        if not call.wakes:
            return self._pool.look(model)
        return await (patient_lease(self._pool, model, answer) if call.streams else self._pool.lease(model))

    async def _pass_on(self, call: Call, run: LiveRun, answer: Answer) -> None:
        upstream = self._upstream(run)
        try:
            connection = await _exchange(upstream, call)
        except (UpstreamBroken, UpstreamUnreachable) as exc:
            raise await _last_words(run, exc) from exc
        try:
            await _relay(connection, run, call, answer)
        finally:
            upstream.release(connection)

    def _upstream(self, run: LiveRun) -> Upstream:
        upstream = self._upstreams.get(run.id)
        if upstream is None:
            assert run.endpoint is not None
            upstream = self._upstreams[run.id] = Upstream(run.endpoint)
            run.on_end(lambda: self._upstreams.pop(run.id).close())
        return upstream


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


async def _relay(connection: Connection, run: LiveRun, call: Call, answer: Answer) -> None:
    status, headers = await connection.head()
    is_stream = is_event_stream(headers)
    if (answer.is_stream and not is_stream) or status >= 600:
        raise await _refusal(connection, status)
    await answer.begin(status, response_headers(status, headers), is_stream=is_stream)
    lines, send = WholeLines(), answer.send
    try:
        while (chunk := await connection.read()) is not None:
            run.heard_at = monotonic()
            if connection.is_drained:
                await answer.body(lines.rest() + chunk, more=False)
                return
            if is_stream and (lines.holds or not chunk.endswith(b"\n")):
                chunk = lines.feed(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if is_stream and connection.ends_with_connection:
            await _still_alive(run)
    except UpstreamBroken as exc:
        error = await _last_words(run, exc)
        logger.warning("an answer of %s was cut: %s", run.model.id, error)
        if is_stream and header(headers, b"content-length") is None:
            await answer.fail(error)
        return  # otherwise uvicorn closes the connection: the only way to say that bytes are missing
    await answer.body(lines.rest(), more=False)


async def _still_alive(run: LiveRun) -> None:
    """A stream whose end is that of its connection is whole only if its child has not died; raises `UpstreamBroken`."""
    with anyio.move_on_after(DEATH_NOTICE):
        await run.gone.wait()
    if run.failure is not None:
        raise UpstreamBroken(started=True)


async def _refusal(connection: Connection, status: int) -> SupervisorError:
    """A child's own error, for a stream that has begun with comments; or a status there is no way to pass on."""
    if status >= 600:
        return UpstreamRefused(f"the model's server answered with status {status}, which HTTP does not have")
    body = b""
    while len(body) < REFUSAL_LIMIT and (chunk := await connection.read()) is not None:
        body += chunk
    try:
        message = msgspec.json.decode(body)["error"]["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        message = body[:200].decode(errors="replace")
    return UpstreamRefused(str(message))


async def _last_words(run: LiveRun, exc: UpstreamBroken | UpstreamUnreachable) -> SupervisorError:
    """What became of the child behind a connection that ended: its crash, our own doing, or nothing known."""
    if run.is_cut_by_shutdown:
        return ShuttingDown("the service was shut down before the answer was complete")
    if run.scope.cancel_called:
        return ModelUnloaded(f"`{run.model.id}` was unloaded before it had answered")
    with anyio.move_on_after(LAST_WORDS):
        await run.gone.wait()
    if run.failure is not None:
        return ModelCrashed(run.failure)
    if isinstance(exc, UpstreamUnreachable):
        return exc
    return UpstreamUnreachable(f"`{run.model.id}` closed the connection before the end of its answer")


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


def _understood(route: Route, scope: Scope, body: bytes) -> tuple[str | None, bool]:
    """The model a request names, and whether it wants a stream."""
    match route.source:
        case Source.JSON:
            head = head_of_json(body)
            return head.model, head.wants_stream
        case Source.FORM:
            return model_in_form(header(scope["headers"], b"content-type") or b"", body), False
        case Source.QUERY:
            return next(iter(parse_qs(scope["query_string"].decode("latin-1")).get("model", ())), None), False


def _call(scope: Scope, path: bytes, body: bytes, model: Target, *, wakes: bool = True, streams: bool = False) -> Call:
    query: bytes = scope["query_string"]
    target = path + b"?" + query if query else path
    return Call(scope["method"].encode(), target, scope["headers"], body, model, wakes, streams)
