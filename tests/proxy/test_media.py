"""Names in URLs that a model's server would fetch: what they lead to decides, and all of it has to be public."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.errors import PrivateUrl
from supervisor.proxy import media
from supervisor.proxy.media import MOST_NAMES, check

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio


def asking(*hosts: str) -> bytes:
    images = [{"type": "image_url", "image_url": {"url": f"https://{host}/a.png"}} for host in hosts]
    return json.dumps({"model": "m", "messages": [{"content": images}]}).encode()


class Names:
    """What names lead to, and which were asked for."""

    def __init__(self, **addresses: Sequence[str]) -> None:
        self._addresses = {name.replace("_", "."): found for name, found in addresses.items()}
        self.asked: list[str] = []

    async def look_up(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self._addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._addresses[host]


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.7"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["93.184.216.34", "192.168.1.1"],
        ["2606:2800:220:1::1", "fd00::1"],
        ["fe80::1%eth0"],
        ["::ffff:10.0.0.1"],
        ["no address"],
        [],
    ],
)
async def test_public_names_of_private_addresses(addresses: list[str]) -> None:
    """A name that anybody can point at a private network is as good as the address, if one of several is."""
    names = Names(pictures_example_com=addresses)
    with pytest.raises(PrivateUrl) as refused:
        await check(asking("pictures.example.com"), names.look_up)

    assert "`messages[0].content[0].image_url.url`" in str(refused.value)


async def test_public_names() -> None:
    """They pass; each is looked up once, however often it is there."""
    names = Names(a_example_com=["93.184.216.34", "2606:2800:220:1::1"], b_example_com=["1.1.1.1"])
    await check(asking("a.example.com", "b.example.com", "A.Example.com."), names.look_up)

    assert names.asked == ["a.example.com", "b.example.com"]


async def test_names_that_lead_nowhere() -> None:
    """They may lead somewhere a moment later."""
    with pytest.raises(PrivateUrl):
        await check(asking("gone.example.com"), Names().look_up)


async def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the request up for so long, and then counts as none."""
    monkeypatch.setattr(media, "LOOKUP_SECONDS", 0.01)

    async def hang(host: str) -> Sequence[str]:
        await anyio.sleep_forever()
        return []

    with anyio.fail_after(10), pytest.raises(PrivateUrl):
        await check(asking("slow.example.com"), hang)


async def test_many_names() -> None:
    """Nobody has us look up as many as he likes."""
    names = Names()
    with pytest.raises(PrivateUrl, match="at most"):
        await check(asking(*(f"{number}.example.com" for number in range(MOST_NAMES + 1))), names.look_up)

    assert names.asked == []
