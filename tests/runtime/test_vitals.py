"""Which processes belong to a child that is a mere wrapper."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from supervisor.llama.command import Command
from supervisor.llama.endpoint import TcpEndpoint
from supervisor.runtime.process import Process
from supervisor.runtime.vitals import family_of, signs_of_family
from tests.conftest import alive, eventually

pytestmark = pytest.mark.anyio

WITH_JOB_CONTROL = "set -m; sleep 60 & echo $! ; wait"
WITHOUT_ITS_PARENT = "(sleep 60 & echo $!); exec sleep 60"


@pytest.mark.parametrize("script", [WITH_JOB_CONTROL, WITHOUT_ITS_PARENT], ids=["other group", "other parent"])
async def test_a_server_is_of_its_wrappers_family(script: str) -> None:
    """Be it started in a group of its own, or by somebody who has gone since."""
    said: list[bytes] = []
    heard = anyio.Event()

    def hear(_: str, text: bytes) -> None:
        said.append(text)
        heard.set()

    argv = ("/bin/bash", "-c", script)
    command = Command(argv, dict(os.environ), Path("/"), TcpEndpoint(1), speaks_protocol=False)
    process = Process(command, hear)
    try:
        await heard.wait()
        server = int(b"".join(said))

        assert {process.pid, server} <= set(family_of(process.pid))
        assert os.getpid() not in family_of(process.pid)
        assert signs_of_family(process.pid) != ()
    finally:
        process.signal_group(signal.SIGKILL)
        await process.wait()
        if alive(server):
            os.kill(server, signal.SIGKILL)
    eventually(lambda: not alive(server))
    assert not any(map(alive, family_of(process.pid)))
