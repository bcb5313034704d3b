"""The requests that are being served, for whoever wants to look on, and to cancel one.

Serving must not pay for it: an entry is references only, read when somebody looks.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from supervisor.record.go_time import local_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.record.bus import Bus

Headers = Sequence[tuple[bytes, bytes]]

KIND = "inflight"
LOOK_SECONDS = 0.25
"""Between two looks at how much has been answered, while somebody watches."""

REDACTED = "[REDACTED]"
_SENSITIVE = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key"))


class Watcher(Protocol):
    """Who is told how a request fares."""

    def client_began(self) -> None: ...

    def client_ended(self) -> None: ...


class Client(Protocol):
    """What is read of a request when somebody looks."""

    watcher: Watcher | None

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def address(self) -> tuple[str, int] | None: ...
    @property
    def answer_headers(self) -> Headers: ...
    @property
    def has_begun(self) -> bool: ...
    @property
    def written(self) -> int: ...
    @property
    def is_gone(self) -> bool: ...
    @property
    def is_answered(self) -> bool: ...

    def cancel(self) -> None: ...


class Entry:
    """One request, until its end."""

    __slots__ = (
        "_answer_headers",
        "_asked",
        "_at",
        "_others",
        "_path",
        "_since",
        "_table",
        "client",
        "is_due",
        "metadata",
        "model",
        "number",
        "told",
    )

    def __init__(  # noqa: PLR0917 - called for every request, and by name is slower
        self,
        table: InFlight,
        number: int,
        client: Client,
        model: str,
        metadata: Mapping[str, str] | None,
        path: str | None,
    ) -> None:
        self._table = table
        self._others = client.watcher
        """Who has looked on before."""
        self._path = path
        self.number = number
        self.client = client
        self.model = model
        self.metadata = metadata
        self.told = 0
        """How much of the answer was known to have been written when it was last shown."""
        self._at = time.time()
        self._since = time.monotonic()
        self.is_due = False
        """Whether everybody who watches will be told how it is now."""
        self._asked: dict[str, object] | None = None
        """What does not change of it, once somebody has looked."""
        self._answer_headers: tuple[Headers, dict[str, str]] = ((), {})
        """Those of the answer, and how they are shown."""

    def client_began(self) -> None:
        self._table.changed(self)
        if self._others is not None:
            self._others.client_began()

    def client_ended(self) -> None:
        self._table.ended(self)
        if self._others is not None:
            self._others.client_ended()

    def upsert(self) -> dict[str, object]:
        """What is told of it when it has changed."""
        return {"operation": "upsert", "request": self.as_json()}

    def as_json(self) -> dict[str, object]:
        """As llama-swap's page expects it."""
        client = self.client
        self.told = client.written
        self.is_due = False
        if self._asked is None:
            self._asked = self._as_asked()
        if client.answer_headers is not self._answer_headers[0]:
            self._answer_headers = client.answer_headers, shown_headers(client.answer_headers)
        return {
            **self._asked,
            "resp_headers": self._answer_headers[1],
            "resp_bytes": client.written,
            "elapsed_ms": int((time.monotonic() - self._since) * 1000),
            **({"request_id": client.request_id} if client.request_id else {}),
            **({"metadata": self.metadata} if self.metadata else {}),
        }

    def _as_asked(self) -> dict[str, object]:
        client = self.client
        return {
            "id": str(self.number),
            "timestamp": local_time(self._at, is_exact=True),
            "model": self.model,
            "req_path": client.path if self._path is None else self._path,
            "method": client.method,
            "req_headers": shown_headers(client.headers),
            "remote_ip": remote_ip(client.headers, client.address),
        }


class InFlight:
    """The table of them all. Its changes go to the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._entries: dict[int, Entry] = {}
        self._through: dict[str, Counter[str]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(
        self, client: Client, model: str, metadata: Mapping[str, str] | None = None, *, path: str | None = None
    ) -> None:
        """From now on this request is served, until its client knows of its end.

        `path` is what it asks the model for, where that is not the path it came with.
        """
        if client.is_gone or client.is_answered:
            return
        self._count = number = self._count + 1
        client.watcher = entry = self._entries[number] = Entry(self, number, client, model, metadata, path)
        if metadata is not None and "selector" in metadata:
            self._through.setdefault(metadata["selector"], Counter())[model] += 1
        if self._bus.is_heard:
            self.changed(entry)
            self._look_later()

    def models_of(self, selector: str) -> Mapping[str, int]:
        """How many requests that were made through a selector each model serves."""
        return self._through.get(selector, {})

    def by_model(self) -> Mapping[str, int]:
        """How many requests each model serves, waiting ones included."""
        return Counter(entry.model for entry in self._entries.values())

    def cancel(self, name: str) -> bool:
        """End the request with this id, at its child and for its client; whether there is one."""
        entry = next((entry for entry in self._entries.values() if str(entry.number) == name), None)
        if entry is not None:
            entry.client.cancel()
        return entry is not None

    def snapshot(self) -> dict[str, object]:
        """Everything there is, for who starts to watch."""
        requests = [entry.as_json() for entry in self._entries.values()]
        if requests and self._bus.is_heard:
            self._look_later()
        return {"operation": "snapshot", **({"requests": requests} if requests else {})}

    # What entries tell.

    def changed(self, entry: Entry) -> None:
        if self._bus.is_heard and not entry.is_due:
            entry.is_due = True
            entry.told = entry.client.written
            self._bus.publish(KIND, entry.upsert, key=entry.number, can_wait=True)

    def ended(self, entry: Entry) -> None:
        del self._entries[entry.number]
        if entry.metadata is not None and "selector" in entry.metadata:
            self._through[entry.metadata["selector"]][entry.model] -= 1
        if self._bus.is_heard:
            self._bus.publish(KIND, {"operation": "remove", "id": str(entry.number)}, can_wait=True)

    # How much has been answered.

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._bus.is_heard or not self._entries:
            return
        for entry in self._entries.values():
            if entry.client.written != entry.told:
                self.changed(entry)
        self._look_later()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<InFlight [{len(self._entries)} of {self._count}]>"


def shown_headers(headers: Headers) -> dict[str, str]:
    """Headers by their names as Go spells them, without what only the two ends may know."""
    shown: dict[str, str] = {}
    for name, value in headers:
        if name == b"host":  # no header to Go's server
            continue
        spelled = canonical(name)
        text = REDACTED if name in _SENSITIVE else value.decode("latin-1")
        shown[spelled] = f"{shown[spelled]}, {text}" if spelled in shown and text != REDACTED else text
    return shown


@lru_cache(256)
def canonical(name: bytes) -> str:
    """`Content-Type`, `X-Session-Id`, …"""
    return "-".join(word.capitalize() for word in name.decode("latin-1").split("-"))


def remote_ip(headers: Headers, address: tuple[str, int] | None) -> str:
    """Who asked, as proxies in front of us tell it; for people to read, not to be believed."""
    told = dict(reversed(headers))  # the first of several counts
    forwarded = told.get(b"x-forwarded-for", b"").split(b",")[0].strip() or told.get(b"x-real-ip", b"").strip()
    if forwarded:
        return forwarded.decode("latin-1")
    return address[0].removeprefix("::ffff:") if address else ""  # an IPv4 address on a socket for both kinds
