"""The line of each request."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.config.values import Server
from supervisor.proxy.client import Client
from supervisor.record.access_log import AccessLog, access_log
from supervisor.record.bus import Bus
from supervisor.record.inflight import InFlight
from tests.proxy.conftest import Wire

if TYPE_CHECKING:
    from collections.abc import Callable


def request(**fields: object) -> Any:
    """A request that has ended."""
    return SimpleNamespace(
        **{
            "method": "POST",
            "path": "/v1/embeddings",
            "raw_path": b"/v1/embeddings",
            "headers": [(b"host", b"x"), (b"user-agent", b"curl/8")],
            "version": "1.1",
            "address": ("192.0.2.7", 5),
            "status": 200,
            "written": 17,
            **fields,
        }
    )


def line(time_format: str = "", **fields: object) -> str:
    lines: list[str] = []
    AccessLog(lines.append, time_format).ended(request(**fields), 1_500_000)
    (only,) = lines
    return only


def client() -> Client:
    wire: Any = Wire()
    target = ("/a", b"/a", b"")
    client = Client(wire, "GET", target, [], version="1.1", address=("192.0.2.7", 5), ended=lambda: None)
    client.complete()
    return client


def test_line() -> None:
    """A line says who asked for what, what came of it, and how long it took."""
    assert line() == '[INFO] Request 192.0.2.7 "POST /v1/embeddings HTTP/1.1" 200 17 "curl/8" 1.5ms'


def test_time() -> None:
    """It begins with the time where there is a layout for it."""
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+ \[INFO\] Request ", line("rfc3339"))


def test_no_agent() -> None:
    """What a client has not told is empty."""
    assert line(headers=[]).endswith(' 17 "" 1.5ms')


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"path": "/a\n[INFO] forged", "raw_path": b"/a%0A[INFO] forged"}, '"POST /a%0A[INFO] forged HTTP'),
        ({"headers": [(b"user-agent", b"a\x1b[2Jb")]}, r'"a\x1b[2Jb"'),
        ({"headers": [(b"x-forwarded-for", b"1\x85\x08")]}, r"Request 1\x85\x08 "),
        ({"path": "/é 🦙", "raw_path": b"/%C3"}, '"POST /é 🦙 HTTP'),
    ],
)
def test_what_is_no_text(fields: dict[str, Any], shown: str) -> None:
    """Nothing that a client sends looks like two lines, or moves a terminal's cursor."""
    assert shown in line(**fields)
    assert line(**fields).isprintable()


@pytest.mark.parametrize("path", ["/wol-health", "/api/performance?", "/metrics", "/metrics/x"])
def test_quiet(path: str) -> None:
    """What is asked for all the time is not logged."""
    lines: list[str] = []
    AccessLog(lines.append, "").ended(request(path=path), 1)

    assert lines == []


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda client: (client.begin(204, []), client.finish()), 204),
        (lambda client: client.left(), 499),
        (lambda client: (client.begin(200, []), client.left()), 200),
        (lambda client: (client.begin(200, []), client.cut(), client.left()), 200),
    ],
)
@pytest.mark.parametrize("is_in_flight", [True, False])
def test_every_end(end: Callable[[Client], None], status: int, *, is_in_flight: bool) -> None:
    """A request is logged once, however it ends, and whoever else looks on; without a status its client has left."""
    lines: list[str] = []
    served = client()
    AccessLog(lines.append, "").began(served)
    table = InFlight(Bus())
    if is_in_flight:
        table.add(served, "qwen")
    assert lines == []
    end(served)

    assert len(table) == 0
    assert [f'"GET /a HTTP/1.1" {status} 0 ""' in line for line in lines] == [True]


@pytest.mark.parametrize(
    ("time_format", "level", "is_on"),
    [
        ("", "info", True),
        ("kitchen", "debug", True),
        ("", "warning", False),
        ("", "error", False),
        (None, "info", False),
    ],
)
def test_who_has_it(time_format: str | None, level: str, *, is_on: bool) -> None:
    """Requests are logged where llama-swap's file is read, unless it wants to see only what is wrong."""
    found = access_log(Server(log_time_format=time_format, log_level=level), print)

    assert (found is not None) is is_on
