"""The data plane: which child a request is for, and the wait for it. What follows is an `Exchange`."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_to_bytes

from supervisor.access.keys import KeyRing, require_model
from supervisor.errors import InternalError, InvalidRequest, MethodNotAllowed, ModelNotFound, SupervisorError
from supervisor.fleet.names import Choice, Target
from supervisor.fleet.selectors import pick
from supervisor.proxy import filters
from supervisor.proxy.answer import Answer
from supervisor.proxy.asked import asked_of, kind_of
from supervisor.proxy.backend import Children
from supervisor.proxy.bodies import model_in_form, renamed_in_form
from supervisor.proxy.call import Call
from supervisor.proxy.encodings import readable
from supervisor.proxy.exchange import Exchange
from supervisor.proxy.parking import Parking
from supervisor.proxy.patience import patient_lease
from supervisor.proxy.routes import COMFYUI, COMFYUI_MODEL, ROUTES, UPSTREAM, Route, Source, dialect_of
from supervisor.proxy.told_lease import told_lease
from supervisor.proxy.waiting import Waiting

if TYPE_CHECKING:
    from supervisor.config.clients import ClientKey
    from supervisor.config.values import Config
    from supervisor.fleet.names import Meaning, Names
    from supervisor.proxy.client import Client
    from supervisor.proxy.peers import Peers
    from supervisor.record.activity import Activity
    from supervisor.record.inflight import InFlight
    from supervisor.runtime.live import Lease
    from supervisor.runtime.pool import Pool

logger = logging.getLogger("supervisor.proxy")

LARGE_BODY = 512 * 1024
"""Bytes after which an upload is passed on as it comes, if its model is known by then."""
_SEPARATORS = re.compile(rb"[/\\]")
_CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")


class Redirect(Exception):
    """Raised when the client has to ask at another address."""

    def __init__(self, target: bytes) -> None:
        super().__init__(target)
        self.target = target


class Proxy:
    """Serves every route that leads to a child."""

    def __init__(
        self, pool: Pool, names: Names, *, peers: Peers, in_flight: InFlight, activity: Activity | None = None
    ) -> None:
        self._pool = pool
        self._names = names
        self._peers = peers
        self._in_flight = in_flight
        self._activity = activity
        """Who records requests; None: nobody."""
        self._selected = 0
        """Requests made through selectors so far."""
        self._children = Children()
        self._parking = Parking()
        self.adopt(pool.config)

    def adopt(self, config: Config) -> None:
        """Let this config hold; connections to children stay open."""
        self._ignored = [re.compile(pattern) for pattern in config.server.ignore_paths]
        self._children.adopt(KeyRing.of(config))

    def serve(self, client: Client) -> None:
        """Answer one request that is whole; the caller has chosen it by its path."""
        answer = answer_to(client)
        try:
            self._pass_on(self._understood(client), answer)
        except SupervisorError as exc:
            answer.fail(exc)
        except Redirect as exc:
            _redirect(exc.target, client)

    def serve_early(self, client: Client) -> None:
        """Pass a large upload on while it comes, if it has told which model it is for and nothing has to be changed."""
        length = client.fields.get(b"content-length")
        if client.body_size < max(LARGE_BODY, 2 * client.looked_at) or length is None:
            return
        client.looked_at = client.body_size  # twice as much next time: looking at each piece costs the square
        try:
            if client.path in ROUTES:
                if kind_of(client) is not Source.FORM or ROUTES[client.path].of(client.method) is None:
                    return
                name = _model_in_form(client)
                meaning: Meaning = self._names.resolve(name)
                if isinstance(meaning, Target):
                    require_target(client.key, meaning, name)
                path = _forwarded(ROUTES[client.path], client)
            else:
                meaning, path = self._addressed_model(client)
        except SupervisorError:
            return  # the name may still come; else the whole request is refused with this
        if path and isinstance(meaning, Target) and meaning.rename is None:
            client.pause()
            call = _call(client, path, client.take_body(), meaning, length=int(length))
            self._pass_on(call, answer_to(client))

    def _understood(self, client: Client) -> Call:
        route = ROUTES.get(client.path)
        if route is not None:
            return self._routed(route, client)
        model, rest = self._addressed_model(client)
        if not rest:
            raise Redirect(client.prefix.encode() + client.raw_path + b"/")
        return _call(client, rest, client.take_body(), model, wakes=self._wakes(client, rest))

    def _routed(self, route: Route, client: Client) -> Call:
        chosen = route.of(client.method)
        if chosen is None:
            allowed = ", ".join(sorted(route.all_methods))
            raise MethodNotAllowed(f"`{client.path}` does not take {client.method}", allowed=allowed)
        body = client.take_body()
        asked = asked_of(client, chosen.source, body)
        try:
            meaning = self._names.resolve(asked.model)
        except ModelNotFound:
            if self._activity is not None and client.method == "POST":
                self._activity.begin(client, None, client.path, name=asked.model or "")
            raise
        model = meaning if isinstance(meaning, Target) else self._picked(meaning)
        if client.key is not None:
            require_target(client.key, model, asked.model)
        if asked.source is Source.JSON and (model.filters or model.rename is not None):
            body = filters.apply(model.filters, body, model=model.rename)
        elif asked.source is Source.FORM and model.rename is not None:
            body = renamed_in_form(client.fields.get(b"content-type", b""), body, model.rename)
        streams = chosen.streams and asked.wants_stream
        call = _call(client, _forwarded(chosen, client), body, model, wakes=chosen.wakes, streams=streams)
        call.telling = chosen.telling if streams else None
        return call

    def _picked(self, choice: Choice) -> Target:
        """The model that serves this request of a selector."""
        self._selected += 1
        reserved = self._in_flight.models_of(choice.selector)
        return pick(choice, self._pool.fleet.by_model(), reserved, turn=self._selected)

    def _addressed_model(self, client: Client) -> tuple[Target, bytes]:
        """The model a path names, and the rest of that path as the client encoded it; raises `ModelNotFound`."""
        if client.path.startswith(COMFYUI):
            model, rest = self._names.model(COMFYUI_MODEL), inside(client.raw_path[len(COMFYUI) - 1 :])
        else:
            model, rest = addressed_model(self._names, client.raw_path)
        require_target(client.key, model)
        return model, rest

    def _wakes(self, client: Client, rest: bytes) -> bool:
        """Whether a request may load its model: what a browser asks for by itself may not."""
        if client.path.startswith(COMFYUI):
            return rest == b"/"
        path = rest.decode("latin-1")
        return not any(pattern.search(path) for pattern in self._ignored)

    def _pass_on(self, call: Call, answer: Answer) -> None:
        """Begin the exchange at once where the model is ready, else wait for it in a task."""
        model, selector = call.model.model, call.model.selector
        if (path := _shown_path(call, answer.client)) is not None:
            metadata = {"selector": selector} if selector else None
            self._in_flight.add(answer.client, call.model.whole_name, metadata, path=path)
            if self._activity is not None and call.method == b"POST":
                body = call.body if call.length is None else None
                self._activity.begin(answer.client, call.model, path, body=body)
                call.headers = readable(call.headers, answer.client.fields)
        if call.model.peer is not None:
            Exchange(call, answer, self._peers.backend(call.model.peer)).start()
            return
        lease = self._pool.lease_at_once(model) if call.wakes else self._pool.look(model)
        if lease is not None:
            self._exchange(call, answer, lease)
        else:
            Waiting(answer.client, self._pass_on_later(call, answer))

    async def _pass_on_later(self, call: Call, answer: Answer) -> None:
        parked = self._parking.park(call, answer.client)
        try:
            lease = await self._lease(call, answer)
            if parked is not None:
                parked.fetch(answer.fail)
            self._exchange(call, answer, lease)
        except SupervisorError as exc:
            answer.fail(exc)
        except Exception:
            logger.exception(
                "bug: waiting for %s broke", call.model.model, extra={"request_id": answer.client.request_id}
            )
            answer.fail(InternalError("something broke; the service's log has the details"))
        finally:
            if parked is not None:
                parked.leave()

    async def _lease(self, call: Call, answer: Answer) -> Lease:
        """A hold on the model, with the client told of a long wait in a way that suits it."""
        model = call.model.model
        if not call.streams:
            return await self._pool.lease(model)
        if call.telling is not None and self._pool.config.models[model].send_loading_state:
            return await told_lease(self._pool, model, answer, call.telling)
        return await patient_lease(self._pool, model, answer)

    def _exchange(self, call: Call, answer: Answer, lease: Lease) -> None:
        Exchange(call, answer, self._children.behind(lease)).start()


def answer_to(client: Client) -> Answer:
    """The answer in the words of the request's route."""
    route = ROUTES.get(client.path)
    dialect = route.dialect if route else dialect_of(client.path)
    return Answer(client, dialect, is_open_to_browsers=route is not None)


