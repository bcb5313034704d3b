"""Large uploads, passed on while they come; and the pace of both sides, through a running service."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from supervisor.config.values import Config
from supervisor.fleet.names import Names
from supervisor.proxy.client import Client
from supervisor.proxy.peers import Peers
from supervisor.proxy.relay import LARGE_BODY, Proxy
from supervisor.record.bus import Bus
from supervisor.record.inflight import InFlight
from tests.conftest import DEADLINE, ROOT, eventually, running_service
from tests.proxy.conftest import Child, fake_cmd, http_to, post, raw_request, read_answer, rss

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.conftest import RunningService

MiB = 1024 * 1024
ROUTE = "/v1/audio/transcriptions"
DIRECT = "/upstream/up/x?y=%20"
CMD = json.dumps([sys.executable, str(ROOT / "tests" / "proxy" / "upload_child.py"), "--port", "${PORT}"])
FILE = os.urandom(3 * MiB)
PATIENCE = 0.5
"""Seconds without progress after which a side counts as stopped: that nothing happens has no event."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with a child that tells how uploads come."""
    config = f"[server]\nmax_body = '100MiB'\n[models.up]\ncmd = {CMD}\n[models.other]\ncmd = {CMD}\n"
    with running_service(tmp_path_factory.mktemp("uploads") / "service", config) as running:
        yield running


@pytest.fixture
def child(service: RunningService) -> Child:
    """The child of the model `up`, loaded."""
    with http_to(service.url) as http:
        http.get("/upstream/up/").raise_for_status()
    return Child(service, "up")


@dataclass
class Upload:
    """A request for an upload, and where in it things are."""

    raw: bytes
    body: bytes

    @property
    def head_size(self) -> int:
        return len(self.raw) - len(self.body)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def field(name: str, value: bytes, more: str = "") -> bytes:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


def upload(
    path: str = ROUTE, *, file: bytes = FILE, model: str = "up", last: bool = False, do: str = "read", name: str = ""
) -> Upload:
    """A form with a file and its model, the model first unless it is to be `last`."""
    parts = [field("model", model.encode()), field("file", file, '; filename="f"')]
    body = b"".join(reversed(parts) if last else parts) + b"--B--\r\n"
    raw = post(path, body, content_type="multipart/form-data; boundary=B", x_do=do, x_name=name)
    return Upload(raw, body)


@contextlib.contextmanager
def talk(service: RunningService, first: bytes) -> Iterator[tuple[socket.socket, BinaryIO]]:
    with raw_request(service, first) as client, client.makefile("rb") as file:
        yield client, file


def told(file: BinaryIO) -> dict[str, object]:
    answer = read_answer(file)
    assert answer.status == 200, answer
    seen: dict[str, object] = answer.json()
    return seen


def send_until_stuck(client: socket.socket, data: bytes) -> int:
    """Send until nothing more is taken; how much was."""
    client.setblocking(False)
    view, sent = memoryview(data), 0
    while sent < len(data) and select.select([], [client], [], PATIENCE)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += client.send(view[sent : sent + 65536])
    client.settimeout(DEADLINE)
    return sent


def await_stop(count: Callable[[], int]) -> int:
    """Wait until a count does not grow any more; the count."""
    last, since = count(), time.monotonic()

    def has_stopped() -> bool:
        nonlocal last, since
        now = count()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > PATIENCE

    eventually(has_stopped)
    return last


def await_idle(child: Child) -> None:
    """Everything has been given back."""
    eventually(lambda: child.requests() == 0)


# What reaches the child, and when.


@pytest.mark.parametrize("path", [ROUTE, "/v1/images/edits", DIRECT])
def test_passed_on_while_it_comes(service: RunningService, child: Child, path: str) -> None:
    """Of a large upload whose model is known the child gets what has come, before the client has sent the rest."""
    name = f"early{len(path)}"
    up = upload(path, name=name)
    almost = len(up.raw) - 10
    with talk(service, up.raw[:almost]) as (client, file):
        eventually(lambda: child.facts(name)["received"] == len(up.body) - 10)
        assert child.requests() == 1
        client.sendall(up.raw[almost:])
        seen = told(file)

        assert (seen["bytes"], seen["sha256"]) == (len(up.body), up.sha256)
        assert seen["target"] == (path if path != DIRECT else "/x?y=%20")
        client.sendall(upload(path, name=name).raw)  # the connection goes on
        assert told(file)["sha256"] == up.sha256
    await_idle(child)


