"""Servers that `cmd` starts: where they listen, when they are ready, and how they are stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.config.values import Config, Model, Server, Transport
from supervisor.errors import SupervisorError
from supervisor.llama.command import Surroundings, raw_command
from supervisor.llama.endpoint import HttpEndpoint, TcpEndpoint
from supervisor.llama.preflight import Inspector
from supervisor.runtime.child import LISTEN_PATIENCE
from supervisor.runtime.health import poll_until_healthy
from supervisor.runtime.launcher import Launcher
from supervisor.runtime.logs import Logs
from supervisor.runtime.pool import Pool
from tests.conftest import DEADLINE, alive
from tests.llamaswap.children import free_ports
from tests.runtime.server_child import Probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from supervisor.errors import Failure
    from supervisor.runtime.live import LiveRun

pytestmark = pytest.mark.anyio

CHILD = (sys.executable, "-S", str(Path(__file__).with_name("server_child.py")))
SLEEPER = (sys.executable, "-S", "-c", "import signal; signal.pause()")
TO_A_FILE = 'import os, sys; open(sys.argv[1], "a").write(f"{sys.argv[2]} {os.getcwd()} {os.environ.get(\'MARK\')}\\n")'
STOP = (sys.executable, "-S", "-c", f"{TO_A_FILE}; print('stopped it')")
STOP_AND_TERM = (sys.executable, "-S", "-c", f"{TO_A_FILE}; os.kill(int(sys.argv[2]), 15)")


def model(*cmd: object, **fields: object) -> Model:
    fields = {"load_timeout": DEADLINE, "transport": Transport.TCP, **fields}
    return Model(id="a", cmd=tuple(map(str, cmd)), **fields)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a process behind."""
    yield
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert [pid for pid in map(int, children) if alive(pid)] == []


def around(tmp_path: Path, **environ: str) -> Surroundings:
    return Surroundings(tmp_path, tmp_path, {**os.environ, **environ}, tmp_path)


@contextlib.asynccontextmanager
async def pool_of(tmp_path: Path, model: Model, *, stop_timeout: float = 10.0, **environ: str) -> AsyncIterator[Pool]:
    config = Config(tmp_path, Server(stop_timeout=stop_timeout), {"a": model})
    surroundings = around(tmp_path, **environ)
    inspector = Inspector(surroundings, cache_dir=None)
    async with Pool(config, Launcher(config, surroundings, inspector=inspector, logs=LOGS)) as pool:
        yield pool


LOGS = Logs(65536)


async def failure_of(pool: Pool) -> Failure:
    with pytest.raises(SupervisorError):
        await pool.load("a")
    return pool.reports["a"]


def live_run(pool: Pool) -> LiveRun:
    live = pool.live("a")
    assert live is not None
    return live


async def until(fact: Callable[[], object]) -> None:
    with anyio.fail_after(DEADLINE):
        while not fact():  # noqa: ASYNC110 - a fact of another process
            await anyio.sleep(0.01)


def note(path: Path) -> dict[str, object]:
    noted: dict[str, object] = json.loads(path.read_text())
    return noted


# Where it listens.


async def test_a_fixed_port_is_the_one_in_its_command(tmp_path: Path) -> None:
    """What the config has fixed is where we ask and send requests."""
    port = free_ports(1)
    fixed = model(*CHILD, "--port", port, port=port, proxy=f"http://localhost:{port}")

    async with pool_of(tmp_path, fixed) as pool:
        await pool.load("a")

        assert live_run(pool).endpoint == TcpEndpoint(port, "localhost")


async def test_a_free_port_is_put_into_every_command_and_the_proxy(tmp_path: Path) -> None:
    """`${PORT}` is the same everywhere."""
    free = model("serve", "${PORT}", cmd_stop=("stop", "${PORT}", "${PID}"), proxy="http://127.0.0.1:${PORT}/base")

    command = raw_command(free, around(tmp_path), port=5801)

    assert command.argv == ("serve", "5801")
    assert command.stop == ("stop", "5801", "${PID}")
    assert command.endpoint == HttpEndpoint("127.0.0.1", 5801, base_path="/base")


