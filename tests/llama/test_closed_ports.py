"""Which llama-servers get a key of ours, and which have their owner's, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config.values import Model
from supervisor.llama.command import Surroundings, llama_command, raw_command
from supervisor.llama.endpoint import TcpEndpoint, UnixEndpoint

AROUND = Surroundings(Path("/base"), Path("/home/me"), {"LLAMA_API_KEY": "of our own environment"}, Path("/run/x"))
BINARY = Path("/bin/llama-server")


@pytest.mark.parametrize(
    ("model", "endpoint", "variable", "key"),
    [
        (Model("m"), TcpEndpoint(1), "random", "random"),
        (Model("m"), UnixEndpoint(Path("/run/x/1.sock")), None, None),
        (Model("m", options={"api-key": "theirs"}), TcpEndpoint(1), "theirs", None),
        (Model("m", options={"api-key-file": "keys"}), TcpEndpoint(1), None, None),
        (Model("m", env={"LLAMA_API_KEY": "theirs"}), TcpEndpoint(1), "theirs", None),
        (Model("m", env={"LLAMA_API_KEY": ""}), TcpEndpoint(1), "", None),
    ],
)
def test_ours(model: Model, endpoint: TcpEndpoint | UnixEndpoint, variable: str | None, key: str | None) -> None:
    """On TCP a key that only we know, unless its owner says otherwise; it is in no argv and no repr."""
    command = llama_command(model, AROUND, binary=BINARY, catalogue=None, endpoint=endpoint, key="random")

    assert (command.env.get("LLAMA_API_KEY"), command.api_key) == (variable, key)
    assert "random" not in " ".join(command.argv)


@pytest.mark.parametrize(
    ("model", "program", "key"),
    [
        (Model("m", cmd=("llama-server", "--port", "1")), BINARY, "random"),
        (Model("m", cmd=("whisper-server", "--port", "1")), None, None),
        (Model("m", cmd=("llama-server", "--api-key", "theirs")), BINARY, None),
        (Model("m", cmd=("llama-server", "--api-key=theirs")), BINARY, None),
        (Model("m", cmd=("llama-server", "--api-key-file", "k")), BINARY, None),
        (Model("m", cmd=("llama-server",), env={"LLAMA_API_KEY": ""}), BINARY, None),
        (Model("m", cmd=("llama-server",), env={"LLAMA_ARG_API_KEY_FILE": "k"}), BINARY, None),
        (Model("m", cmd=("llama-server",), proxy="http://127.0.0.1:7"), BINARY, "random"),
        (Model("m", cmd=("llama-server",), proxy="http://10.0.0.7:7"), BINARY, None),
    ],
)
def test_commands(model: Model, program: Path | None, key: str | None) -> None:
    """The same for commands that start a llama-server on this machine, and for no other program."""
    command = raw_command(model, AROUND, port=1, program=program, key="random")

    assert command.api_key == key
    assert (command.env.get("LLAMA_API_KEY") == "random") is (key == "random")