def test_model_last(service: RunningService, child: Child) -> None:
    """A form that names its model last is kept until then, and passed on whole."""
    up = upload(last=True, name="last")
    end = up.raw.rindex(b"up\r\n--B--")
    with talk(service, up.raw[: end + 1]) as (client, file):
        await_stop(lambda: child.facts("last")["received"])
        assert child.facts("last")["begun"] == 0
        client.sendall(up.raw[end + 1 :])

        assert told(file)["sha256"] == up.sha256
    await_idle(child)


@pytest.mark.parametrize("cut", [b'name="mo', b'name="model"\r\n\r\nu', b'name="model"\r\n\r\nup', b"up\r\n--"])
def test_cut_in_the_name(service: RunningService, child: Child, cut: bytes) -> None:
    """A name of which only a part has come is not taken for one, however much has come before it."""
    parts = field("file", FILE[:MiB], '; filename="f"') + field("model", b"up") + field("more", FILE) + b"--B--"
    name = f"cut{len(cut)}"
    raw = post(ROUTE, parts, content_type="multipart/form-data; boundary=B", x_name=name)
    end = raw.index(cut, raw.index(b'name="file"') if cut[:1] == b"n" else raw.index(b'name="model"')) + len(cut)
    with talk(service, raw[:end]) as (client, file):
        await_stop(lambda: child.facts(name)["received"])
        assert child.facts(name)["begun"] == 0
        client.sendall(raw[end:-5])
        eventually(lambda: child.facts(name)["received"] == len(parts) - 5)
        client.sendall(raw[-5:])

        assert told(file)["sha256"] == hashlib.sha256(parts).hexdigest()
    await_idle(child)


