"""Requests of any bytes, through the whole of the service but its sockets: answered, refused or waited for.

No 500, no traceback in the log, and no connection that would stay for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import uvicorn
from uvicorn.server import ServerState

from supervisor.api.doors import DOORS, NOT_SERVED
from supervisor.app import App
from supervisor.config import toml
from supervisor.household import running_service
from supervisor.log_output import _is_news
from supervisor.proxy.crowd import Crowd
from supervisor.proxy.front import BODY_SECONDS, IDLE_SECONDS, Front
from supervisor.proxy.peers import Peers
from supervisor.proxy.routes import ROUTES
from supervisor.proxy.upgraded import Upgraded
from tests.fuzz.mutation import ODD, example, numbers
from tests.proxy.conftest import Wire, fake_cmd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from supervisor.api.service import Service
    from tests.fuzz.mutation import Random

PATIENCE = 20.0
"""Seconds after which an answer will not come any more."""

CONFIG = f"""
[server]
max_body = "256KiB"
max_loaded = 3
drain_timeout = "0s"
[models.fake]
cmd = {fake_cmd()}
aliases = ["ünï/ço de", "gpt-4"]
[models.fake.variants."fake:cold"]
set_params = {{ "a.b" = 7 }}
strip_params = ["user", "x.y.z"]
sampling = {{ temp = 0.25 }}
[models.renamed]
cmd = {fake_cmd()}
use_model_name = "other"
[models.broken]
cmd = ["false", "${{PORT}}"]
[peers.nobody]
proxy = "http://127.0.0.1:1"
models = ["far"]
[selectors.any]
strategy = "warm"
targets = ["fake", "renamed"]
"""
MODELS = ("fake", "gpt-4", "ünï/ço de", "fake:cold", "renamed", "broken", "far", "any", "none", "", "fake/../x")
API = (*DOORS, *NOT_SERVED, "/ui", "*", "/%73tatus", "/logs/", "/api/captures/")
"""Every route that answers by itself, and some that nearly are."""
PARAMETERS = (
    "model",
    "sort",
    "order",
    "limit",
    "page",
    "start",
    "end",
    "min_id",
    "max_id",
    "history",
    "no-history",
    "a",
)
VALUES = (
    *MODELS, "id", "gen_speed", "desc", "0", "1", "-1", "1" * 30, "1e9", "nan", "2026-08-22T09:29:57Z", "2026-08-22",
    "9999-12-31T23:59:59+23:59", "0001-01-01T00:00:00-23:59", "%00", "%ff", "+", "true",
)  # fmt: skip
METHODS = (
    "GET",
    "POST",
    "POST",
    "POST",
    "PUT",
    "HEAD",
    "OPTIONS",
    "DELETE",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    "PRI",
    "X",
)
HEADERS = (
    "content-type: application/json", "content-type: text/plain", "content-type: application/x-www-form-urlencoded",
    "content-type: multipart/form-data", "content-type: multipart/form-data; boundary=B",
    'content-type: multipart/form-data; boundary="B"', "accept: text/event-stream", "accept: application/json",
    "accept: \xff", "connection: close", "connection: keep-alive", "connection: x, y", "connection: upgrade",
    "upgrade: h2c", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
    "expect: 100-continue", "expect: x", "te: trailers", "trailer: x", "transfer-encoding: gzip",
    "authorization: Bearer x", "authorization: Basic !", "x-api-key: y", "origin: http://evil",
    "forwarded: for=1.2.3.4", "x-forwarded-for: 1.2.3.4", "range: bytes=0-1", "if-none-match: *",
    "access-control-request-headers: a, b", "cookie: a=b", "x-session-id: \t", "content-encoding: gzip", "host: y",
    "last-event-id: 9",
)  # fmt: skip


def own_path(random: Random) -> str:
    """A route of ours, with any name or number where one belongs."""
    template = random.choice(API)
    return re.sub(r"\{[^}]*\}", lambda _: random.choice((*MODELS, "1", "-1", "9" * 30, "proxy", "upstream")), template)


def query(random: Random) -> str:
    """What our own routes are asked with, more or less."""
    given = (f"{random.choice(PARAMETERS)}={random.choice(VALUES)}" for _ in range(random.randint(1, 4)))
    return "?" + "&".join(given)


def path(random: Random) -> str:
    """Where a request goes, more or less."""
    model = random.choice(MODELS)
    places = (
        random.choice(sorted(ROUTES)),
        own_path(random),
        f"/upstream/{model}/{random.choice(('', 'x', 'a/b', '../x', '%2e%2e/x', 'v1/chat/completions', 'x.js'))}",
        f"/comfyui/{random.choice(('', 'x', '..'))}",
    )
    chosen = random.choice(places)
    if random.chance(0.4):
        chosen += random.choice((query(random), query(random), "?", "#x", ";x", "?" + "a=b&" * 500))
    return chosen.replace(" ", "%20") if random.chance(0.9) else chosen


def nested(random: Random, depth: int = 0) -> Any:
    """Any JSON."""
    match random.randrange(9 if depth < 4 else 6):
        case 0 | 1:
            return random.choice(MODELS)
        case 2:
            return random.choice((0, 1, -1, 1.5, 10**40, 1e308, True, False, None))
        case 3:
            return random.choice(ODD).decode("utf-8", "replace")
        case 4:
            return random.choice(("\ud800", "\0", "\u2028", "true"))
        case 5:
            return []
        case 6:
            return [nested(random, depth + 1) for _ in range(random.randint(0, 3))]
        case _:
            keys = (
                "model",
                "stream",
                "messages",
                "a",
                "x",
                "y",
                "user",
                "temperature",
                "name",
                "wait",
                "force",
                "",
                "é",
            )
            return {random.choice(keys): nested(random, depth + 1) for _ in range(random.randint(0, 4))}


def json_body(random: Random) -> bytes:
    """A JSON body, sometimes broken."""
    value = nested(random)
    if random.chance(0.8):
        value = {
            "model": random.choice(MODELS),
            "stream": random.choice((True, False, None, 1)),
            **(value if isinstance(value, dict) else {}),
        }
    data = json.dumps(value, ensure_ascii=random.chance(0.5)).encode("utf-8", "replace")
    if random.chance(0.05):
        data = random.choice(
            (
                b'{"model":' + b"[" * 100_000,
                b"[" * 100_000,
                b'{"a":' * 50_000,
                b'{"model":"fake","x":' + b"9" * 100_000 + b"}",
            )
        )
    return random.mutated(data) if random.chance(0.5) else data


def form_body(random: Random) -> bytes:
    """A multipart form, sometimes broken."""
    parts = []
    for _ in range(random.randint(0, 4)):
        name = random.choice(("model", "file", "MODEL", "", 'a"b', "é"))
        extra = random.choice(
            ("", '; filename="f"', "; filename*=UTF-8''x", "; name=model", "\r\ncontent-type: text/plain", '; x="\\"')
        )
        value = random.choice((random.choice(MODELS).encode(), random.choice(ODD), b"--B", b"\r\n--B", b"x" * 1000))
        parts.append(
            b'--B\r\ncontent-disposition: form-data; name="'
            + name.encode()
            + b'"'
            + extra.encode()
            + b"\r\n\r\n"
            + value
            + b"\r\n"
        )
    data = b"".join(parts) + random.choice((b"--B--\r\n", b"--B--", b"", b"--B"))
    return random.mutated(data) if random.chance(0.5) else data


def framed(random: Random, method: str, target: str, headers: list[str], body: bytes) -> bytes:
    """The bytes of a request, its length or its chunks mostly right."""
    lines = [f"{method} {target} HTTP/{random.choice(('1.1',) * 12 + ('1.0', '2.0', '1.2'))}"]
    lines += ["host: x"] * random.choice((1,) * 12 + (0, 2))
    lines += headers
    if random.chance(0.3):
        lines.append(random.choice(("transfer-encoding: chunked", "Transfer-Encoding: Chunked")))
        pieces = random.cut(body)
        body = (
            b"".join(b"%x%b\r\n%b\r\n" % (len(piece), random.choice((b"", b";a=b")), piece) for piece in pieces)
            + b"0\r\n\r\n"
        )
    elif body or random.chance(0.5):
        lines.append(f"content-length: {random.choice((len(body),) * 12 + (len(body) + 1, 0, 10**30, -1))}")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def any_bytes(random: Random) -> bytes:
    """Some requests, one behind the other, and bytes changed anywhere."""
    data = b""
    for _ in range(random.randint(1, 3)):
        body = random.choice((json_body, form_body))(random) if random.chance(0.6) else random.choice(ODD)
        data += framed(random, random.choice(METHODS), path(random), random.sample(HEADERS, random.randint(0, 6)), body)
    return random.mutated(data)


def any_path(random: Random) -> bytes:
    """A right request for an odd path."""
    target = random.mutated(path(random).encode(), 3, [each for each in ODD if b" " not in each and b"\n" not in each])
    headers = ["connection: upgrade", "upgrade: websocket", *HEADERS[15:17]] if random.chance(0.2) else []
    return framed(random, random.choice(METHODS), target.decode("latin-1"), headers, b"")


def any_json(random: Random) -> bytes:
    """Any JSON to any route."""
    target = random.choice((random.choice(sorted(ROUTES)), own_path(random), "/models/load", "/api/profiles/active"))
    headers = [random.choice(HEADERS[:3])] if random.chance(0.8) else []
    return framed(random, random.choice(("POST", "POST", "PUT")), target, headers, json_body(random))


def any_form(random: Random) -> bytes:
    """Any form to a route that takes forms, mostly."""
    target = random.choice(("/v1/audio/transcriptions", "/v1/images/edits", random.choice(sorted(ROUTES))))
    return framed(random, "POST", target, [random.choice(HEADERS[3:6])], form_body(random))


def is_waiting(front: Front) -> bool:
    """Whether nothing is to be done before the client sends more."""
    return not front._pending and (front._current is None or not front._current.is_whole)


class FuzzWire(Wire):
    """A wire whose protocol may change."""

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    @property
    def protocol(self) -> Any:
        return self._protocol

    def get_write_buffer_size(self) -> int:
        return 0


async def until(fact: Callable[[], object]) -> None:
    """Wait for a fact in this loop, not for ever."""
    with anyio.fail_after(PATIENCE):
        while not fact():  # noqa: ASYNC110 - a wire has no events
            await asyncio.sleep(0.001)


class Attack:
    """One service and connections to it."""

    def __init__(self, service: Service) -> None:
        self._app = App(service, Peers(service.config))
        self._config = uvicorn.Config(self._app, log_config=None, lifespan="off", ws=Upgraded)
        self._config.load()

    async def connection(self, pieces: list[bytes]) -> list[int]:
        """Send these on a connection of its own, as fast as they are read; the statuses of the answers."""
        state = ServerState()
        front = Front(self._app, config=self._config, server_state=state, app_state={}, crowd=Crowd(5))
        wire = FuzzWire(front)
        front.connection_made(wire)  # type: ignore[arg-type]
        with anyio.fail_after(PATIENCE):
            for piece in pieces:
                await until(lambda: wire.is_closed or not wire.is_paused)
                if wire.is_closed:
                    break
                wire.protocol.data_received(piece)
                await asyncio.sleep(0)
            await until(lambda: wire.is_closed or is_waiting(front))
        now = asyncio.get_running_loop().time()
        for later in (0, BODY_SECONDS + 1, 2 * BODY_SECONDS + 2, 2 * BODY_SECONDS + IDLE_SECONDS + 3):
            if wire.protocol is front:
                front.sweep(now + later)
        if wire.protocol is front:
            assert wire.is_closed, "a connection on which nothing happens stays"
        wire.close()
        await asyncio.sleep(0)
        await until(lambda: not state.tasks)
        assert not state.connections
        answers = [part for part in wire.written.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]
        assert not [
            answer for answer in answers if answer.startswith(b"500") and b"model_failed_to_start" not in answer
        ]
        assert not [answer for answer in answers if b"\nx-request-id: " not in answer and answer[:3] != b"100"], answers
        return [int(answer[:3]) for answer in answers]


@pytest.fixture
async def attack(tmp_path: Path) -> AsyncIterator[Attack]:
    config = toml.parse(CONFIG, base=tmp_path, environ={})
    async with running_service(config) as service, anyio.create_task_group() as tasks:
        tasks.start_soon(service.configuration.run)
        await service.pool.load("fake")
        await service.pool.load("renamed")
        service.bus.close()  # so that streams without an end have one
        service.logs.close()
        yield Attack(service)
        tasks.cancel_scope.cancel()


def is_complaint(record: logging.LogRecord) -> bool:
    """Whether something went wrong with us, not with a model; a client that has left is no complaint."""
    is_bad = record.exc_info is not None or record.levelno >= logging.ERROR
    return is_bad and record.name != "supervisor.pool" and _is_news(record)


@pytest.mark.parametrize("made", [any_bytes, any_path, any_json, any_form])
@pytest.mark.anyio
async def test_any_request(attack: Attack, caplog: pytest.LogCaptureFixture, made: Callable[[Random], bytes]) -> None:
    """Whatever a client sends is answered with a status that is true, or its connection ends; nothing breaks."""
    seen: dict[int, int] = {}
    with caplog.at_level(logging.INFO):
        for number in numbers(150):
            caplog.clear()
            with example(made.__name__, number) as random:
                for status in await attack.connection(random.cut(made(random))):
                    seen[status] = seen.get(status, 0) + 1
                assert "Traceback" not in caplog.text, caplog.text
                assert not [record for record in caplog.records if is_complaint(record)], caplog.text

    assert seen.get(200), seen
    assert len(seen) > 2, seen
