"""What systemd is told, and what it hands over: with a datagram socket and listeners of our own in its place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from supervisor import systemd
from supervisor.systemd import Notifier, Offer, SocketUnusable, notified, offer_in, take_offer, take_sockets
from tests.conftest import DEADLINE, RunningService, running_service
from tests.proxy.tls import server_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ACTIVATE = """
import os, sys
count = int(sys.argv[1])
held = [os.dup(int(number)) for number in sys.argv[2 : 2 + count]]
held = [os.dup2(number, 100 + place) for place, number in enumerate(held)]
for place, number in enumerate(held):
    os.dup2(number, 3 + place)
    os.close(number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count)}
os.execv(sys.argv[2 + count], sys.argv[2 + count :])
"""
"""What systemd does between fork and exec: the sockets are the files from 3 on, and the pid is the service's own."""


class Init:
    """Systemd's end of the notify socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(DEADLINE)

    def next(self) -> str:
        return self.socket.recv(4096).decode()

    def until(self, wanted: str) -> list[str]:
        """The messages up to the first that begins so."""
        messages = [self.next()]
        while not messages[-1].startswith(wanted):
            messages.append(self.next())
        return messages

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long. Whoever calls this in a loop blocks it."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(DEADLINE)
        return False

    def drain(self) -> None:
        """Forget what has come."""
        with contextlib.suppress(BlockingIOError):
            self.socket.setblocking(False)
            while True:
                self.socket.recv(4096)
        self.socket.settimeout(DEADLINE)


@pytest.fixture(params=["path", "abstract"])
def init(request: pytest.FixtureRequest) -> Iterator[Init]:
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/notify" if request.param == "path" else f"@llama-supervise-test-{os.getpid()}"
        heard = Init(address)
        yield heard
        heard.socket.close()


# What is offered.


@pytest.mark.parametrize(
    ("environ", "offer"),
    [
        ({}, Offer()),
        ({"NOTIFY_SOCKET": ""}, Offer()),
        ({"NOTIFY_SOCKET": "/run/x"}, Offer(notify="/run/x")),
        ({"WATCHDOG_USEC": "30000000"}, Offer(watchdog_seconds=30.0)),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, Offer(watchdog_seconds=30.0)),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, Offer()),
        ({"WATCHDOG_USEC": "0"}, Offer()),
        ({"WATCHDOG_USEC": "soon"}, Offer()),
        ({"LISTEN_FDS": "1"}, Offer()),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "8"}, Offer()),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "7"}, Offer(sockets=("unknown",))),
        ({"LISTEN_FDS": "-1", "LISTEN_PID": "7"}, Offer()),
        ({"LISTEN_FDS": "2", "LISTEN_PID": "7", "LISTEN_FDNAMES": "lan:tail"}, Offer(sockets=("lan", "tail"))),
        ({"LISTEN_FDS": "2", "LISTEN_PID": "7", "LISTEN_FDNAMES": "lan"}, Offer(sockets=("unknown", "unknown"))),
    ],
)
def test_offers(environ: dict[str, str], offer: Offer) -> None:
    """An offer counts if it is well-formed and meant for this process."""
    assert offer_in(environ, 7) == offer


def test_an_offer_is_taken_once() -> None:
    """Children see nothing of it."""
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "5", "LISTEN_FDS": "1", "LISTEN_PID": "7", "PATH": "/bin"}

    assert take_offer(environ, 7).notify == "/x"
    assert environ == {"PATH": "/bin"}


def test_sockets_that_cannot_be_served() -> None:
    """What is no listening TCP socket is named, with what it is."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket() as silent,
        Path("/dev/null").open() as file,
    ):
        for number, found in [
            (datagrams.fileno(), "of the type SOCK_DGRAM"),
            (unix.fileno(), "of the family AF_UNIX"),
            (silent.fileno(), "a connection that is open already"),
            (file.fileno(), "Socket operation on non-socket"),
        ]:
            with pytest.raises(SocketUnusable, match=f"`api` .*{found}"):
                systemd._socket("api", os.dup(number))


# What is told.


