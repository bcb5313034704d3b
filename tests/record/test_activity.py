"""The record of requests: what the loop pays for it, and what becomes of it when a disk is slow."""

from __future__ import annotations

import gc
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from supervisor.config.clients import ClientKey
from supervisor.config.values import Filters, Server
from supervisor.errors import RecordBusy, UpstreamUnreachable
from supervisor.fleet.names import Target
from supervisor.proxy.client import Client
from supervisor.record import activity as module
from supervisor.record.activity import Activity
from supervisor.record.bus import Bus
from supervisor.record.ended import FIRST_BYTES, LAST_BYTES, Ended
from supervisor.record.metrics import LOST, REQUESTS, Metrics
from supervisor.record.queries import Query
from supervisor.record.recording import WHOLE_BYTES, Recording
from supervisor.record.rows import row_of
from supervisor.record.store import Store
from tests.proxy.conftest import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.proxy.heads import Headers
    from supervisor.record.rows import Row

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
TARGET = Target("m", "m", Filters())
JSON: Headers = [(b"content-type", b"application/json")]
EVENTS: Headers = [(b"content-type", b"text/event-stream")]
DONE = b"data: [DONE]\n\n"
USAGE = {"usage": {"prompt_tokens": 25, "completion_tokens": 4}}


class SlowStore(Store):
    """A store whose disk waits for a gate."""

    def __init__(self) -> None:
        super().__init__(None, 100_000)
        self.gate = threading.Event()

    def add(self, rows: Sequence[Row]) -> list[int]:
        self.gate.wait()
        return super().add(rows)


def client_of(headers: Headers | None = None) -> Client:
    transport: Any = Wire()
    client = Client(
        transport,
        "POST",
        (CHAT, CHAT.encode(), b""),
        headers or [(b"x-session-id", b"s1")],
        version="1.1",
        address=("192.0.2.7", 5),
        ended=lambda: None,
    )
    client.complete()
    return client


def recorded(headers: Headers, pieces: Sequence[bytes], *, most_captured: int = 0, is_stream: bool = False) -> Ended:
    """A request that was answered like this."""
    done: list[Ended] = []
    client = client_of()
    recording = Recording(client, "", TARGET, CHAT, b"asked", most_captured, (), done.append)
    recording.sent()
    recording.head_came(dict(headers), is_stream=is_stream)
    client.begin(200, headers)
    tap: Callable[[bytes], object] | None = None
    for number, piece in enumerate(pieces):
        if number == 0:
            tap = recording.first_came(piece)
        elif tap is not None:
            tap(piece)
        client.write(piece)
    client.finish()
    (ended,) = done
    return ended


def activity_of(store: Store, metrics: Metrics | None = None, bus: Bus | None = None) -> Activity:
    return Activity(
        Server(), Path("/"), bus=bus or Bus(), metrics=metrics or Metrics(), redact=lambda text: text, store=store
    )


def serve(activity: Activity, count: int = 1) -> None:
    for _ in range(count):
        client = client_of()
        activity.begin(client, TARGET, CHAT)
        client.begin(200, [(b"content-length", b"0")])
        client.finish()


async def test_whose_request_it_was() -> None:
    """A row carries the name of the key and of the request, and the key itself nowhere."""
    activity = activity_of(Store(None, 10))
    with activity:
        client = client_of()
        client.key, client.request_id = ClientKey("phone", b"digest", secret="sk-phone-1234"), "r-1"
        activity.begin(client, TARGET, CHAT)
        client.begin(200, [(b"content-length", b"0")])
        client.finish()
        await activity.settle()
        rows, _ = await activity.page(Query())

    assert [(each.row.key_name, each.row.request_id) for each in rows] == [("phone", "r-1")]
    assert "sk-phone-1234" not in repr(rows)


async def test_a_slow_disk() -> None:
    """A disk that hangs holds up no request; once it goes on, every row is there."""
    store = SlowStore()
    with activity_of(store) as activity:
        with anyio.fail_after(30):
            serve(activity, 3000)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
        store.gate.set()
        _, total = await activity.page(Query())

    assert total == 3000


