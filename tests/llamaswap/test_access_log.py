"""The lines of our own log (spec 0 and 1.12): one for each request."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import DEADLINE
from tests.llamaswap.conftest import Swap, following, running_swap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = 'models: {zeta: {cmd: "<child>"}}'


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("access"), CONFIG) as swap:
        yield swap


def logged(swap: Swap, agent: str) -> str:
    """The line about the request of this user agent."""
    with following(swap, "/logs/stream/proxy") as until:
        return next(line for line in until(f'"{agent}" ').splitlines() if f'"{agent}"' in line)


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, "127.0.0.1"),
        ({"x-forwarded-for": "10.1.2.3, 10.9.9.9"}, "10.1.2.3"),
        ({"x-real-ip": "10.4.5.6"}, "10.4.5.6"),
        ({"x-forwarded-for": "10.1.2.3", "x-real-ip": "10.4.5.6"}, "10.1.2.3"),
    ],
)
def test_access_log(swap: Swap, headers: dict[str, str], address: str) -> None:
    """0: a request is one line with its client, which a proxy may have named, status, size, agent and duration."""
    agent = f"agent at {headers}".replace('"', "")
    swap.get("/health?x=1", headers={**headers, "user-agent": agent})
    line = logged(swap, agent)

    assert re.search(rf'\[INFO\] Request {address} "GET /health(\?x=1)? HTTP/1.1" 200 2 "', line), line


def test_access_log_below_upstream(swap: Swap) -> None:
    """0: its path is the one that was asked for; that of a liveness probe is not logged at all."""
    swap.get("/wol-health", headers={"user-agent": "prober"})
    swap.get("/upstream/zeta/x", headers={"user-agent": "visitor"})

    assert '"GET /upstream/zeta/x ' in logged(swap, "visitor")
    assert "prober" not in swap.get("/logs").text


def test_access_log_of_websockets(swap: Swap) -> None:
    """0: a websocket is logged at its end, one that is refused with its status."""
    with swap.socket("/upstream/zeta/ws", user_agent_header="talker") as socket:
        socket.send("hello")
        assert socket.recv(DEADLINE) == "hello"
    with pytest.raises(InvalidStatus):
        swap.socket("/upstream/none/ws", user_agent_header="stranger")

    assert '"GET /upstream/zeta/ws HTTP/1.1" 101 0 "talker" ' in logged(swap, "talker")
    assert '"GET /upstream/none/ws HTTP/1.1" 404 ' in logged(swap, "stranger")


@pytest.mark.parametrize(("level", "is_logged"), [("debug", True), ("info", True), ("warn", False), ("error", False)])
def test_level_of_the_access_log(start_swap: Callable[..., Swap], level: str, *, is_logged: bool) -> None:
    """1.12: these lines are of the level INFO."""
    swap = start_swap(f"logLevel: {level}\n{CONFIG}")
    swap.get("/health", headers={"user-agent": "one of some level"})
    swap.get("/health")

    assert ("one of some level" in swap.get("/logs").text) is is_logged


@pytest.mark.parametrize(("layout", "pattern"), [("", r"\["), ("rfc3339", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* \[")])
def test_time_in_the_log(start_swap: Callable[..., Swap], layout: str, pattern: str) -> None:
    """1.12: a line begins with its level, after the time if `logTimeFormat` names a layout."""
    swap = start_swap(f'logTimeFormat: "{layout}"\n{CONFIG}')
    swap.get("/health", headers={"user-agent": "clock"})

    assert re.match(pattern + r"INFO\] Request ", logged(swap, "clock"))
