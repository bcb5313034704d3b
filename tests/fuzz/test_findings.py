"""What the fuzzers have found, one test each: small, quick, and red without its fix."""

from __future__ import annotations

import time

import pytest

from supervisor.llama import protocol
from supervisor.llama.diagnosis import End, diagnose
from supervisor.runtime.child import KEPT_LENGTH
from supervisor.runtime.logs import LINE_LIMIT
from tests.proxy.conftest import post
from tests.proxy.test_exchange import exchange, saying, upstream_of
from tests.proxy.test_front import app_in_front, until

QUICK = 1.0
"""Seconds of processor time for what takes a few milliseconds, and took minutes."""


@pytest.mark.parametrize(
    ("line", "speed"),
    [
        ("eval time = 10 ms / 5 tokens (2.00 ms per token, 500.00 tokens per second)", 500.0),
        ("eval time = 1.2.3 tokens per second", 2.3),
        ("eval time ... tokens per second", None),
        ("eval time . tokens per second", None),
    ],
)
def test_odd_speed(line: str, speed: float | None) -> None:
    """A line that nearly tells a speed broke the reader of the pipe, and the lines behind it were lost."""
    assert protocol.generation_speed(line) == speed


def test_speed_in_a_long_line() -> None:
    """A line that repeats the words before a speed took time by the square of its length."""
    began = time.process_time()
    protocol.generation_speed("eval time " * 20_000 + "tokens per second")

    assert time.process_time() - began < QUICK


@pytest.mark.parametrize(
    "value", ["1" + "0" * 400, "-1" + "0" * 400, "NaN", "Infinity", "1e999", "true", "[]", '"0.5"']
)
def test_odd_progress(value: str) -> None:
    """A number that no float holds broke the reader of the pipe; whatever is told, progress is between 0 and 1."""
    said = protocol.parse(f'{protocol.PREFIX}state:{{"state":"loading","payload":{{"value":{value}}}}}')

    assert isinstance(said, protocol.Progress)
    assert 0.0 <= said.fraction <= 1.0
    assert isinstance(said.fraction, float)


def test_deep_protocol_line() -> None:
    """JSON that is nested too deeply for its reader is a message we do not know."""
    assert protocol.parse(f"{protocol.PREFIX}state:" + '{"a":' * 100_000) is None


def test_long_lines_without_a_space() -> None:
    """A child that failed after printing long words kept the whole service from answering for minutes."""
    lines = tuple(f"{number}{'A' * LINE_LIMIT}"[:KEPT_LENGTH] for number in range(200))
    began = time.process_time()
    diagnosis = diagnose(End("loading", lines, 1))

    assert diagnosis.cause == "unknown"
    assert time.process_time() - began < QUICK


@pytest.mark.parametrize("path", ["/models/load", "/models/unload", "/api/profiles/active"])
@pytest.mark.parametrize(
    "body",
    [b'{"model":"\xb9"}', b'{"model":"a","x":"\xff"}', b'{"a":' * 30_000, b"[" * 60_000],
    ids=["latin", "bytes", "objects", "lists"],
)
@pytest.mark.anyio
async def test_no_json_for_us(tmp_path: object, path: str, body: bytes) -> None:
    """A body that is no UTF-8, or nested without end, is the client's fault on our own routes as well."""
    async with app_in_front(tmp_path) as (_, scene):  # type: ignore[arg-type]
        method = b"PUT" if path.endswith("active") else b"POST"
        scene.send(post(path, body).replace(b"POST", method, 1))
        await until(lambda: scene.statuses)

        assert scene.statuses == [400]


@pytest.mark.parametrize("status", ["000", "003", "099"])
@pytest.mark.anyio
async def test_a_status_below_all_others(status: str) -> None:
    """The body of an answer with such a status reached the client before any head, as if it were an answer itself."""
    body = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
    said = b"HTTP/1.1 %b x\r\ncontent-length: %d\r\n\r\n%b" % (status.encode(), len(body), body)
    async with upstream_of(saying(said, closes=True)) as upstream:
        asked = await exchange(upstream)

    assert asked.status == 502
    assert asked.wire.written.startswith(b"HTTP/1.1 502 ")