async def test_a_disk_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is told that the record is busy, and metrics do not wait for it; what is too much is counted."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    store, metrics = SlowStore(), Metrics()
    with activity_of(store, metrics) as activity:
        serve(activity, 1)
        with pytest.raises(RecordBusy):
            await activity._ask(lambda: None, within=0.05)
        await activity.settle()
        serve(activity, 15)
        store.gate.set()
        with anyio.fail_after(30):
            await activity._ask(lambda: None, within=10)

        assert metrics.numbers()[LOST] == {(): 5}
        assert metrics.numbers()[REQUESTS] == {("m", "200"): 11}


async def test_the_last_rows() -> None:
    """What ended just before the service did is recorded."""
    metrics = Metrics()
    with activity_of(Store(None, 100), metrics) as activity:
        serve(activity, 5)

    assert metrics.numbers()[REQUESTS] == {("m", "200"): 5}


async def test_counters_outlive_what_counts() -> None:
    """A record that is replaced goes on counting in the same metrics."""
    metrics = Metrics()
    for _ in range(2):
        with activity_of(Store(None, 100), metrics) as activity:
            serve(activity, 5)

    assert metrics.numbers()[REQUESTS] == {("m", "200"): 10}


async def test_watchers_before() -> None:
    """Who looked on before is told as before, of the beginning and the end."""
    told = []

    class Before:
        def client_began(self) -> None:
            told.append("began")

        def client_ended(self) -> None:
            told.append("ended")

    client = client_of()
    client.watcher = Before()
    Recording(client, "", TARGET, CHAT, None, 0, (), lambda _: told.append("recorded"))
    client.begin(200, [])
    client.finish()

    assert told == ["began", "recorded", "ended"]


@pytest.mark.parametrize("at_once", [1, 100, 10_000])
async def test_of_streams_little_is_kept(at_once: int) -> None:
    """However long a stream, and in whatever pieces, its two ends are kept, and tell its tokens."""
    prompt = b'data: {"message": {"usage": {"input_tokens": 25, "output_tokens": 0}}}\n\n'
    events = [prompt, *[b'data: {"delta": "word"}\n\n'] * 5000, b'data: {"usage": {"output_tokens": 4}}\n\n', DONE]
    pieces = [b"".join(events[i : i + at_once]) for i in range(0, len(events), at_once)]
    ended = recorded(EVENTS, pieces, is_stream=True)
    row = row_of(ended)

    assert sum(map(len, ended.pieces)) < 2 * FIRST_BYTES
    assert (row.input_tokens, row.output_tokens) == (25, 4)


async def test_of_a_short_stream_all_is_kept() -> None:
    """What is not more than is kept anyway is kept once."""
    pieces = [b"data: {}\n\n", b"data: " + json.dumps(USAGE).encode() + b"\n\n", DONE]
    ended = recorded(EVENTS, pieces, is_stream=True)

    assert ended.pieces == [b"".join(pieces)]
    assert row_of(ended).output_tokens == 4


async def test_a_long_last_event() -> None:
    """The last event may hold the whole answer; the tokens stand at its end."""
    whole = {"response": {"output": "word " * 50_000, **USAGE}}
    ended = recorded(EVENTS, [b"data: {}\n\n" * 1000, b"data: " + json.dumps(whole).encode() + b"\n\n"], is_stream=True)

    assert sum(map(len, ended.pieces)) <= FIRST_BYTES + LAST_BYTES
    assert row_of(ended).output_tokens == 4


def test_no_garbage() -> None:
    """A request that has ended is gone at once: garbage that has to be looked for costs every request behind it."""
    recorded(JSON, [b"{}"])
    gc.collect()
    gc.disable()
    try:
        recorded(JSON, [b"{}"])
        recorded(EVENTS, [b"data: {}\n\n"] * 20, is_stream=True)
        found = gc.collect()
    finally:
        gc.enable()

    assert found == 0


