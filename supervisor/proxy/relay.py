"""The data plane: which child a request is for, and the wait for it. What follows is an `Exchange`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

from supervisor.errors import InternalError, InvalidRequest, MethodNotAllowed, SupervisorError
from supervisor.proxy import filters
from supervisor.proxy.answer import Answer
from supervisor.proxy.bodies import head_of_json, model_in_form
from supervisor.proxy.exchange import Call, Exchange
from supervisor.proxy.heads import header
from supervisor.proxy.patience import patient_lease
from supervisor.proxy.routes import ROUTES, UPSTREAM, Route, Source, dialect_of
from supervisor.proxy.upstream import Upstream

if TYPE_CHECKING:
    from supervisor.fleet.names import Names, Target
    from supervisor.fleet.values import RunId
    from supervisor.proxy.client import Client
    from supervisor.runtime.lease import Lease
    from supervisor.runtime.live import LiveRun
    from supervisor.runtime.pool import Pool

logger = logging.getLogger("supervisor.proxy")

LARGE_BODY = 512 * 1024
"""Bytes after which an upload is passed on as it comes, if its model is known by then."""


class Redirect(Exception):
    """Raised when the client has to ask at another address."""

    def __init__(self, target: bytes) -> None:
        super().__init__(target)
        self.target = target


class Proxy:
    """Serves every route that leads to a child."""

    def __init__(self, pool: Pool, names: Names) -> None:
        self._pool = pool
        self._names = names
        self._upstreams: dict[RunId, Upstream] = {}

    def serve(self, client: Client) -> None:
        """Answer one request that is whole; the caller has chosen it by its path."""
        route = ROUTES.get(client.path)
        answer = answer_to(client)
        try:
            self._pass_on(self._routed(route, client) if route else self._addressed(client), answer)
        except SupervisorError as exc:
            answer.fail(exc)
        except Redirect as exc:
            _redirect(exc.target, client)

    def serve_early(self, client: Client) -> None:
        """Pass a large upload on while it comes, if it has told which model it is for."""
        length = header(client.headers, b"content-length")
        if client.body_size < max(LARGE_BODY, 2 * client.looked_at) or length is None:
            return
        client.looked_at = client.body_size  # twice as much next time: looking at each piece costs the square
        route = ROUTES.get(client.path)
        try:
            if route is None:
                model, path = addressed_model(self._names, client.raw_path)
            elif route.source is Source.FORM and client.method in route.methods:
                model, path = self._names.resolve(_model_in_form(client)), client.raw_path
            else:
                return
        except SupervisorError:
            return  # the name may still come; else the whole request is refused with this
        if path:
            client.pause()
            self._pass_on(_call(client, path, client.take_body(), model, length=int(length)), answer_to(client))

    def _routed(self, route: Route, client: Client) -> Call:
        if client.method not in route.methods:
            allowed = ", ".join(sorted(route.methods))
            raise MethodNotAllowed(f"`{client.path}` does not take {client.method}", allowed=allowed)
        body = client.take_body()
        name, wants_stream = _understood(route, client, body)
        model = self._names.resolve(name)
        if model.filters and route.source is Source.JSON:
            body = filters.apply(model.filters, body)
        streams = route.streams and wants_stream
        return _call(client, client.raw_path, body, model, wakes=route.wakes, streams=streams)

    def _addressed(self, client: Client) -> Call:
        """A request to `/upstream/MODEL/PATH`."""
        model, rest = addressed_model(self._names, client.raw_path)
        if not rest:
            raise Redirect(client.raw_path + b"/")
        return _call(client, rest, client.take_body(), model)

    def _pass_on(self, call: Call, answer: Answer) -> None:
        """Begin the exchange at once where the model is ready, else wait for it in a task."""
        model = call.model.model
        lease = self._pool.lease_at_once(model) if call.wakes else self._pool.look(model)
        if lease is not None:
            self._exchange(call, answer, lease)
        else:
            waiting = _Waiting()
            answer.client.listener = waiting
            waiting.task = asyncio.get_running_loop().create_task(self._pass_on_later(call, answer))

    async def _pass_on_later(self, call: Call, answer: Answer) -> None:
        try:
            model = call.model.model
            lease = await (patient_lease(self._pool, model, answer) if call.streams else self._pool.lease(model))
            self._exchange(call, answer, lease)
        except SupervisorError as exc:
            answer.fail(exc)
        except Exception:
            logger.exception("bug: waiting for %s broke", call.model.model)
            answer.fail(InternalError("something broke; the service's log has the details"))

    def _exchange(self, call: Call, answer: Answer, lease: Lease) -> None:
        Exchange(call, answer, lease, self._upstream(lease.run)).start()

    def _upstream(self, run: LiveRun) -> Upstream:
        upstream = self._upstreams.get(run.id)
        if upstream is None:
            assert run.endpoint is not None
            upstream = self._upstreams[run.id] = Upstream(run.endpoint)
            run.on_end(lambda: self._upstreams.pop(run.id).close())
        return upstream


class _Waiting:
    """A request whose model is not ready, or takes no more requests for now."""

    __slots__ = ("task",)

    task: asyncio.Task[None]

    def client_left(self) -> None:
        self.task.cancel()

    def client_lags(self) -> None:
        """Comments are too few to matter."""

    def client_keeps_up(self) -> None:
        """Nor does this."""

    def client_sent(self) -> None:
        """It is kept until somebody takes it."""


def answer_to(client: Client) -> Answer:
    """The answer in the words of the request's route."""
    route = ROUTES.get(client.path)
    dialect = route.dialect if route else dialect_of(client.path)
    return Answer(client, dialect, is_open_to_browsers=route is not None)


def addressed_model(names: Names, raw_path: bytes) -> tuple[Target, bytes]:
    """The model that `/upstream/MODEL/PATH` names, and the path as the client encoded it, empty if there is none.

    Raises `ModelNotFound`.
    """
    segments = raw_path.removeprefix(UPSTREAM.encode()).split(b"/")
    model, count = names.split([unquote(segment.decode("latin-1")) for segment in segments])
    return model, b"".join(b"/" + segment for segment in segments[count:])


def _redirect(target: bytes, client: Client) -> None:
    """To the same place with a slash at its end, so that relative links of a child's page lead to the child."""
    location = target + b"?" + client.query if client.query else target
    status = 301 if client.method in {"GET", "HEAD"} else 308
    client.begin(status, [(b"location", location), (b"content-length", b"0")])
    client.finish()


def _understood(route: Route, client: Client, body: bytes) -> tuple[str | None, bool]:
    """The model a request names, and whether it wants a stream."""
    match route.source:
        case Source.JSON:
            head = head_of_json(body)
            return head.model, head.wants_stream
        case Source.FORM:
            return model_in_form(header(client.headers, b"content-type") or b"", body), False
        case Source.QUERY:
            return next(iter(parse_qs(client.query.decode("latin-1")).get("model", ())), None), False


def _model_in_form(client: Client) -> str:
    """The field `model` as far as the form has come; raises `InvalidRequest` if it has not yet."""
    name = model_in_form(header(client.headers, b"content-type") or b"", client.body, is_whole=False)
    if not name:
        raise InvalidRequest("the form names no model so far")
    return name


def _call(
    client: Client,
    path: bytes,
    body: bytes,
    model: Target,
    *,
    wakes: bool = True,
    streams: bool = False,
    length: int | None = None,
) -> Call:
    target = path + b"?" + client.query if client.query else path
    return Call(client.method.encode(), target, client.headers, body, model, wakes, streams, length)
