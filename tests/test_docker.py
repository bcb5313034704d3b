"""The container's files: what they run is what we have, and agrees with the defaults. Nothing is built here."""

from __future__ import annotations

import json
import re

import yaml

from supervisor.command_line import parsed
from supervisor.config.values import Server
from tests.conftest import ROOT

FOLDER = ROOT / "scripts" / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def instruction(name: str) -> list[str]:
    """The words of an instruction in the form without a shell."""
    (line,) = re.findall(rf"^{name} (?:--\S+ )*(?:CMD )?(\[.*\])$", DOCKERFILE, re.MULTILINE)
    words: list[str] = json.loads(line)
    return words


def test_the_commands_are_ours() -> None:
    """Entry point, arguments and health check are command lines of this version."""
    (entry,) = instruction("ENTRYPOINT")
    serve = parsed(instruction("CMD"))
    checked, *rest = instruction("HEALTHCHECK")
    health = parsed(rest)

    assert entry == checked == "llama-supervise"
    assert (serve.command, serve.listen) == ("serve", "0.0.0.0:8080")
    assert (health.command, health.url) == ("health", "http://127.0.0.1:8080")


def test_what_is_copied_exists() -> None:
    """Every file that the build takes from here is here."""
    sources = [
        word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()
    ]

    assert sources
    assert all((ROOT / source).exists() for source in sources)


def test_nobody_is_root() -> None:
    """The service runs as a user without a name, and nothing after that is done as root."""
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert not re.search(r"^USER .*\n(?:.*\n)*RUN ", DOCKERFILE, re.MULTILINE)


def test_compose() -> None:
    """It builds this image, is open to this machine only, and gives a stop the time it may take."""
    (service,) = COMPOSE["services"].values()

    assert (FOLDER / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).exists()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert int(service["stop_grace_period"].rstrip("s")) >= Server().drain_timeout + Server().stop_timeout + 15
    assert {volume.split(":")[0] for volume in service["volumes"]} >= set(COMPOSE["volumes"])