async def test_of_long_answers_little_is_kept() -> None:
    """Of a long answer the beginning and the end are kept, of pictures and sounds nothing."""
    start, end = json.dumps(USAGE).encode()[:-1] + b', "data": [', b"0.5]}"
    long = recorded(JSON, [start, *[b"0.5, " * 20_000] * 100, end])
    sound = recorded([(b"content-type", b"audio/mpeg")], [b"x" * 1000] * 10)

    assert sum(map(len, long.pieces)) < WHOLE_BYTES
    assert row_of(long).input_tokens == 25
    assert sound.pieces == []


async def test_without_captures_no_question_is_kept() -> None:
    """Where nothing is captured, the request's body is not held for the record."""
    captured = recorded(JSON, [b"{}"], most_captured=100)

    assert recorded(JSON, [b"{}"]).asked is None
    assert captured.asked is not None
    assert captured.asked.body == b"asked"


async def test_an_error_in_a_stream() -> None:
    """A stream that ends with our error has its status and the error's words."""
    done: list[Ended] = []
    client = client_of()
    recording = Recording(client, "", TARGET, CHAT, None, 0, (b"x-mine", b"x-session-id"), done.append)
    client.begin(200, EVENTS)
    recording.failed(UpstreamUnreachable("it went away"))
    client.finish(b"data: {}\n\n")
    row = row_of(done[0])

    assert (row.resp_status_code, row.error_msg, row.cause) == (200, "it went away", UpstreamUnreachable.code)
    assert row.session_id == "s1"


@pytest.mark.parametrize(
    ("names", "session"), [((b"x-mine", b"x-session-id"), b"a"), ((b"x-session-id", b"x-mine"), b"b"), ((), b"")]
)
async def test_the_first_name_of_a_session_counts(names: tuple[bytes, ...], session: bytes) -> None:
    """In the order in which the owner gave them, whichever order the client sends them in."""
    done: list[Ended] = []
    client = client_of([(b"x-session-id", b"b"), (b"x-mine", b"a")])
    Recording(client, "", TARGET, CHAT, None, 0, names, done.append)
    client.begin(200, EVENTS)
    client.finish()

    assert done[0].session == session


class Clock:
    """A loop of which only the timers are of interest."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, call: Callable[..., None], *args: object) -> None:
        self.timers.append((seconds, lambda: call(*args)))

    def ring(self) -> float:
        ((seconds, call),) = self.timers
        self.timers.clear()
        call()
        return seconds


@pytest.mark.parametrize("pauses", [True, False])
async def test_rows_are_understood_in_a_pause(monkeypatch: pytest.MonkeyPatch, *, pauses: bool) -> None:
    """Who asks at the same time does not wait for it; where nobody pauses, it is done after a second all the same."""
    activity = activity_of(Store(None, 100))
    clock = Clock()
    monkeypatch.setattr(activity, "_loop", clock, raising=False)
    serve(activity)
    waited = 0.0
    while clock.timers:
        assert not activity._work.is_set()
        serve(activity, 1 if pauses and waited else module.BUSY + 1)
        waited += clock.ring()

    assert activity._work.is_set()
    longest = module.BATCH_SECONDS + module.MOST_LOOKS * module.PAUSE_SECONDS
    assert waited == pytest.approx(module.BATCH_SECONDS + module.PAUSE_SECONDS if pauses else longest)


async def test_too_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a disk hangs, only the first requests keep what is large of them; the others keep their rows."""
    monkeypatch.setattr(module, "MOST_WHOLE", 2000)
    store = SlowStore()
    server = Server(capture_buffer=10**6)
    with Activity(server, Path("/"), bus=Bus(), metrics=Metrics(), redact=lambda text: text, store=store) as activity:
        for _ in range(5):
            client = client_of()
            activity.begin(client, TARGET, CHAT, body=b"x" * 1000)
            client.begin(200, [(b"content-length", b"0")])
            client.finish()
        assert [ended.asked is None for ended in activity._queue] == [False, False, True, True, True]
        store.gate.set()
        _, total = await activity.page(Query())

        assert total == 5
        assert activity.captures.numbers() == {1, 2}
