"""The table of requests that are being served."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import anyio
import pytest

from supervisor.proxy.client import CANCELLED, Client
from supervisor.record.bus import Bus
from supervisor.record.inflight import LOOK_SECONDS, InFlight, canonical, remote_ip, shown_headers
from tests.proxy.conftest import Wire

if TYPE_CHECKING:
    from supervisor.record.bus import Subscription

pytestmark = pytest.mark.anyio

HEADERS = [(b"host", b"x"), (b"content-type", b"application/json"), (b"x-session-id", b"s\xe9"), (b"x-api-key", b"k")]


class Scene:
    """A table, and requests in it."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.table = InFlight(self.bus)
        self.wires: list[Wire] = []

    def request(
        self,
        model: str = "qwen",
        *,
        headers: list[tuple[bytes, bytes]] | None = None,
        metadata: dict[str, str] | None = None,
        path: str | None = None,
    ) -> Client:
        wire = Wire()
        self.wires.append(wire)
        transport: Any = wire
        client = Client(
            transport,
            "POST",
            ("/v1/chat/completions", b"/v1/chat/completions", b""),
            HEADERS if headers is None else headers,
            version="1.1",
            address=("192.0.2.7", 5),
            ended=lambda: None,
        )
        client.complete()
        self.table.add(client, model, metadata, path=path)
        return client

    def entries(self) -> list[dict[str, Any]]:
        requests: Any = self.table.snapshot().get("requests", [])
        return list(requests)

    def entry(self) -> dict[str, Any]:
        (entry,) = self.entries()
        return entry


def told(subscription: Subscription) -> list[Any]:
    events = subscription.take()
    assert events is not None
    assert {event.kind for event in events} <= {"inflight"}
    return [event.told() for event in events]


def test_an_entry() -> None:
    """An entry says everything about a request that a page may show."""
    scene = Scene()
    client = scene.request(metadata={"selector": "pool"})
    client.begin(200, [(b"content-type", b"text/plain"), (b"set-cookie", b"secret"), (b"vary", b"a"), (b"vary", b"b")])
    client.write(b"hello")
    entry = scene.entry()

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", entry.pop("timestamp"))
    assert 0 <= entry.pop("elapsed_ms") < 1000
    assert entry == {
        "id": "1",
        "model": "qwen",
        "req_path": "/v1/chat/completions",
        "method": "POST",
        "req_headers": {"Content-Type": "application/json", "X-Session-Id": "sé", "X-Api-Key": "[REDACTED]"},
        "remote_ip": "192.0.2.7",
        "resp_headers": {"Content-Type": "text/plain", "Set-Cookie": "[REDACTED]", "Vary": "a, b"},
        "resp_bytes": 5,
        "metadata": {"selector": "pool"},
    }


def test_path() -> None:
    """What is asked of the model may be told instead of the path that the client asked for."""
    scene = Scene()
    scene.request(path="/v1/embeddings")

    assert scene.entry()["req_path"] == "/v1/embeddings"


def test_no_metadata() -> None:
    """What there is not is left out; an empty table is no list."""
    scene = Scene()
    assert scene.table.snapshot() == {"operation": "snapshot"}

    scene.request()

    assert "metadata" not in scene.entry()


