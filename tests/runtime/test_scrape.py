"""Asking children for their own metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.fleet.values import Phase
from supervisor.runtime.scrape import Scraper
from tests.proxy.conftest import scripted

if TYPE_CHECKING:
    import asyncio

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("key", ["only-we-know", None])
async def test_a_key_goes_along(key: str | None) -> None:
    """A server that wants a key for its metrics gets it, and no other server does."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\nconnection: close\r\n\r\nx 1\n"
        )

    model = SimpleNamespace(id="m")
    async with scripted(answer) as endpoint:
        live = SimpleNamespace(id=1, model=model, endpoint=endpoint, api_key=key)
        run = SimpleNamespace(id=1, model=model, phase=Phase.READY)
        pool: Any = SimpleNamespace(fleet=SimpleNamespace(runs=[run]), live_run=lambda _: live)
        assert await Scraper().scrape(pool) == {"m": "x 1\n"}

    assert (b"authorization: bearer only-we-know" in heads[0].lower()) is (key is not None)
    assert (b"authorization" in heads[0].lower()) is (key is not None)
