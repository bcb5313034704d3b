"""Requests with URLs that a model's server would fetch, where those into private networks are not to be.

What a name leads to when we ask need not be what it leads to when the server asks, and a server may be redirected: this
keeps honest mistakes and simple tricks out (docs/security.md says what it does not).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from supervisor.access.hops import address_of
from supervisor.access.urls import fetched, is_public, may_hold_urls
from supervisor.errors import InternalError, PrivateUrl, SupervisorError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeAlias

    from supervisor.proxy.client import Client

    LookUp: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]

logger = logging.getLogger("supervisor.proxy")

MOST_NAMES = 16
"""Names that are looked up for one request."""
LOOKUP_SECONDS = 5.0


class MediaGuard:
    """Looks at requests before they are served."""

    def concerns(self, client: Client) -> bool:
        """Whether there is something to look at."""
        return bool(client.body_size) and may_hold_urls(client.body)

    def look(
        self,
        client: Client,
        *,
        then: Callable[[Client], None],
        refuse: Callable[[Client, SupervisorError], None],
    ) -> None:
        """Go on with `then`, or `refuse` a request with a URL into a private network."""
        looking = _Looking()
        client.listener = looking
        looking.task = asyncio.get_running_loop().create_task(self._look(client, then, refuse))

    async def _look(
        self, client: Client, then: Callable[[Client], None], refuse: Callable[[Client, SupervisorError], None]
    ) -> None:
        try:
            await check(client.body)
        except SupervisorError as exc:
            refuse(client, exc)
        except Exception:
            logger.exception("bug: looking for URLs broke")
            refuse(client, InternalError("something broke; the service's log has the details"))
        else:
            client.listener = None
            then(client)


async def check(body: bytes, look_up: LookUp | None = None) -> None:
    """Raise `PrivateUrl` if a server would fetch from a private network for this request."""
    names: dict[str, str] = {}
    for each in fetched(body):
        if each.host is None:
            raise _private(each.field)
        names.setdefault(each.host, each.field)
    if len(names) > MOST_NAMES:
        raise PrivateUrl(f"the request has URLs with {len(names)} names; at most {MOST_NAMES} are looked up")
    for host, field in names.items():
        if not await _leads_outside(host, look_up or _addresses):
            raise _private(field)


async def _leads_outside(host: str, look_up: LookUp) -> bool:
    """Whether a name leads to public addresses only; one that leads nowhere now may lead elsewhere soon."""
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            found = await look_up(host)
    except (OSError, UnicodeError):  # a timeout among them
        return False
    addresses = [address_of(each.partition("%")[0]) for each in found]
    return bool(addresses) and all(address is not None and is_public(address) for address in addresses)


async def _addresses(host: str) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _private(field: str) -> PrivateUrl:
    return PrivateUrl(
        f"`{field[:200]}` is a URL that does not certainly lead to a public address",
        hint="send the content itself as a `data:` URL; `server.block_private_urls` asks for that",
    )


class _Looking:
    """A request whose URLs are looked at."""

    __slots__ = ("task",)

    task: asyncio.Task[None]

    def client_left(self) -> None:
        self.task.cancel()

    def client_lags(self) -> None:
        """Nothing was written yet."""

    def client_keeps_up(self) -> None:
        """Nor does this matter."""

    def client_sent(self) -> None:
        """It is whole."""