@pytest.mark.parametrize(
    ("cmd", "proxy", "address"),
    [
        (("serve", "--port", "${PORT}"), None, ("127.0.0.1", 5801)),
        (("serve", "--port", "${PORT}"), "http://localhost:${PORT}", ("localhost", 5801)),
        (("docker", "run", "-p", "9000:8080", "x"), "http://localhost:9000", ("localhost", 9000)),
        (("docker", "start", "x"), "http://localhost:9000", None),
        (("serve", "--port", "19000"), "http://localhost:9000", None),
        (("serve", "--port", "9000"), "http://10.0.0.2:9000", None),
    ],
)
def test_an_address_is_its_own_if_its_command_names_the_port(
    tmp_path: Path, cmd: tuple[str, ...], proxy: str | None, address: tuple[str, int] | None
) -> None:
    """A `proxy` to a server that runs anyway, or elsewhere, is nobody's alone."""
    assert raw_command(model(*cmd, proxy=proxy), around(tmp_path), port=5801).address == address


async def test_the_probe_goes_below_the_path_of_the_proxy(tmp_path: Path) -> None:
    """`check_endpoint` comes on top of the base path."""
    below = model(*CHILD, "--port", "${PORT}", "--path", "/base/ok", proxy="http://localhost:${PORT}/base/")

    async with pool_of(tmp_path, replace(below, check_endpoint="/ok")) as pool:
        await pool.load("a")

        assert str(live_run(pool).endpoint).endswith("/base")


async def test_its_environment_is_ours_and_its_own(tmp_path: Path) -> None:
    """Another server keeps the user's settings; what would change a llama-server behind its config is left out."""
    served = model(*CHILD, "--port", "${PORT}", "--note", tmp_path / "note", env={"OWN": "1"})

    async with pool_of(tmp_path, served, XDG_CONFIG_HOME="/the/users", LLAMA_ARG_CTX_SIZE="1") as pool:
        await pool.load("a")

    env = note(tmp_path / "note")["env"]
    assert isinstance(env, dict)
    assert (env["OWN"], env["XDG_CONFIG_HOME"]) == ("1", "/the/users")
    assert not {"LLAMA_ARG_CTX_SIZE", "LLAMA_SERVER_ROUTER_PORT"} & env.keys()


# When it is ready.


@pytest.mark.parametrize(
    ("cmd", "at_least"), [((*SLEEPER,), 0.0), ((*SLEEPER, "${PORT}"), LISTEN_PATIENCE)], ids=["elsewhere", "here"]
)
async def test_for_llama_swap_none_is_ready_unasked(tmp_path: Path, cmd: tuple[str, ...], at_least: float) -> None:
    """Even if nobody ever listens; the child itself gets a moment to."""
    unchecked = model(*cmd, proxy="http://localhost:${PORT}", check_endpoint="")

    async with pool_of(tmp_path, unchecked) as pool:
        before = time.monotonic()
        await pool.load("a")

        assert at_least <= time.monotonic() - before < at_least + 4


@pytest.mark.parametrize("check_endpoint", ["none", ""], ids=["models.toml", "llama-swap"])
async def test_without_a_check_a_connection_is_enough(tmp_path: Path, check_endpoint: str) -> None:
    """A server that does not listen yet would refuse the first request; what it would answer to a probe is nobody's."""
    waits = model(*CHILD, "--port", "${PORT}", "--when", tmp_path / "now", "--status", 503)
    waits = replace(waits, check_endpoint=check_endpoint)

    async with pool_of(tmp_path, waits) as pool:
        pool.start_loading("a")
        await until(lambda: pool.live("a") and live_run(pool).pid)
        child = live_run(pool).child
        assert child is not None
        assert not child.is_ready
        (tmp_path / "now").touch()
        await pool.load("a")


