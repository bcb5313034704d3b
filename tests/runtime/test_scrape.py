"""Asking children for their own metrics."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.fleet.values import Phase
from supervisor.llama.endpoint import UnixEndpoint
from supervisor.runtime.scrape import MOST_BYTES, Scraper
from tests.conftest import DEADLINE
from tests.proxy.conftest import scripted

if TYPE_CHECKING:
    from pathlib import Path

    from supervisor.llama.endpoint import Endpoint

pytestmark = pytest.mark.anyio


class Children:
    """A pool of models at these places, as far as it is asked."""

    def __init__(self, **places: Endpoint) -> None:
        self.phases = dict.fromkeys(places, Phase.READY)
        self._live = {
            number: SimpleNamespace(id=number, model=SimpleNamespace(id=name), endpoint=place, api_key=None)
            for number, (name, place) in enumerate(places.items())
        }

    @property
    def pool(self) -> Any:
        runs = [
            SimpleNamespace(id=n, model=each.model, phase=self.phases[each.model.id]) for n, each in self._live.items()
        ]
        return SimpleNamespace(fleet=SimpleNamespace(runs=runs), live_run=self._live.get)


class Server:
    """A child that answers with this, or never, and counts who asked."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self.asked = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        if self._answer is None:
            await asyncio.Event().wait()
        else:
            writer.write(self._answer)


def answer(body: bytes, *, status: bytes = b"200 OK", kind: bytes = b"text/plain") -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (status, kind, len(body)) + body


GOOD = answer(b"x 1\n")


@pytest.mark.parametrize("key", ["only-we-know", None])
async def test_a_key_goes_along(key: str | None) -> None:
    """A server that wants a key for its metrics gets it, and no other server does."""
    heads: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(GOOD)

    async with scripted(note) as place:
        pool = Children(m=place).pool
        pool.live_run(0).api_key = key
        assert await Scraper().scrape(pool) == {"m": "x 1\n"}

    assert (b"authorization: bearer only-we-know" in heads[0].lower()) is (key is not None)
    assert (b"authorization" in heads[0].lower()) is (key is not None)


@pytest.mark.parametrize(
    "odd",
    [
        answer(b"x 1\n", status=b"500 Oh"),
        answer(b"x" * (MOST_BYTES + 1)),
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 9\r\n\r\nx",
        b"",
    ],
)
async def test_a_child_that_answers_nonsense(odd: bytes) -> None:
    """It says nothing, for now; the others do."""
    good, bad = Server(GOOD), Server(odd)
    async with scripted(good) as one, scripted(bad) as other:
        scraper, children = Scraper(), Children(good=one, bad=other)

        for asked in (1, 2):
            assert await scraper.scrape(children.pool) == {"good": "x 1\n", "bad": None}
            assert bad.asked == asked


async def test_bytes_that_are_no_text() -> None:
    """They are told as what they are not, for the lines around them may be good."""
    async with scripted(Server(answer(b'x{n="\xff"} 1\n'))) as place:
        assert await Scraper().scrape(Children(m=place).pool) == {"m": 'x{n="\N{REPLACEMENT CHARACTER}"} 1\n'}


async def test_a_child_that_hangs(tmp_path: Path) -> None:
    """Nobody waits for it longer than for the patience there is, nor for one that is gone."""
    async with scripted(Server(None)) as place:
        children = Children(hung=place, gone=UnixEndpoint(tmp_path / "gone.sock"))

        assert await Scraper(patience=0.1).scrape(children.pool) == {"hung": None, "gone": None}


async def test_children_are_asked_at_the_same_time() -> None:
    """One that is slow holds up none of the others."""
    all_asked = asyncio.Barrier(3)

    async def after_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await all_asked.wait()
        writer.write(GOOD)

    async with scripted(after_all) as place:
        found = await Scraper(patience=DEADLINE).scrape(Children(a=place, b=place, c=place).pool)
    assert set(found.values()) == {"x 1\n"}


@pytest.mark.parametrize(
    "none", [answer(b"", status=b"404 No"), answer(b"", status=b"501 No"), answer(b"{}", kind=b"application/json")]
)
async def test_a_child_that_has_none(none: bytes) -> None:
    """It is asked once, not every time."""
    bare = Server(none)
    async with scripted(bare) as place:
        scraper, children = Scraper(), Children(bare=place)

        assert [await scraper.scrape(children.pool) for _ in range(3)] == [{}, {}, {}]
    assert bare.asked == 1


async def test_only_who_is_ready_is_asked() -> None:
    """A model that starts or stops has other things to do."""
    server = Server(GOOD)
    async with scripted(server) as place:
        children = Children(m=place)
        for phase in (Phase.STARTING, Phase.STOPPING):
            children.phases["m"] = phase
            assert await Scraper().scrape(children.pool) == {}
    assert server.asked == 0