def test_looking_for_a_name_is_cheap() -> None:
    """However small its pieces, a form is not read again and again for the name that comes last: others would wait."""
    looked = 0

    class Counted(Client):
        @property
        def body(self) -> bytes:
            nonlocal looked
            looked += len(super().body)
            return super().body

    size = 32 * MiB
    nothing: Any = None
    target = (ROUTE, ROUTE.encode(), b"")
    headers = [(b"content-type", b"multipart/form-data; boundary=B"), (b"content-length", b"%d" % (2 * size))]
    client = Counted(nothing, "POST", target, headers, version="1.1", address=None, ended=lambda: None)
    config = Config(Path("/"))
    pool: Any = SimpleNamespace(config=config)
    proxy = Proxy(pool, Names(config), peers=Peers(config), in_flight=InFlight(Bus()))
    client.feed(b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n')
    while client.body_size < size:
        client.feed(b"x" * 65536)
        proxy.serve_early(client)

    assert looked < 4 * size


@pytest.mark.parametrize("size", [LARGE_BODY - 400, LARGE_BODY - 1, LARGE_BODY, LARGE_BODY + 1, LARGE_BODY + 70_000])
def test_sizes_about_the_limit(service: RunningService, child: Child, size: int) -> None:
    """Whatever its size, an upload arrives whole."""
    up = upload(file=FILE[:size])
    with talk(service, up.raw) as (_, file):
        assert told(file)["sha256"] == up.sha256
    await_idle(child)


def test_in_chunks(service: RunningService, child: Child) -> None:
    """An upload that does not tell its length is kept, and passed on with one."""
    body = upload().body
    head = upload().raw[: -len(body)]
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece)
        for piece in (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    )
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
    head = b"\r\n".join([lines[0], b"transfer-encoding: chunked", *lines[1:]])
    with talk(service, head + chunks + b"0\r\n\r\n") as (_, file):
        seen = told(file)

    assert (seen["bytes"], seen["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    await_idle(child)


def test_upload_with_leave(service: RunningService, child: Child) -> None:
    """A client that asks before it uploads is told to go on, and once."""
    up = upload()
    head = up.raw[: up.head_size].replace(b"x-do:", b"expect: 100-continue\r\nx-do:")
    with talk(service, head) as (client, file):
        assert read_answer(file).status == 100
        client.sendall(up.body)
        assert told(file)["sha256"] == up.sha256
    await_idle(child)


def test_pipelined_behind_an_upload(service: RunningService, child: Child) -> None:
    """What comes behind an upload on the same connection is the next request, not a part of it."""
    up = upload(name="first")
    with talk(service, up.raw + post(DIRECT, b"second")) as (_, file):
        assert told(file)["sha256"] == up.sha256
        assert told(file)["sha256"] == hashlib.sha256(b"second").hexdigest()
    await_idle(child)


# What is refused.


@pytest.mark.parametrize("last", [True, False])
def test_wrong_name(service: RunningService, child: Child, last: bool) -> None:
    """A name that nothing has is a 404, wherever in a large form it is."""
    with talk(service, upload(model="upp", last=last).raw) as (client, file):
        answer = read_answer(file)
        assert answer.status == 404
        assert "did you mean `up`" in answer.error["message"]
        client.sendall(upload().raw)
        assert read_answer(file).status == 200
    await_idle(child)


def test_more_than_announced(service: RunningService, child: Child) -> None:
    """Bytes beyond the length are no part of an upload; it is answered, and then the connection ends."""
    up = upload()
    with talk(service, up.raw + b"and more of it\r\n\r\n") as (_, file):
        assert told(file)["sha256"] == up.sha256
        assert file.read() == b""
    await_idle(child)


def test_less_than_announced(service: RunningService, child: Child) -> None:
    """A client that leaves half-way is noticed: the child sees its connection end, and nothing is held any more."""
    up = upload(name="less")
    with talk(service, up.raw[: 2 * MiB]):
        eventually(lambda: child.facts("less")["received"] == 2 * MiB - up.head_size)
        assert child.requests() == 1
    eventually(lambda: child.facts("less")["gone"] == 1)
    await_idle(child)


@pytest.mark.parametrize("path", [ROUTE, DIRECT])
@pytest.mark.parametrize("do", ["refuse", "refuse-unread"])
def test_answer_before_the_end(service: RunningService, child: Child, do: str, path: str) -> None:
    """A child may answer before it has got all; its client gets to that answer, however much it still sends."""
    name = f"{do}{len(path)}"
    up = upload(path, file=b"x" * 32 * MiB, do=do, name=name)
    with talk(service, up.raw[:MiB]) as (client, file):
        answer = read_answer(file)
        assert (answer.status, answer.body) == (413, b"no")
        assert answer.headers["connection"] == "close"
        client.sendall(up.raw[MiB:])  # a client that reads only when it has sent everything
        assert file.read() == b""
    child.go(name)
    await_idle(child)


def test_refused_while_all_is_sent(service: RunningService, child: Child) -> None:
    """The same for a client that looks for its answer only when it has sent everything."""
    up = upload(file=b"x" * 32 * MiB, do="refuse-unread", name="blind")
    with talk(service, up.raw) as (_, file):
        assert read_answer(file).status == 413
    child.go("blind")
    await_idle(child)


def test_child_closes_in_the_middle(service: RunningService, child: Child) -> None:
    """A child that closes on an upload is a 502 for who still sends; the upload is not tried again."""
    up = upload(file=b"x" * 32 * MiB, do="close", name="closes")
    with talk(service, up.raw) as (_, file):
        assert read_answer(file).status == 502
    assert child.facts("closes")["begun"] == 1
    await_idle(child)


def test_model_that_fails(start: Callable[..., RunningService]) -> None:
    """An upload to a model that cannot start is answered, though its client only sends for now."""
    service = start(f"[models.up]\ncmd = {fake_cmd('--exit-with', '7', '--stderr', 'oh')}")
    with talk(service, upload(file=b"x" * 32 * MiB).raw) as (_, file):
        answer = read_answer(file)

    assert answer.status == 503
    assert answer.error["type"] == "model_failed_to_start"


# Pace.


def test_upload_to_a_cold_model(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """While a model loads, its upload is not read: it waits at the client, not in our memory."""
    ready = tmp_path / "ready"
    service = start(f"[models.up]\ncmd = {fake_cmd('--ready-file', str(ready))}")
    up = upload(file=b"x" * 64 * MiB, do="mirror")
    with talk(service, up.raw[:100]) as (client, file):
        before = rss(service.process.pid)
        sent = 100 + send_until_stuck(client, up.raw[100:])
        assert sent < 32 * MiB
        assert rss(service.process.pid) - before < 16 * MiB
        assert service.model("up")["state"] == "loading"
        ready.touch()
        client.sendall(up.raw[sent:])

        answer = read_answer(file)
        assert (answer.status, hashlib.sha256(answer.body).hexdigest()) == (200, up.sha256)
    eventually(lambda: Child(service, "up").requests() == 0)


def test_leaving_while_a_cold_model_loads(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """An upload whose client has left by the time its model is ready leaves nothing behind."""
    ready = tmp_path / "ready"
    service = start(f"[models.up]\ncmd = {fake_cmd('--ready-file', str(ready))}")
    up = upload(file=b"x" * 4 * MiB, name="left")
    with talk(service, up.raw[:MiB]):
        eventually(lambda: service.model("up")["waiting"] == 1)
    ready.touch()
    eventually(lambda: service.model("up")["state"] == "ready")

    eventually(lambda: service.model("up")["waiting"] == 0)
    eventually(lambda: Child(service, "up").requests() == 0)
    assert Child(service, "up").facts("left")["ended"] == 0


def test_child_that_does_not_read(service: RunningService, child: Child) -> None:
    """A child that does not read its upload stops its client, and our memory stays what it was."""
    up = upload(file=b"x" * 64 * MiB, do="stall", name="stall")
    with talk(service, up.raw[:100]) as (client, file):
        before = rss(service.process.pid)
        sent = 100 + send_until_stuck(client, up.raw[100:])
        assert sent < 48 * MiB
        assert rss(service.process.pid) - before < 20 * MiB
        child.go("stall")
        client.sendall(up.raw[sent:])

        assert told(file)["sha256"] == up.sha256
    await_idle(child)


def test_leaving_a_child_that_does_not_read(service: RunningService, child: Child) -> None:
    """A client that leaves while its upload is stopped is noticed once the child reads on, or is gone."""
    up = upload(file=b"x" * 64 * MiB, do="stall", name="stall2")
    with talk(service, up.raw[:100]) as (client, _):
        send_until_stuck(client, up.raw[100:])
    child.go("stall2")
    eventually(lambda: child.facts("stall2")["gone"] == 1)
    await_idle(child)


@pytest.mark.parametrize("path", ["/v1/completions", "/upstream/up/x"])
def test_client_that_does_not_read(service: RunningService, child: Child, path: str) -> None:
    """A client that does not read stops its child, and our memory stays what it was; then it gets all it wants."""
    name = f"endless{len(path)}"
    before = rss(service.process.pid)
    with talk(service, post(path, b'{"model":"up"}', x_do="endless", x_name=name)) as (client, _):
        sent = await_stop(lambda: child.facts(name)["sent"])
        assert sent > 0
        assert rss(service.process.pid) - before < 20 * MiB
        read = 0
        while read < sent + 32 * MiB:
            read += len(client.recv(MiB))
        assert child.facts(name)["sent"] > sent
    eventually(lambda: child.facts(name)["gone"] == 1)
    await_idle(child)


def test_pipelining_without_reading(service: RunningService, child: Child) -> None:
    """A client that sends request after request and reads no answer does not fill our memory, and is served later."""
    count = 800
    with http_to(service.url) as http:
        http.post(DIRECT, headers={"x-do": "medium"}).raise_for_status()
    before = rss(service.process.pid)
    with talk(service, post(DIRECT, b"", x_do="medium", x_name="piped") * count) as (_, file):
        assert await_stop(lambda: child.facts("piped")["ended"]) < count
        assert rss(service.process.pid) - before < 20 * MiB
        assert {len(read_answer(file).body) for _ in range(count)} == {65536}
    await_idle(child)


def test_refusals_without_reading(service: RunningService) -> None:
    """The same for requests that need no child, of which millions fit into a megabyte or two."""
    request = b"GET /upstream/nobody/" + b"x" * 150 + b" HTTP/1.1\r\nhost: x\r\n\r\n"
    before = rss(service.process.pid)
    with talk(service, request) as (client, _):
        send_until_stuck(client, request * 200_000)
        assert rss(service.process.pid) - before < 20 * MiB


def test_answers_after_a_stop(service: RunningService, child: Child) -> None:
    """A child's connection serves on after a client that was slow with the end of its answer."""
    for _ in range(3):
        with talk(service, post(DIRECT, b"", x_do="large")) as (client, file):
            eventually(lambda: select.select([client], [], [], 0)[0])
            assert len(read_answer(file).body) == 16 * MiB
        with talk(service, post(DIRECT, b"next")) as (_, file):
            assert told(file)["bytes"] == 4
    await_idle(child)