@pytest.mark.parametrize("name", ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"])
def test_secrets(name: str) -> None:
    """No credentials get into the table."""
    assert shown_headers([(name.encode(), b"secret"), (name.encode(), b"more")]) == {
        canonical(name.encode()): "[REDACTED]"
    }


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ([], "192.0.2.7"),
        ([(b"x-forwarded-for", b" 203.0.113.9 , 10.0.0.1"), (b"x-real-ip", b"10.0.0.2")], "203.0.113.9"),
        ([(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-for", b"203.0.113.10")], "203.0.113.9"),
        ([(b"x-real-ip", b"203.0.113.8")], "203.0.113.8"),
        ([(b"x-forwarded-for", b"")], "192.0.2.7"),
    ],
)
def test_where_it_came_from(headers: list[tuple[bytes, bytes]], address: str) -> None:
    """The address is the one that the first proxy tells, else the connection's."""
    scene = Scene()
    scene.request(headers=headers)

    assert scene.entry()["remote_ip"] == address


@pytest.mark.parametrize("end", ["finish", "cut", "left", "left after a piece", "cancelled"])
def test_every_end(end: str) -> None:
    """An entry goes when its request has ended, in whatever way."""
    scene = Scene()
    client = scene.request()
    assert len(scene.table) == 1
    with scene.bus.subscribe() as subscription:
        match end:
            case "finish":
                client.begin(200, [])
                client.finish(b"all")
            case "cut":
                client.begin(200, [])
                client.cut()
            case "left":
                client.left()
            case "left after a piece":
                client.begin(200, [])
                client.write(b"piece")
                client.left()
                client.finish()
            case _:
                assert scene.table.cancel("1")

        assert told(subscription)[-1] == {"operation": "remove", "id": "1"}
    assert len(scene.table) == 0
    assert client.watcher is None


def test_ids_are_not_used_again() -> None:
    """Ids are numbers that only grow, as text."""
    scene = Scene()
    for _ in range(3):
        scene.request().left()
    scene.request()

    assert scene.entry()["id"] == "4"


def test_nobody_is_added_who_is_gone() -> None:
    """A request that has ended before it was understood does not stay in the table."""
    scene = Scene()
    client = scene.request()
    client.left()
    scene.table.add(client, "qwen")

    assert len(scene.table) == 0


def test_selectors() -> None:
    """Requests made through a selector are counted by the models they went to."""
    scene = Scene()
    first = scene.request("a", metadata={"selector": "pool"})
    for model in ("a", "b"):
        scene.request(model, metadata={"selector": "pool"})
    scene.request("a", metadata={"selector": "other"})
    scene.request("a")
    first.left()

    assert scene.table.models_of("pool") == {"a": 1, "b": 1}
    assert scene.table.models_of("none") == {}


class Ear:
    """Who serves, and notes that it heard of the client's leaving."""

    heard = 0

    def client_left(self) -> None:
        self.heard += 1

    def client_lags(self) -> None: ...

    def client_keeps_up(self) -> None: ...

    def client_sent(self) -> None: ...


def test_cancel_before_the_answer() -> None:
    """Who serves lets go as if the client had left; the client gets an answer that it will not try again after."""
    scene = Scene()
    client = scene.request()
    ear = client.listener = Ear()
    assert scene.table.cancel("1")
    client.left()

    assert ear.heard == 1
    head, _, body = scene.wires[0].written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 499 ")
    assert body == CANCELLED
    assert client.is_answered


def test_cancel_in_the_answer() -> None:
    """An answer under way is cut."""
    scene = Scene()
    client = scene.request()
    ear = client.listener = Ear()
    client.begin(200, [])
    client.write(b"hello")
    assert scene.table.cancel("1")

    assert ear.heard == 1
    assert scene.wires[0].written.endswith(b"5\r\nhello\r\n")
    assert client.is_answered
    assert not client.keep_alive


@pytest.mark.parametrize("name", ["2", "x", "-1", "", "1 ", "01", "9" * 5000])
def test_cancel_unknown(name: str) -> None:
    """What is in no entry ends nothing."""
    scene = Scene()
    scene.request()

    assert not scene.table.cancel(name)
    assert len(scene.table) == 1


@pytest.mark.parametrize(("host", "shown"), [("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8::1", "2001:db8::1")])
def test_address(host: str, shown: str) -> None:
    """An IPv4 address looks like one, whatever socket it came through."""
    assert remote_ip([], (host, 5)) == shown


async def test_news() -> None:
    """Who watches is told of a request's beginning, of its answer's head and of its end."""
    scene = Scene()
    with scene.bus.subscribe() as subscription:
        client = scene.request()
        (added,) = told(subscription)
        client.begin(200, [(b"x-a", b"b")])
        (begun,) = told(subscription)
        client.finish()
        (removed,) = told(subscription)

    assert (added["operation"], added["request"]["resp_headers"]) == ("upsert", {})
    assert (begun["operation"], begun["request"]["resp_headers"]) == ("upsert", {"X-A": "b"})
    assert removed == {"operation": "remove", "id": "1"}


async def test_everybody_is_told() -> None:
    """A change is told to all who watch: to who has just come, who has looked already, and who has not yet."""
    scene = Scene()
    with scene.bus.subscribe() as early, scene.bus.subscribe() as slow:
        client = scene.request()
        with scene.bus.subscribe() as late:
            assert scene.entry()["resp_headers"] == {}
            client.begin(200, [(b"x-a", b"b")])
            (begun,) = told(late)
            assert begun["request"]["resp_headers"] == {"X-A": "b"}
            assert told(early) == [{**begun, "request": {**begun["request"], "elapsed_ms": ANY}}]
            client.write(b"hello")
            scene.table._look()

            assert [[each["request"]["resp_bytes"] for each in told(who)] for who in (early, slow, late)] == [[5]] * 3


async def test_bytes_are_told_now_and_then() -> None:
    """While bytes come, who watches is told how many, but not more often than it can be seen; silence tells nothing."""
    scene = Scene()
    began = asyncio.get_running_loop().time()
    with scene.bus.subscribe() as subscription:
        client = scene.request()
        client.begin(200, [])
        told(subscription)
        for _ in range(100):
            client.write(b"0123456789")
        assert told(subscription) == []
        assert await subscription.wait(30)
        (news,) = told(subscription)
        assert news["request"]["resp_bytes"] == 1000
        assert asyncio.get_running_loop().time() - began >= LOOK_SECONDS - 0.01
        assert not await subscription.wait(2.5 * LOOK_SECONDS)


async def test_who_comes_later_is_told_too() -> None:
    """Who starts to watch when a request is under way sees it grow."""
    scene = Scene()
    client = scene.request()
    with scene.bus.subscribe() as subscription:
        assert scene.entry()["resp_bytes"] == 0
        client.begin(200, [])
        client.write(b"hello")
        assert await subscription.wait(30)
        with anyio.fail_after(30):
            while not any(news["request"]["resp_bytes"] == 5 for news in told(subscription)):
                await subscription.wait(30)


async def test_nobody_watches() -> None:
    """Without anybody who watches, nothing runs."""
    scene = Scene()
    scene.request().begin(200, [])
    scene.table.snapshot()

    assert scene.table._timer is None
    assert repr(scene.table) == "<InFlight [1 of 1]>"
