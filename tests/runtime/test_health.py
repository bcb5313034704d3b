"""Asking whether a server is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.runtime.health import poll_until_healthy
from tests.proxy.conftest import scripted

if TYPE_CHECKING:
    import asyncio

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("key", ["only-we-know", None])
async def test_a_key_goes_along(key: str | None) -> None:
    """A server that wants a key for the path it is asked at gets it, and no other server does."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    async with scripted(answer) as endpoint:
        assert await poll_until_healthy(endpoint, "/props", patience=1.0, key=key) == 200

    assert (b"authorization: bearer only-we-know" in heads[0].lower()) is (key is not None)
    assert (b"authorization" in heads[0].lower()) is (key is not None)
