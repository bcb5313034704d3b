"""Who listens on a port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from supervisor.runtime.ports import listener_of


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_listener_is_named(family: socket.AddressFamily, host: str) -> None:
    """With its pid, so that the owner can end it."""
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listener.listen()
        found = listener_of(listener.getsockname()[1])

    assert found is not None
    assert found.endswith(f"(pid {os.getpid()})")


def test_another_process_is_named() -> None:
    """Not only our own sockets are looked at."""
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        found = listener_of(int(process.stdout.readline()))
        process.stdin.write("\n")
        process.stdin.close()

    assert found is not None
    assert found.startswith("python")
    assert found.endswith(f"(pid {process.pid})")


def test_nobody_is_nobody() -> None:
    """A port that is bound but not listened on holds nothing up, nor does one that is free."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]

        assert listener_of(port) is None

    assert listener_of(port) is None


def test_a_client_of_that_port_is_not_its_listener() -> None:
    """Connections have the same port in their rows; only who listens is meant."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.close()

            assert listener_of(port) is None
