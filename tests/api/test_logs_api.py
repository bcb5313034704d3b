"""`/logs`, `/logs/NAME` and `/logs/stream`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from supervisor.api.logs import LogRoutes
from supervisor.config.values import Config, Console, Model, Peer, Server
from supervisor.errors import InvalidRequest, ModelNotFound
from supervisor.fleet.names import Names
from supervisor.runtime.logs import LINE_OVERHEAD, Logs
from tests.api.watching import reading, request
from tests.conftest import DEADLINE
from tests.proxy.conftest import fake_cmd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import RunningService

pytestmark = pytest.mark.anyio

CONFIG = Config(
    Path("/"),
    Server(),
    {"author/model": Model("author/model", aliases=("one",)), "author": Model("author")},
    {"far": Peer("http://x", ("m",))},
)


class Scene:
    """Logs with a line in each, and the routes to them."""

    def __init__(self, console: Console = Console.PROXY, *, limit: int = 10_000, config: Config = CONFIG) -> None:
        self.logs = Logs(limit, console)
        self.logs.proxy.append("ours")
        self.logs.writer("author/model", 1)("stderr", "theirs ✓")
        service: Any = SimpleNamespace(config=config, names=Names(config), logs=self.logs)
        self.routes = LogRoutes(service)

    async def text(self, path: str, name: str | None = None) -> str:
        route = self.routes.shown if name is None else self.routes.one
        return bytes((await route(request(path, name=name))).body).decode()


@pytest.mark.parametrize(
    ("console", "text"),
    [
        (Console.PROXY, "ours\n"),
        (Console.UPSTREAM, "theirs ✓\n"),
        (Console.BOTH, "ours\ntheirs ✓\n"),
        (Console.NONE, ""),
    ],
)
async def test_what_is_shown(console: Console, text: str) -> None:
    """`/logs` is what goes to our own output, as text, and so is the stream without a name."""
    scene = Scene(console)
    answer = await scene.routes.shown(request("/logs"))

    assert bytes(answer.body).decode() == text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    async with reading(await scene.routes.stream(request("/logs/stream"))) as stream:
        scene.logs.close()
        seen = ""
        while piece := await stream.piece():
            seen += piece
    assert seen == text


async def test_a_browser() -> None:
    """A browser is led to the page that shows the logs."""
    accept = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
    answer = await Scene().routes.shown(request("/logs", accept=accept))

    assert (answer.status_code, answer.headers["location"]) == (302, "/ui/")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("proxy", "ours\n"),
        ("upstream", "theirs ✓\n"),
        ("author/model", "theirs ✓\n"),
        ("one", "theirs ✓\n"),
        ("author//model/", "theirs ✓\n"),
        ("author", ""),
    ],
)
async def test_by_name(name: str, text: str) -> None:
    """Each log has a name: its model's id or alias, slashes included; ours is `proxy`, that of all is `upstream`."""
    scene = Scene()
    assert await scene.text("/logs/x", name) == text
    async with reading(await scene.routes.stream(request("/logs/stream/x", name=name))) as stream:
        scene.logs.writer("author", 1)("stderr", "by author")
        scene.logs.close()
        seen = ""
        while piece := await stream.piece():
            seen += piece

    assert seen == (text + "by author\n" if name in {"upstream", "author"} else text)


@pytest.mark.parametrize("query", ["no-history", "no-history=false", "a=b&no-history="])
async def test_without_history(query: str) -> None:
    """Who does not want history gets the head at once, and then what comes."""
    scene = Scene()
    async with reading(await scene.routes.stream(request("/logs/stream", query))) as stream:
        await anyio.wait_all_tasks_blocked()
        assert stream.status == 200
        scene.logs.proxy.append("new")

        assert await stream.piece() == "new\n"


async def test_headers() -> None:
    """A stream of lines is text that nobody on the way keeps or holds back."""
    async with reading(await Scene().routes.stream(request("/logs/stream"))) as stream:
        await stream.piece()

    assert stream.headers["content-type"] == "text/plain; charset=utf-8"
    assert stream.headers["cache-control"] == "no-cache"
    assert stream.headers["x-accel-buffering"] == "no"


async def test_head() -> None:
    """HEAD of a stream is over at once."""
    async with reading(await Scene().routes.stream(request("/logs/stream")), method="HEAD") as stream:
        assert await stream.piece() == ""


async def test_a_slow_reader() -> None:
    """A reader that is too slow holds nobody up, and sees in the text how many bytes it has missed."""
    scene = Scene(limit=2 * (9 + LINE_OVERHEAD))
    async with reading(await scene.routes.stream(request("/logs/stream"))) as stream:
        assert await stream.piece() == "ours\n"
        stream.willing = willing = anyio.Event()
        scene.logs.proxy.append("line 0000")
        await anyio.wait_all_tasks_blocked()
        for number in range(1, 10):
            scene.logs.proxy.append(f"line {number:04}")
        willing.set()

        assert await stream.until("0009") == "line 0000\n\n— 70 bytes dropped —\nline 0008\nline 0009\n"


