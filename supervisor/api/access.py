"""Who may ask, and who may manage: by name, by key where there are keys, else by where a request comes from.

What a path asks for is said in `doors`; what keys, names, sites and hops are, in the room `access`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from supervisor.access.hops import Hops
from supervisor.access.hosts import Hosts
from supervisor.access.keys import KeyRing, is_basic, key_of
from supervisor.access.limits import Limit, Limits
from supervisor.access.sites import is_foreign, may_be_foreign
from supervisor.api.doors import names_model
from supervisor.config.values import Management
from supervisor.errors import Forbidden, HostRefused, ModelForbidden, ScopeMissing, SiteRefused, Unauthorized
from supervisor.record.audit import LOOKS, Audit

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.access.hops import Whence
    from supervisor.api.doors import Door, Doors
    from supervisor.config.clients import ClientKey
    from supervisor.config.values import Config
    from supervisor.record.inflight import Watcher

Headers = Iterable[tuple[bytes, bytes]]


class Client(Protocol):
    """A request, as far as it matters who sends it."""

    key: ClientKey | None
    watcher: Watcher | None
    deed: str

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> bytes: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def fields(self) -> Mapping[bytes, bytes]: ...
    @property
    def address(self) -> tuple[str, int] | None: ...
    @property
    def status(self) -> int: ...
    @property
    def request_id(self) -> str: ...


class Access:
    """The rules of the config in force."""

    def __init__(self, config: Config, doors: Doors, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._doors = doors
        self._limits = Limits()
        self._clock = clock
        self.adopt(config)

    def adopt(self, config: Config) -> None:
        """Let this config hold from now on; keys that stay go on with what is left to them."""
        server = config.server
        self._keys = KeyRing.of(config)
        self._needs_keys = bool(self._keys)
        self._hosts = Hosts(server.allowed_hosts, own=(server.host, *own_names()))
        self._are_hosts_checked_for_models = server.are_hosts_checked_for_models
        self._hops = Hops(server.trusted_proxies)
        self._management = server.management
        self._limits.keep(self._keys.keys)

    def admit(self, client: Client) -> None:
        """Let a request in, noting whose it is, or raise why not. What manages is audited from here on."""
        door = self._doors.of(client.path)
        if door.of_one is not None and names_model(client.method, client.query):
            door = door.of_one
        if door.manages and not door.infers and (door.acts or client.method not in LOOKS):
            client.watcher = Audit(client, lambda: self.whence(client.headers, client.address))
        host = client.fields.get(b"host")
        if host is not None and host not in self._hosts.known:
            self._check_host(host, door)
        if self._needs_keys and not door.is_open:
            self._identify(client, door)
        if door.manages:
            self._check_management(client, door)
        key = client.key
        if key is not None and door.infers and (limit := self._limits.of(key)) is not None:
            limit.take(self._clock())
            client.watcher = _Counted(limit, client.watcher)

    def whence(self, headers: Headers, address: tuple[str, int] | None) -> Whence:
        """Where a request comes from, as far as proxies that are trusted tell."""
        return self._hops.whence(headers, address)

    def _check_host(self, host: bytes, door: Door) -> None:
        """Raise `HostRefused` where a page could have made its own name lead here."""
        if self._hosts.allow(host) or not (door.manages or self._are_hosts_checked_for_models):
            return
        shown = ascii(host.decode("latin-1")[:100])[1:-1]
        raise HostRefused(
            f"this service is not known as `{shown}`",
            hint="ask for it by its address, or list the name in `server.allowed_hosts` of models.toml",
        )

    def _identify(self, client: Client, door: Door) -> None:
        """Find out whose key a request brings; raises `Unauthorized`, `ScopeMissing`, `SiteRefused`."""
        headers = dict(client.headers)
        key = self._keys.owner_of(key_of(headers))
        if key is None:
            raise Unauthorized(
                "unauthorized: invalid or missing API key",
                hint="send it as `Authorization: Bearer KEY` or `x-api-key: KEY`",
            )
        if is_basic(headers) and is_foreign(headers):
            raise SiteRefused("the browser has added the key by itself, for a page of another site")
        client.key = key
        for scope in door.scopes:
            if scope not in key.scopes and not key.allows(scope):
                raise ScopeMissing(
                    f"the key `{key.name}` has not the scope `{scope.value}`",
                    hint=f"list it in `scopes` of `[keys.{key.name}]`, or send another key",
                )
        if key.models is not None and not door.names_model and door.manages:
            raise ModelForbidden(f"the key `{key.name}` is for some models only, and this concerns them all")

    def _check_management(self, client: Client, door: Door) -> None:
        """Keep other sites' pages out, and who is too far away; raises `SiteRefused`, `Forbidden`."""
        headers = dict(client.headers)
        is_sent_on_purpose = client.key is not None and not is_basic(headers)
        if is_foreign(headers) or (door.acts and not is_sent_on_purpose and may_be_foreign(headers)):
            raise SiteRefused(
                "a page of another site may not manage this service",
                hint="where it was you: use `llama-supervise`, curl, or POST with a key",
            )
        if not self._needs_keys:
            require_nearness(client.headers, client.address, self._management, hops=self._hops)


class _Counted:
    """A request that counts against its key's limit until its end."""

    __slots__ = ("_limit", "_others")

    def __init__(self, limit: Limit, others: Watcher | None) -> None:
        self._limit = limit
        self._others = others

    def client_began(self) -> None:
        if self._others is not None:
            self._others.client_began()

    def client_ended(self) -> None:
        self._limit.give_back()
        if self._others is not None:
            self._others.client_ended()


TRUSTING_NOBODY = Hops()


def require_nearness(
    headers: Headers, address: tuple[str, int] | None, rule: Management, *, hops: Hops = TRUSTING_NOBODY
) -> None:
    """Let a request from near enough pass, or raise `Forbidden`."""
    if rule is Management.OPEN:
        return
    whence = hops.whence(headers, address)
    if whence.is_here or (rule is Management.PRIVATE and whence.is_private):
        return
    if whence.is_hidden:
        raise Forbidden(
            "management is not open to requests that came through a proxy",
            hint="call it on this machine, use API keys, or list the proxy in `server.trusted_proxies` of models.toml",
        )
    raise Forbidden(
        f"management is for {'this machine' if rule is Management.LOCAL else 'private networks'} only",
        hint='call it from there, use API keys, or set `server.management = "private"` or `"open"` in models.toml',
    )


RESOLVER = Path("/etc/resolv.conf")


def own_names(name: str | None = None, resolver: Path = RESOLVER) -> list[str]:
    """This machine's name, alone and with the domains of its network (resolv.conf(5)); nobody is asked."""
    name = name or socket.gethostname()
    try:
        lines = [line.split() for line in resolver.read_text(errors="replace").splitlines()]
    except OSError:
        lines = []
    domains = [domain for words in lines if words[:1] in (["search"], ["domain"]) for domain in words[1:]]
    return [name, *(f"{name.partition('.')[0]}.{domain.strip('.')}" for domain in domains if domain.strip("."))]
