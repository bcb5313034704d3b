"""`/api/events`: the burst at the start, and what comes after it."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from supervisor.api.events import Events, capability_flags, frame
from supervisor.config.values import Capabilities, Config, Model, Peer, Profile, Server
from supervisor.fleet.names import Names
from supervisor.record.bus import Bus
from supervisor.record.inflight import InFlight
from supervisor.runtime.logs import LINE_OVERHEAD, Logs
from supervisor.runtime.pool import Pool
from tests.api.watching import Messages, reading, request
from tests.conftest import DEADLINE
from tests.proxy.conftest import fake_cmd
from tests.runtime.test_pool import ScriptedLauncher, ready

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import httpx

    from tests.conftest import RunningService

pytestmark = pytest.mark.anyio

BURST = ["logData", "logData", "modelStatus", "uiConfig", "profileChanged", "inflight"]

SEEING = Capabilities(("text", "image"), ("text",), tools=True, context=8192)
CONFIG = Config(
    Path("/"),
    Server(session_id_headers=("X-One", "X-Two"), log_buffer=5000),
    {
        "zeta": Model("zeta", name=" Zeta ", description="last"),
        "alpha": Model("alpha", aliases=("a", "first"), capabilities=SEEING, unlisted=True),
    },
    {"near": Peer("http://x", ("m", "b")), "far": Peer("http://y", ("m",))},
    profiles={"coding": Profile({"llm": "alpha"})},
)


class Scene:
    """A service with everything that the stream looks at, and nothing else."""

    def __init__(self, pool: Pool, launcher: ScriptedLauncher, bus: Bus, **options: Any) -> None:
        self.pool = pool
        self.launcher = launcher
        self.bus = bus
        self.names = Names(pool.config)
        self.logs = Logs(pool.config.server.log_buffer)
        self.in_flight = InFlight(bus)
        service: Any = SimpleNamespace(
            config=pool.config, names=self.names, pool=pool, logs=self.logs, in_flight=self.in_flight
        )
        self.events = Events(service, bus, **options)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Messages]:
        """A page, after the burst."""
        async with reading(await self.events.stream(request("/api/events"))) as answer:
            messages = Messages(answer)
            for _ in BURST:
                await messages.next()
            yield messages


@contextlib.asynccontextmanager
async def a_scene(*, limit: int = 1024, config: Config = CONFIG, **options: Any) -> AsyncIterator[Scene]:
    launcher: Any = ScriptedLauncher()
    async with Pool(config, launcher) as pool:
        yield Scene(pool, launcher, Bus(limit), **options)


async def test_the_burst() -> None:
    """Who comes is told everything at once, in llama-swap's order and words."""
    async with a_scene() as scene:
        scene.logs.proxy.append("ours ✓")
        scene.logs.writer("alpha", 1)("stderr", "theirs")
        scene.names.activate("coding")
        async with reading(await scene.events.stream(request("/api/events"))) as answer:
            messages = Messages(answer)
            burst = [await messages.next() for _ in BURST]

        assert [kind for kind, _ in burst] == BURST
        assert burst[0][1] == {"data": "ours ✓\n", "source": "proxy"}
        assert burst[1][1] == {"data": "theirs\n", "source": "upstream"}
        assert burst[2][1] == [
            {
                "id": "alpha",
                "name": "",
                "description": "",
                "state": "stopped",
                "unlisted": True,
                "peerID": "",
                "aliases": ["a", "first"],
                "capabilities": {"vision": True, "function_calling": True},
                "context_length": 8192,
            },
            {
                "id": "zeta",
                "name": "Zeta",
                "description": "last",
                "state": "stopped",
                "unlisted": False,
                "peerID": "",
            },
            *(
                {"id": f"{peer}/{m}", "name": "", "description": "", "state": "", "unlisted": False, "peerID": peer}
                for peer, m in (("far", "m"), ("near", "b"), ("near", "m"))
            ),
        ]
        assert burst[3][1] == {"activity": {"session_id": ["X-One", "X-Two"]}}
        assert burst[4][1] == {"active": "coding"}
        assert burst[5][1] == {"operation": "snapshot"}