async def test_who_leaves_is_forgotten() -> None:
    """When a reader leaves, nothing is kept for it, whether it waited for lines or did not take them."""
    scene = Scene()
    for is_willing in (True, False):
        async with reading(await scene.routes.stream(request("/logs/stream"))) as stream:
            await stream.piece()
            assert scene.logs.proxy._readers
            if not is_willing:
                stream.willing = anyio.Event()
                scene.logs.proxy.append("not taken")
                await anyio.wait_all_tasks_blocked()
        assert not scene.logs.proxy._readers


async def test_unknown_stream() -> None:
    """A stream of a log that does not exist is refused, with those that do."""
    with pytest.raises(InvalidRequest) as raised:
        await Scene().routes.stream(request("/logs/stream/x", name="on"))

    assert "`proxy`, `upstream`, `author/model`, `author`" in str(raised.value)
    assert "`on`" in str(raised.value)
    assert raised.value.hint == "did you mean `one`?"


async def test_unknown_stream_among_many() -> None:
    """A message stays short, however many models there are."""
    config = Config(Path("/"), Server(), {f"m{number}": Model(f"m{number}") for number in range(10_000)})
    with pytest.raises(InvalidRequest) as raised:
        await Scene(config=config).routes.stream(request("/logs/stream/x", name="x"))

    assert str(raised.value).endswith("`m19`, …")


async def test_unknown_history() -> None:
    """So is the history of one."""
    with pytest.raises(ModelNotFound):
        await Scene().text("/logs/x", "nobody")


@pytest.mark.parametrize("name", ["far/m", "m"])
async def test_a_peers_model(name: str) -> None:
    """What a peer's model prints is not here."""
    with pytest.raises(InvalidRequest, match="peer `far`"):
        await Scene().routes.stream(request("/logs/stream/x", name=name))


# The following need the wiring: `LogRoutes` among the routes of a running service.


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    from tests.conftest import running_service

    config = f"""
        [models.fake]
        cmd = {fake_cmd()}
        [models."author/fake"]
        cmd = {fake_cmd("--stderr", "the child begins")}
    """
    with running_service(tmp_path_factory.mktemp("logs"), config) as running:
        yield running


@contextlib.contextmanager
def followed(service: RunningService, path: str) -> Iterator[Callable[[str], str]]:
    """A stream, read until a text has come."""
    with service.http as http, http.stream("GET", path) as answer:
        assert answer.status_code == 200
        texts = answer.iter_text()

        def until(wanted: str) -> str:
            seen = ""
            while wanted not in seen:
                seen += next(texts)
            return seen

        yield until


@pytest.mark.parametrize("name", ["author/fake", "author%2Ffake", "upstream"])
def test_wired_stream(service: RunningService, name: str) -> None:
    """A stream shows what a child prints while it prints it, in whatever way its name is written."""
    with followed(service, f"/logs/stream/{name}?no-history") as until, service.http as http:
        http.get("/unload")
        service.chat("author/fake")

        assert until("the child begins")


def test_wired_own_log(service: RunningService) -> None:
    """What the service does can be followed, from what it did before."""
    service.chat("fake")

    with followed(service, "/logs/stream") as until:
        assert "fake is ready" in until("fake is ready")


@pytest.mark.parametrize(("path", "status"), [("/logs/stream/nobody", 400), ("/logs/nobody", 404)])
def test_wired_unknown(service: RunningService, path: str, status: int) -> None:
    """An unknown stream is a bad request, an unknown log is not found."""
    with service.http as http:
        answer = http.get(path)

    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_wired_browser(service: RunningService) -> None:
    """A browser is led to the page."""
    with service.http as http:
        answer = http.get("/logs", headers={"accept": "text/html"})

    assert (answer.status_code, answer.headers["location"]) == (302, "/ui/")


def test_wired_head(service: RunningService) -> None:
    """HEAD of a stream ends, and its connection serves on."""
    with service.http as http:
        assert http.head("/logs/stream").status_code == 200
        assert http.get("/health").text == "OK"


def test_wired_shutdown(start: Callable[..., RunningService]) -> None:
    """Whoever follows a log does not hold the end of the service up."""
    own = start(f"[models.fake]\ncmd = {fake_cmd()}\n")
    with followed(own, "/logs/stream") as until:
        own.process.terminate()
        with contextlib.suppress(StopIteration, httpx.HTTPError):
            until("there is no such line")

    assert own.process.wait(DEADLINE) == 0
