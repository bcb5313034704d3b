"""The command line of each start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.config.secrets import SHOWN_INSTEAD, Secrets
from supervisor.config.values import Config, Model, Transport
from supervisor.llama.command import Surroundings
from supervisor.llama.endpoint import TcpEndpoint
from supervisor.llama.preflight import Inspection
from supervisor.runtime.command_lines import CommandLines
from supervisor.runtime.marks import MARK
from supervisor.runtime.roster import Roster

if TYPE_CHECKING:
    from supervisor.config.values import Option

INSPECTION = Inspection(binary=Path("/opt/llama-server"))
OPTIONS: dict[str, Option] = {"model": "a.gguf"}


@pytest.fixture
def hide() -> Secrets:
    return Secrets(Config(Path("/"), secrets=frozenset({"token-of-the-config"})))


@pytest.fixture
def lines(tmp_path: Path, hide: Secrets) -> CommandLines:
    return CommandLines(Surroundings(tmp_path, tmp_path, dict(os.environ), tmp_path), Roster(), hide)


def test_each_start_has_an_address_and_a_mark_of_its_own(lines: CommandLines) -> None:
    """What is left of one child is never taken for the next."""
    one, other = (lines.of(Model("a", options=OPTIONS), INSPECTION, run=run) for run in (1, 2))

    assert one.endpoint != other.endpoint
    assert one.env[MARK] != other.env[MARK]


def test_a_port_is_closed_with_a_key_of_its_own(lines: CommandLines) -> None:
    """Others on this machine could reach it, and what one child was told opens no door of the next."""
    model = Model("a", options=OPTIONS, transport=Transport.TCP)
    one, other = (lines.of(model, INSPECTION, run=run) for run in (1, 2))

    assert isinstance(one.endpoint, TcpEndpoint)
    assert one.api_key
    assert one.api_key != other.api_key


def test_nobody_sees_the_key_of_a_child_or_a_secret(lines: CommandLines, hide: Secrets) -> None:
    """Those of the config, with which it was started, and its own; of any other server those known at the time."""
    own = lines.of(Model("a", options=OPTIONS, transport=Transport.TCP), INSPECTION, run=1)
    other = lines.of(Model("b", cmd=("cat", "${PORT}"), transport=Transport.TCP), Inspection(), run=2)
    hide.adopt(Config(Path("/"), secrets=frozenset({"token-of-the-next"})))

    assert own.redact(f"{own.api_key} token-of-the-config") == f"{SHOWN_INSTEAD} {SHOWN_INSTEAD}"
    assert other.api_key is None
    assert other.redact("token-of-the-config token-of-the-next") == f"{SHOWN_INSTEAD} {SHOWN_INSTEAD}"