def test_messages(init: Init) -> None:
    """Every message has the form that sd_notify(3) asks for."""
    with Notifier(init.address, clock_ns=lambda: 5_000_999) as notifier:
        notifier.ready()
        notifier.reloading()
        notifier.reloaded()
        notifier.status("loaded: a\nREADY=1")
        notifier.alive()
        notifier.stopping(55.0)

    assert [init.next() for _ in range(6)] == [
        "READY=1",
        "RELOADING=1\nMONOTONIC_USEC=5000",
        "READY=1",
        "STATUS=loaded: a?READY=1",
        "WATCHDOG=1",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=55000000",
    ]


def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    """Without an address nothing is sent; with one where nobody is, the log says so once and the service goes on."""
    with Notifier(None) as notifier:
        notifier.ready()

    assert caplog.messages == []
    with Notifier("/nonexistent/notify") as notifier:
        notifier.ready()
        notifier.alive()

    assert caplog.messages == ["systemd could not be told `READY=1`: No such file or directory"]


@pytest.mark.anyio
async def test_the_watchdog_is_the_loop(init: Init) -> None:
    """Signs of life come from the loop itself: while it is blocked there are none, and then there are again."""
    async with notified(Offer(notify=init.address, watchdog_seconds=0.02)):
        assert await asyncio.to_thread(init.next) == "WATCHDOG=1"
        assert await asyncio.to_thread(init.next) == "WATCHDOG=1"

        init.drain()
        assert init.is_silent(0.2)  # waits in the loop's own thread

        assert await asyncio.to_thread(init.next) == "WATCHDOG=1"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_sign_of_life_may_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are two in the time after which systemd takes the service for dead, as sd_watchdog_enabled(3) asks."""
    pauses: list[float] = []
    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patched:
        patched.setattr(loop, "call_later", lambda seconds, again: pauses.append(seconds) or loop.call_soon(again))
        async with notified(Offer(notify="@nobody", watchdog_seconds=30.0)):
            patched.undo()

    assert pauses == [15.0]


@pytest.mark.anyio
async def test_status_is_not_told_too_often(init: Init) -> None:
    """The first change is told at once, what follows quickly in one message."""
    words: list[str] = []
    with Notifier(init.address) as notifier:
        status = systemd._Status(notifier, lambda: words[-1])
        for word in ("one", "two", "three"):
            words.append(word)
            status.changed()

        assert init.next() == "STATUS=one"
        assert await asyncio.to_thread(init.next) == "STATUS=three"
        assert init.is_silent(0.01)


# A whole service.


def config(tiny: Path, server: str = "") -> str:
    return f"""
    [server]
    {server}
    [defaults]
    ctx-size = 256
    fit = "off"
    [models.one]
    model = "{tiny}/tiny-a.gguf"
    """


def test_a_service_and_systemd(start: Callable[..., RunningService], tiny: Path, init: Init) -> None:
    """READY once it can be asked, STATUS as models come, WATCHDOG while it lives, STOPPING with the time it takes."""
    environ = {"NOTIFY_SOCKET": init.address, "WATCHDOG_USEC": "200000"}
    heard: list[str] = []
    first = threading.Thread(target=lambda: heard.extend(init.until("READY=1")))
    first.start()
    service = start(config(tiny, 'drain_timeout = "20s"\nstop_timeout = "5s"'), env=environ)
    first.join(DEADLINE)

    assert heard[-1] == "READY=1"
    assert "STATUS=no model is loaded" in heard
    service.chat("one")
    init.until("STATUS=loaded: one")
    child = Path(f"/proc/{service.pid('one')}/environ").read_bytes()
    assert not any(name in child for name in (b"NOTIFY_SOCKET", b"WATCHDOG_USEC"))

    service.process.send_signal(signal.SIGSTOP)
    init.drain()
    assert init.is_silent(0.5)
    service.process.send_signal(signal.SIGCONT)
    init.until("WATCHDOG=1")

    service.process.send_signal(signal.SIGHUP)
    reload = init.until("READY=1")
    assert [told.split("\n")[0] for told in reload if told.startswith(("RELOADING", "READY"))] == [
        "RELOADING=1",
        "READY=1",
    ]

    assert service.stop() == 0
    assert init.until("STOPPING=1")[-1] == "STOPPING=1\nEXTEND_TIMEOUT_USEC=43000000"


def test_where_it_hung_is_told(start: Callable[..., RunningService], tiny: Path) -> None:
    """The signal that systemd sends when signs of life do not come leaves a traceback in the journal."""
    service = start(config(tiny), env={"WATCHDOG_USEC": "200000"})
    service.process.send_signal(signal.SIGABRT)

    assert service.process.wait(DEADLINE) == -signal.SIGABRT
    told = (service.directory / "service.log").read_text()
    assert "Fatal Python error: Aborted" in told
    assert "supervisor/server.py" in told


def test_ready_means_that_it_listens(start: Callable[..., RunningService], tiny: Path, init: Init) -> None:
    """A request made at READY is served, and READY is said once."""
    answers = []

    def ask(address: socket.socket) -> None:
        init.until("READY=1")
        host, port = address.getsockname()
        answers.append(httpx.get(f"http://{host}:{port}/health", trust_env=False).status_code)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asking = threading.Thread(target=ask, args=[listener])
        asking.start()
        start(config(tiny), env={"NOTIFY_SOCKET": init.address}, **activated(listener))
        asking.join(DEADLINE)

    assert answers == [200]


# Sockets that are handed over.


def activated(*sockets: socket.socket) -> dict[str, object]:
    """How a service is started to which these are handed over."""
    numbers = [each.fileno() for each in sockets]
    wrapper = [sys.executable, "-c", ACTIVATE, str(len(numbers)), *map(str, numbers)]
    return {"wrapper": wrapper, "files": numbers}


def test_sockets_are_taken_over(start: Callable[..., RunningService], tiny: Path) -> None:
    """Every socket that is handed over is served, and `listen` is not used; children have none of them."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        service = start(config(tiny), **activated(one, two))
        ports = [each.getsockname()[1] for each in (one, two)]

        for port in ports:
            assert httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
        assert service.url.endswith(str(ports[1]))
        service.chat("one")
        held = {str(link.readlink()) for link in Path(f"/proc/{service.pid('one')}/fd").iterdir()}
        assert held.isdisjoint(f"socket:[{os.fstat(each.fileno()).st_ino}]" for each in (one, two))