def require_target(key: ClientKey | None, model: Target, asked: str | None = None) -> None:
    """Raise `ModelForbidden` unless a key may use a model by the name it is asked for, or any other that it has."""
    if model.selector is not None:
        require_model(key, asked, model.selector)
    else:
        require_model(key, asked, model.name, model.whole_name)


def addressed_model(names: Names, raw_path: bytes) -> tuple[Target, bytes]:
    """The model that `/upstream/MODEL/PATH` names, and the path as the client encoded it, empty if there is none.

    Raises `ModelNotFound`, and `InvalidRequest` for a path that leads elsewhere.
    """
    segments = raw_path.removeprefix(UPSTREAM.encode()).split(b"/")
    model, count = names.split([unquote(segment.decode("latin-1")) for segment in segments])
    return model, inside(b"".join(b"/" + segment for segment in segments[count:]))


def inside(path: bytes) -> bytes:
    """A path that stays within the server it is meant for, whatever that makes of it; else raises `InvalidRequest`."""
    plain = path
    while b"%" in plain and (decoded := unquote_to_bytes(plain)) != plain:  # some servers decode twice
        plain = decoded
    if b".." in plain and b".." in _SEPARATORS.split(plain):
        raise InvalidRequest("the path leads out of the model's server", hint="`..` may not be a part of it")
    if _CONTROLS.search(plain):
        raise InvalidRequest("the path has control characters")
    return path


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


def _shown_path(call: Call, client: Client) -> str | None:
    """What a request is told to be for; None for what asks a child, but no model (spec: llama-swap.md, section 1.6)."""
    if client.path in ROUTES:
        return client.path
    path = call.target.partition(b"?")[0].decode("latin-1")
    route = ROUTES.get(path)
    return path if route is not None and route.of(client.method) is not None else None


def _forwarded(route: Route, client: Client) -> bytes:
    return client.raw_path if route.path is None else route.path.encode()


def _redirect(target: bytes, client: Client) -> None:
    """To the same place with a slash at its end, so that relative links of a child's page lead to the child."""
    location = target + b"?" + client.query if client.query else target
    status = 301 if client.method in {"GET", "HEAD"} else 308
    client.begin(status, [(b"location", location), (b"content-length", b"0")])
    client.finish()


def _model_in_form(client: Client) -> str:
    """The field `model` as far as the form has come; raises `InvalidRequest` if it has not yet."""
    name = model_in_form(client.fields.get(b"content-type", b""), client.body, is_whole=False)
    if not name:
        raise InvalidRequest("the form names no model so far")
    return name