async def test_headers() -> None:
    """The answer is an event stream that nobody on the way keeps, holds back or takes for something else."""
    async with a_scene() as scene:
        async with reading(await scene.events.stream(request("/api/events"))) as answer:
            await answer.piece()

        assert answer.status == 200
        assert answer.headers == {
            "content-type": "text/event-stream",
            "cache-control": "no-cache",
            "connection": "keep-alive",
            "x-content-type-options": "nosniff",
            "x-accel-buffering": "no",
        }


@pytest.mark.parametrize("options", [{"version": "1.0"}, {"connection": "close"}])
async def test_a_connection_that_ends(options: dict[str, str]) -> None:
    """A connection that ends with the answer is not said to go on."""
    async with a_scene() as scene, reading(await scene.events.stream(request("/")), **options) as answer:
        await answer.piece()

        assert "connection" not in answer.headers


async def test_head() -> None:
    """HEAD gets the headers and is over."""
    async with a_scene() as scene:
        async with reading(await scene.events.stream(request("/api/events")), method="HEAD") as answer:
            assert await answer.piece() == ""

        assert answer.headers["content-type"] == "text/event-stream"
        assert not scene.bus.is_heard


async def test_states() -> None:
    """Every state of a model is told, with the whole list, from its start to its end."""
    async with a_scene() as scene, scene.watching() as messages:
        told = []

        async def watch() -> None:
            while told[-1:] != ["stopped"]:
                told.append(next(row["state"] for row in await messages.until("modelStatus") if row["id"] == "zeta"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await ready(scene.pool, scene.launcher, "zeta")
            await scene.pool.unload("zeta")

        assert [state for state in told if state != "stopping"] == ["starting", "ready", "stopped"]


async def test_only_changes_are_told() -> None:
    """The pool speaks up when a run comes, changes its phase or goes; not for requests that come and go."""
    async with a_scene() as scene:
        changes: list[str] = []
        scene.pool.on_change.append(lambda: changes.append(repr(scene.pool.fleet)))
        await ready(scene.pool, scene.launcher, "zeta")
        loaded = len(changes)
        with await scene.pool.lease("zeta"):
            pass
        scene.pool.look("zeta").give_back()
        assert len(changes) == loaded
        await scene.pool.unload("zeta")

    assert "1 starting" in changes[0]
    assert "1 ready" in changes[loaded - 1]
    assert "cold" in changes[-1]


async def test_many_changes_are_told_once() -> None:
    """However many models change at once, the list is told once."""
    async with a_scene() as scene, scene.watching() as messages:
        for _ in range(5):
            scene.events.models_changed()
        await anyio.wait_all_tasks_blocked()
        scene.bus.publish("mark")

        assert [(await messages.next())[0] for _ in range(2)] == ["modelStatus", "mark"]


async def test_profile() -> None:
    """Another active profile is told, and the list of models with it."""
    async with a_scene() as scene, scene.watching() as messages:
        scene.names.activate("coding")
        scene.events.profile_changed()
        assert await messages.until("profileChanged") == {"active": "coding"}
        assert await messages.until("modelStatus")
        scene.names.activate(None)
        scene.events.profile_changed()
        assert await messages.until("profileChanged") == {"active": None}


async def test_logs_come_as_they_are_printed() -> None:
    """What is printed is told at once, all lines of a turn of the loop together, with their source."""
    async with a_scene() as scene, scene.watching() as messages:
        write = scene.logs.writer("alpha", 1)
        write("stderr", "one")
        write("stdout", "two")
        scene.logs.proxy.append("ours")
        first, second = await messages.next(), await messages.next()
        write("stderr", "three")
        third = await messages.next()

        assert first == ("logData", {"data": "ours\n", "source": "proxy"})
        assert second == ("logData", {"data": "one\ntwo\n", "source": "upstream"})
        assert third == ("logData", {"data": "three\n", "source": "upstream"})


async def test_anything_else() -> None:
    """Whatever is published is told under its own name."""
    async with a_scene() as scene, scene.watching() as messages:
        scene.bus.publish("activity", {"id": 123})

        assert await messages.next() == ("activity", {"id": 123})


async def test_silence_is_broken_by_comments() -> None:
    """Where nothing happens, comments go out, which an EventSource does not show."""
    async with a_scene(heartbeat_seconds=0.01) as scene, reading(await scene.events.stream(request("/"))) as answer:
        assert "event:message" in await answer.piece()
        comments = [await answer.piece() for _ in range(2)]

        assert comments == [": still here\n\n"] * 2


async def test_the_end_of_the_service() -> None:
    """The stream ends with the service, for who watches and for who comes later."""
    async with a_scene() as scene:
        async with reading(await scene.events.stream(request("/"))) as answer:
            await answer.piece()
            scene.bus.close()
            assert await answer.piece() == ""
        async with reading(await scene.events.stream(request("/"))) as answer:
            await answer.until("inflight")
            assert await answer.piece() == ""


async def test_who_leaves_is_forgotten() -> None:
    """When a page is closed, nothing is kept for it any more, in whatever state it was."""
    async with a_scene() as scene:
        for is_willing in (True, False):
            async with reading(await scene.events.stream(request("/"))) as answer:
                await answer.piece()
                assert scene.bus.is_heard
                if not is_willing:
                    answer.willing = anyio.Event()
                    scene.bus.publish("a")
                    await anyio.wait_all_tasks_blocked()
            assert not scene.bus.is_heard
            assert not scene.logs.proxy._readers
            assert not scene.logs.upstream._readers


async def test_a_slow_page_starts_afresh() -> None:
    """A page too slow for what happens gets the whole state again; nobody waited for it, and others missed nothing."""
    async with a_scene(limit=5) as scene, scene.watching() as quick:
        async with reading(await scene.events.stream(request("/"))) as slow:
            messages = Messages(slow)
            for _ in BURST:
                await messages.next()
            slow.willing = anyio.Event()
            for number in range(20):
                scene.bus.publish("n", number)
                scene.logs.upstream.append("x" * 1000)
                assert await quick.until("n") == number
            slow.willing.set()
            kinds = [(await messages.next())[0] for _ in range(7)]

        # What had been taken before it became slow, then logs with their gap, then everything.
        assert kinds == ["logData", "n", "logData", *BURST[2:]]


async def test_lost_lines_are_told() -> None:
    """Where a page was too slow for the log, it sees how many bytes are missing."""
    async with a_scene() as scene, reading(await scene.events.stream(request("/"))) as answer:
        messages = Messages(answer)
        for _ in BURST:
            await messages.next()
        for _ in range(10):
            scene.logs.upstream.append("x" * (1000 - 1))
        kept = 5000 // (999 + LINE_OVERHEAD)

        message = await messages.until("logData")

        assert message["data"].startswith(f"\n— {1000 * (10 - kept)} bytes dropped —\n")


async def test_ten_thousand_models() -> None:
    """A long list is told quickly enough not to be felt: what has not changed is not encoded again."""
    models = {f"m{number:05}": Model(f"m{number:05}") for number in range(10_000)}
    async with a_scene(config=Config(Path("/"), Server(), models)) as scene:
        scene.events.model_status()
        began = anyio.current_time()
        frame("modelStatus", scene.events.model_status())

        assert anyio.current_time() - began < 0.5


def test_frame() -> None:
    """A frame is one line of JSON in which the data is JSON as text."""
    told = frame("logData", {"data": 'a "quote"\n\nand ✓', "source": "proxy"})

    assert told.startswith(b'event:message\ndata:{"type":"logData","data":"{\\"data\\":')
    assert told.endswith(b'"}\n\n')
    assert told.count(b"\n") == 3
    message = json.loads(told.split(b"data:", 1)[1])
    assert json.loads(message["data"])["data"] == 'a "quote"\n\nand ✓'


@pytest.mark.parametrize(
    ("capabilities", "flags"),
    [
        (Capabilities(), set()),
        (Capabilities(("text",), ("text",)), set()),
        (Capabilities(("text", "image"), ("text",), tools=True), {"vision", "function_calling"}),
        (Capabilities(("audio",), ("text",)), {"audio_transcriptions"}),
        (Capabilities(("text",), ("audio",)), {"audio_speech"}),
        (Capabilities(("text", "image"), ("image",)), {"vision", "image_generation", "image_to_image"}),
        (Capabilities(reranker=True), {"reranker"}),
    ],
)
def test_capabilities(capabilities: Capabilities, flags: set[str]) -> None:
    """What a model can do follows from what it takes and gives."""
    assert capability_flags(capabilities) == dict.fromkeys(flags, True)


# The following need the wiring: the route, `Events` and `in_flight` in a running service.


@pytest.fixture
def service(start: Callable[..., RunningService]) -> RunningService:
    return start(f'[models.fake]\ncmd = {fake_cmd()}\naliases = ["alias"]\n')


class Watching:
    """The messages of a running service."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def until(self, kind: str, fact: Callable[[Any], object] = lambda _: True) -> Any:
        for line in self._lines:
            if line.startswith("data:"):
                message = json.loads(line.removeprefix("data:"))
                data = json.loads(message["data"])
                if message["type"] == kind and fact(data):
                    return data
        raise AssertionError("the stream has ended")

    def rest(self) -> list[str]:
        return list(self._lines)


@contextlib.contextmanager
def watched(service: RunningService) -> Iterator[Watching]:
    with service.http as http, http.stream("GET", "/api/events") as answer:
        assert answer.status_code == 200
        yield Watching(answer)


def test_wired_life_of_a_request(service: RunningService) -> None:
    """A page sees a request come, its model start and become ready, the log of both, and the request go."""
    with watched(service) as page:
        assert page.until("modelStatus")[0]["state"] == "stopped"
        assert page.until("inflight") == {"operation": "snapshot"}
        assert service.chat("alias").status_code == 200
        request = page.until("inflight", lambda data: data["operation"] == "upsert")["request"]
        page.until("modelStatus", lambda rows: rows[0]["state"] == "starting")
        page.until("modelStatus", lambda rows: rows[0]["state"] == "ready")
        page.until("inflight", lambda data: data.get("id") == request["id"])

    assert (request["model"], request["req_path"], request["method"]) == ("fake", "/v1/chat/completions", "POST")
    assert request["req_headers"]["Content-Type"] == "application/json"
    assert request["remote_ip"] == "127.0.0.1"


def test_wired_shutdown(service: RunningService) -> None:
    """Pages do not hold the end of the service up."""
    with watched(service) as page:
        page.until("inflight")
        service.process.terminate()
        page.rest()

    assert service.process.wait(DEADLINE) == 0


def test_wired_cancel(service: RunningService) -> None:
    """A request that is cancelled ends for its client, without an invitation to try again."""

    def hold() -> httpx.Response:
        with service.http as http:
            return http.post("/v1/chat/completions", json={"model": "fake"}, headers={"x-do": "hang"})

    with watched(service) as page, service.http as http, ThreadPoolExecutor(1) as threads:
        page.until("inflight")
        waiting = threads.submit(hold)
        request = page.until("inflight", lambda data: data["operation"] == "upsert")["request"]
        answer = http.post(f"/api/inflight/{request['id']}/cancel")
        assert (answer.status_code, answer.json()) == (200, {"msg": "ok"})
        page.until("inflight", lambda data: data.get("id") == request["id"])
        assert waiting.result(DEADLINE).status_code == 499
        assert http.post(f"/api/inflight/{request['id']}/cancel").status_code == 404