def test_connections_wait_for_the_next_service(tmp_path: Path, tiny: Path) -> None:
    """Who connects while no service runs is served by the one that starts next."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with running_service(tmp_path / "first", config(tiny), **activated(listener)) as service:  # type: ignore[arg-type]
            assert service.stop() == 0
        with socket.create_connection(listener.getsockname(), timeout=DEADLINE) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            with running_service(tmp_path / "second", config(tiny), **activated(listener)):  # type: ignore[arg-type]
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_tls_on_a_socket_that_was_handed_over(start: Callable[..., RunningService], tiny: Path, tmp_path: Path) -> None:
    """A certificate holds for these sockets as well."""
    _, certificate = server_context(tmp_path)
    files = f'tls_cert_file = "{certificate}"\ntls_key_file = "{tmp_path / "key.pem"}"'
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service = start(config(tiny, files), **activated(listener))
        trusting = ssl.create_default_context(cafile=str(certificate))

        assert service.url.startswith("https://")
        url = f"https://localhost:{listener.getsockname()[1]}/health"
        assert httpx.get(url, verify=trusting, trust_env=False).status_code == 200


def test_a_socket_that_is_none(tmp_path: Path, tiny: Path) -> None:
    """A service that cannot serve what it was given says what that is, and ends with 2."""
    (tmp_path / "models.toml").write_text(config(tiny))
    with socket.socket(socket.AF_UNIX) as wrong:
        wrong.bind(f"{tmp_path}/s")
        wrong.listen()
        start_it = activated(wrong)
        command = [Path(sys.executable).parent / "llama-supervise", "-c", tmp_path / "models.toml"]
        ended = asyncio.run(_run([*start_it["wrapper"], *command], wrong.fileno()))  # type: ignore[misc]

    assert ended[0] == 2
    assert "the socket `unknown` that systemd has handed over cannot be used: it is of the family AF_UNIX" in ended[1]


async def _run(command: list[str | Path], number: int) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command, pass_fds=[number], stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    return process.returncode, errors.decode()


def test_take_nothing() -> None:
    """Without an offer there are no sockets."""
    assert take_sockets(Offer()) == []