@pytest.mark.parametrize(("status", "cause"), [(503, "load_too_long"), (404, "check_endpoint_wrong")])
async def test_the_limit_holds_whatever_it_answers(tmp_path: Path, status: int, cause: str) -> None:
    """A server that answers, but never 200, is given up in time, with what it answered as the reason."""
    never = model(*CHILD, "--port", "${PORT}", "--status", status, load_limit=0.5, load_timeout=2.0)

    async with pool_of(tmp_path, never) as pool:
        assert (await failure_of(pool)).cause == cause


async def test_a_probe_that_hangs_is_given_up() -> None:
    """The next one may be answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answers = threading.Thread(target=answer_the_second, args=(listener,))
        answers.start()
        with anyio.fail_after(DEADLINE):
            status = await poll_until_healthy(TcpEndpoint(port), "/health", patience=DEADLINE, probe_seconds=0.1)
        answers.join()

    assert status == 200


def answer_the_second(listener: socket.socket) -> None:
    with listener.accept()[0], listener.accept()[0] as second:
        second.recv(4096)
        second.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


# Who else listens there.


@contextlib.contextmanager
def stranger(port: int = 0) -> Iterator[int]:
    """A healthy server of ours."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Probe)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_taken_port_is_a_failure_before_the_spawn(tmp_path: Path) -> None:
    """Who holds it is named, and nothing is started."""
    with stranger() as port:
        wants = model(*CHILD, "--port", port, "--note", tmp_path / "note", port=port)

        async with pool_of(tmp_path, wants) as pool:
            failure = await failure_of(pool)

    assert failure.cause == "listen_address_taken"
    assert f"port {port}" in failure.message
    assert f"(pid {os.getpid()}) listens there" in failure.hint
    assert not failure.permanent
    assert not (tmp_path / "note").exists()


async def test_a_stranger_is_not_taken_for_the_child(tmp_path: Path) -> None:
    """Whoever begins to listen there while the child loads does not get its requests."""
    port = free_ports(1)
    slow = model(*CHILD, "--port", port, "--when", tmp_path / "never", port=port)

    async with pool_of(tmp_path, slow) as pool:
        pool.start_loading("a")
        await until(lambda: pool.live("a") and live_run(pool).pid)
        with stranger(port):
            await until(lambda: "a" in pool.reports)

    assert pool.reports["a"].cause == "listen_address_taken"
    assert f"(pid {os.getpid()})" in pool.reports["a"].hint


async def test_a_child_that_lost_the_race_for_its_port_says_so(tmp_path: Path) -> None:
    """Its own words, which we do not know, are not all there is."""
    port = free_ports(1)
    slow = model(*CHILD, "--port", port, "--when", tmp_path / "now", "--path", "/x", port=port, check_endpoint="/x")

    async with pool_of(tmp_path, slow) as pool:
        pool.start_loading("a")
        await until(lambda: pool.live("a") and live_run(pool).pid)
        with stranger(port):
            (tmp_path / "now").touch()
            await until(lambda: "a" in pool.reports)

    assert pool.reports["a"].cause == "listen_address_taken"
    assert f"(pid {os.getpid()})" in pool.reports["a"].hint


async def test_a_proxy_to_a_server_that_runs_anyway_is_used(tmp_path: Path) -> None:
    """Where the command does not name the port, somebody else is meant."""
    with stranger() as port:
        async with pool_of(tmp_path, model(*SLEEPER, proxy=f"http://localhost:{port}")) as pool:
            await pool.load("a")


async def test_a_server_that_left_the_tree_of_its_child_is_known(tmp_path: Path) -> None:
    """A wrapper may start it in a session of its own and let go of it."""
    port = free_ports(1)
    daemon = model(*CHILD, "--port", port, "--daemon", "--note", tmp_path / "note", port=port)

    async with pool_of(tmp_path, daemon) as pool:
        await pool.load("a")
        pid = int(str(note(tmp_path / "note")["pid"]))

        assert pid != live_run(pool).pid
        os.kill(pid, 9)
    await until(lambda: not alive(pid))


