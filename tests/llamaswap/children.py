"""`child.py` from outside: asking one directly, and running one of our own."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.conftest import DEADLINE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = Path(__file__).with_name("child.py")
PORTS = 16
"""How many models with a port a config may have."""


def free_ports(count: int = PORTS) -> int:
    """The first of so many ports in a row that nobody listens on, below those the system hands out."""
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


@dataclass(frozen=True)
class Server:
    """A `child.py` asked directly."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _ask(self, method: str, path: str) -> httpx.Response:
        with httpx.Client(timeout=DEADLINE, trust_env=False, verify=False) as client:
            return client.request(method, f"{self.url}{path}")

    def facts(self, name: str) -> dict[str, Any]:
        """What became of the requests with this `x-name`."""
        facts: dict[str, Any] = self._ask("GET", f"/facts/{name}").json()
        return facts

    def about(self) -> dict[str, Any]:
        about: dict[str, Any] = self._ask("GET", "/about-us").json()
        return about

    def go(self, name: str) -> None:
        """Let the requests with this `x-name` go on, those to come too."""
        self._ask("POST", f"/go/{name}").raise_for_status()

    def set_health(self, status: int) -> None:
        """As soon as it listens."""

        def is_set() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return self._ask("POST", f"/health-is/{status}").is_success
            return False

        eventually(is_set)

    def end(self) -> None:
        """Let it exit as if by itself."""
        with contextlib.suppress(httpx.TransportError):
            self._ask("POST", "/end")


@contextlib.contextmanager
def running_server(*arguments: str) -> Iterator[Server]:
    """A `child.py` of our own, for peers and for `proxy` to point at."""
    server = Server(free_ports(1))
    process = subprocess.Popen([sys.executable, CHILD, "--port", str(server.port), *arguments])
    try:

        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return bool(server.about())
            return False

        eventually(answers)
        yield server
    finally:
        process.kill()
        process.wait()