# How it is stopped.


def stops(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


async def test_cmd_stop_stops_it(tmp_path: Path) -> None:
    """It gets the pid, the child's environment and directory, and its output is in the model's log."""
    stop = (*STOP_AND_TERM[:-1], f"{STOP_AND_TERM[-1]}; print('it is told')", tmp_path / "stops", "${PID}")
    stopped = model(*CHILD, "--port", "${PORT}", cmd_stop=tuple(map(str, stop)), env={"MARK": "its-own"})

    async with pool_of(tmp_path, stopped) as pool:
        await pool.load("a")
        pid = live_run(pool).pid
        await pool.unload("a")

    assert stops(tmp_path / "stops") == [[str(pid), str(tmp_path), "its-own"]]
    assert "it is told" in [line.text for line in LOGS.of("a").lines()]


async def test_a_cmd_stop_that_fails_is_a_warning_and_sigterm_follows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for what cannot come."""
    caplog.set_level(logging.WARNING, logger="supervisor")
    failing = (sys.executable, "-S", "-c", "import sys; sys.exit(3)", "--api-key", "sk-secret")

    async with pool_of(tmp_path, model(*CHILD, "--port", "${PORT}", cmd_stop=failing)) as pool:
        await pool.load("a")
        before = time.monotonic()
        await pool.unload("a")

    assert time.monotonic() - before < 5
    assert "ended with code 3" in caplog.text
    assert "sk-secret" not in caplog.text


async def test_a_cmd_stop_that_cannot_be_run_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is stopped all the same."""
    caplog.set_level(logging.WARNING, logger="supervisor")

    async with pool_of(tmp_path, model(*CHILD, "--port", "${PORT}", cmd_stop=("/nonexistent/stop",))) as pool:
        await pool.load("a")
        await pool.unload("a")

    assert "/nonexistent/stop" in caplog.text


async def test_what_does_not_leave_is_killed_and_cmd_stop_is_run_again(tmp_path: Path) -> None:
    """A killed client of a container leaves that behind."""
    stop = (*STOP, str(tmp_path / "stops"), "${PID}")
    stubborn = model(*CHILD, "--port", "${PORT}", cmd_stop=stop, unload_timeout=0.5)

    async with pool_of(tmp_path, stubborn) as pool:
        await pool.load("a")
        pid = live_run(pool).pid
        await pool.unload("a")

        assert pid is not None
        assert not alive(pid)
    assert [words[0] for words in stops(tmp_path / "stops")] == [str(pid), str(pid)]


async def test_a_cmd_stop_that_hangs_is_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The stop takes no longer than it may, and neither of the two stays."""
    caplog.set_level(logging.WARNING, logger="supervisor")

    async with pool_of(tmp_path, model(*CHILD, "--port", "${PORT}", cmd_stop=SLEEPER, unload_timeout=0.2)) as pool:
        await pool.load("a")
        pid = live_run(pool).pid
        with anyio.fail_after(DEADLINE):
            await pool.unload("a")

    assert pid is not None
    assert not alive(pid)
    assert "did not end within 0.2 s" in caplog.text


async def test_one_that_is_killed_while_it_loads_is_stopped_too(tmp_path: Path) -> None:
    """Its container is on its way already."""
    stop = (*STOP, str(tmp_path / "stops"), "${PID}")
    loading = model(*CHILD, "--port", "${PORT}", "--when", tmp_path / "never", cmd_stop=stop)

    async with pool_of(tmp_path, loading) as pool:
        pool.start_loading("a")
        await until(lambda: pool.live("a") and live_run(pool).pid)
        pid = live_run(pool).pid
        await pool.unload("a", force=True)

    assert [words[0] for words in stops(tmp_path / "stops")] == [str(pid)]


async def test_one_that_is_given_up_is_stopped_too(tmp_path: Path) -> None:
    """A load that takes too long ends in the same way."""
    stop = (*STOP, str(tmp_path / "stops"), "${PID}")
    never = model(*CHILD, "--port", "${PORT}", "--status", 503, cmd_stop=stop, load_limit=0.5)

    async with pool_of(tmp_path, never) as pool:
        assert (await failure_of(pool)).cause == "load_too_long"

    assert len(stops(tmp_path / "stops")) == 1


@pytest.mark.parametrize(("unload_timeout", "stop_timeout"), [(0.3, 60.0), (None, 0.3)])
async def test_sigterm_is_followed_by_sigkill(
    tmp_path: Path, unload_timeout: float | None, stop_timeout: float
) -> None:
    """After the model's `unload_timeout`, else the server's `stop_timeout`."""
    stubborn = model(*CHILD, "--port", "${PORT}", "--ignore-term", unload_timeout=unload_timeout)

    async with pool_of(tmp_path, stubborn, stop_timeout=stop_timeout) as pool:
        await pool.load("a")
        before = time.monotonic()
        await pool.unload("a")

    assert 0.3 <= time.monotonic() - before < 10


# A llama-server as `cmd`.


@pytest.mark.parametrize("cmd_stop", [(), ("kill", "${PID}")])
async def test_a_llama_server_reports_how_it_loads(
    tmp_path: Path, tiny: Path, binary: Path, cmd_stop: tuple[str, ...]
) -> None:
    """It listens where it was told, tells of itself, and leaves at once, even if SIGTERM alone would hang it."""
    options = ("-m", tiny / "tiny-a.gguf", "-c", "256", "--host", "127.0.0.1", "--port", "${PORT}")
    native = model(binary, *options, cmd_stop=cmd_stop)

    async with pool_of(tmp_path, native) as pool:
        await pool.load("a")
        live = live_run(pool)
        before = time.monotonic()
        await pool.unload("a")

    assert isinstance(live.endpoint, TcpEndpoint)
    assert live.ready_payload["meta"]
    assert time.monotonic() - before < 5
    assert live.pid is not None
    assert not alive(live.pid)


async def test_a_llama_server_that_cannot_start_says_why(tmp_path: Path, tiny: Path, wheel_binary: Path) -> None:
    """The catalogue knows its words."""
    broken = model(wheel_binary, "-m", tiny / "broken-unknown-arch.gguf", "--port", "${PORT}")

    async with pool_of(tmp_path, broken) as pool:
        assert (await failure_of(pool)).cause == "unknown_architecture"


def test_a_router_gets_no_child_protocol(tmp_path: Path, wheel_binary: Path) -> None:
    """A llama-server without a model of its own says nothing on stdout."""
    router = model(wheel_binary, "--models-dir", "/models", "--port", "${PORT}")

    command = raw_command(router, around(tmp_path), port=5801, program=wheel_binary)

    assert not command.speaks_protocol
    assert "LLAMA_SERVER_ROUTER_PORT" not in command.env


def test_a_wrapper_is_no_llama_server(tmp_path: Path) -> None:
    """It would hand the protocol on, and hang on SIGTERM."""
    wrapper = tmp_path / "llama-server"
    wrapper.write_text("#!/bin/sh\nexec true\n")
    wrapper.chmod(0o755)
    config = Config(tmp_path)
    surroundings = around(tmp_path)
    launcher = Launcher(config, surroundings, inspector=Inspector(surroundings, cache_dir=None), logs=Logs(0))
    wrapped = model("./llama-server", "-m", "x", "--port", "${PORT}")

    command = launcher.commands.of(wrapped, anyio.run(Inspector(surroundings, cache_dir=None).inspect, wrapped), run=1)

    assert command.argv[0] == str(wrapper)
    assert not command.speaks_protocol
    assert subprocess.run(command.argv, check=False).returncode == 0
