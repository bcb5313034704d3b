"""Secrets stay out of everything that anybody is shown."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import RunningService, eventually, running_service
from tests.failures.test_strings import SAY_AND_DIE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

COMMAND = Path(sys.executable).parent / "llama-supervise"

KINDS = ("api_key", "token", "flag", "equals", "url", "environment", "printed", "broken_key", "password")
CANARIES = {kind: f"canary{secrets.token_hex(8)}" for kind in KINDS}
"""One for each way a secret gets into a config."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: Path, wheel_binary: Path) -> Iterator[RunningService]:
    """A service whose models carry secrets in every way, some of them broken."""
    script = [sys.executable, "-I", "-S", str(SAY_AND_DIE), "--port", "${PORT}"]
    commands = {
        "flag": [*script, "--serve", "--api-key", CANARIES["flag"]],
        "equals": [*script, f"--api-key={CANARIES['equals']}"],
        "url": [*script, "--proxy", f"http://user:{CANARIES['url']}@example.org/"],
        "printed": [*script, "--say-argv", "--api-key", CANARIES["printed"]],
        "told": [*script, "--serve", "--say-argv", "--api-key", CANARIES["password"]],
    }
    config = f"""
    [server]
    max_loaded = 5
    decision_log = "decisions.jsonl"
    [models.good]
    binary = "{wheel_binary}"
    model = "{tiny}/tiny-a.gguf"
    ctx-size = 256
    api-key = "${{env:CANARY_API_KEY}}"
    env = {{ HF_TOKEN = "{CANARIES["token"]}", DB_PASSWORD = "${{env:CANARY_ENVIRONMENT}}" }}
    [models.bad]
    binary = "{wheel_binary}"
    model = "{tiny}/broken-unknown-arch.gguf"
    api-key = "{CANARIES["broken_key"]}"
    env.HF_TOKEN = "{CANARIES["token"]}"
    """
    config += "".join(f"[models.{name}]\ncmd = {json.dumps(command)}\n" for name, command in commands.items())
    with running_service(tmp_path_factory.mktemp("secrets"), config, env=ENVIRONMENT) as running:
        for name in ("good", "bad", *commands):
            running.chat(name)
        running.chat("told", user="say")
        eventually(lambda: "[redacted]" in _text(running, "/logs/told"))
        yield running


ENVIRONMENT = {"CANARY_API_KEY": CANARIES["api_key"], "CANARY_ENVIRONMENT": CANARIES["environment"]}


def _text(service: RunningService, path: str) -> str:
    with service.http as http:
        return http.get(path).text


def _run(service: RunningService, *arguments: str) -> str:
    options = ["-c", str(service.directory / "models.toml")]
    if arguments[0] in {"why", "ps", "doctor"}:
        options += ["--url", service.url]
    environment: Mapping[str, str] = {**os.environ, **ENVIRONMENT}
    run = subprocess.run(
        [COMMAND, *arguments, *options], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert run.returncode in {0, 2}, run.stderr
    return run.stdout + run.stderr


def assert_silent(text: str) -> None:
    assert text
    assert [kind for kind, canary in CANARIES.items() if canary in text] == []


@pytest.mark.parametrize(
    "path",
    [
        "/status",
        "/running",
        "/v1/models",
        "/v1/models/good",
        "/logs",
        "/logs/upstream",
        *(f"/logs/{name}" for name in ("good", "bad", "printed", "told")),
    ],
)
def test_no_route_shows_a_secret(service: RunningService, path: str) -> None:
    """Neither what a config holds nor what a child prints of it."""
    assert_silent(_text(service, path))


@pytest.mark.parametrize("name", ["bad", "equals", "url", "printed"])
def test_no_error_shows_a_secret(service: RunningService, name: str) -> None:
    """Errors carry the command and the child's words, without the key in them."""
    answer = service.chat(name)

    assert answer.status_code in {500, 503}
    assert_silent(answer.text)
    assert answer.json()["error"]["failure"]["command"]


def test_a_printed_secret_leaves_a_mark(service: RunningService) -> None:
    """One sees that something was there."""
    failure = service.chat("printed").json()["error"]["failure"]

    assert failure["stderr_tail"][0].endswith("--say-argv --api-key [redacted]")
    assert failure["command"][-2:] == ["--api-key", "[redacted]"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("why", "--json", "bad"),
        ("why", "printed"),
        ("why", "--json", "printed"),
        ("why", "--json", "url"),
        ("ps", "--json"),
        ("doctor", "-o", "-"),
        ("check", "--json"),
        ("check",),
        *(("command", name) for name in ("good", "bad", "flag", "equals", "url", "printed")),
    ],
    ids=" ".join,
)
def test_no_command_shows_a_secret(service: RunningService, arguments: tuple[str, ...]) -> None:
    """What people paste into issues is safe."""
    assert_silent(_run(service, *arguments))


def test_our_own_log_has_no_secret(service: RunningService) -> None:
    """It tells every command that was run."""
    log = (service.directory / "service.log").read_text()

    assert log.count("spawned pid") >= 6
    assert_silent(log)


def test_the_decision_log_has_no_secret(service: RunningService) -> None:
    """It tells of every start and of every failure."""
    log = service.directory / "decisions.jsonl"
    eventually(lambda: log.exists() and all(f'"{name}"' in log.read_text() for name in ("good", "bad", "printed")))

    assert_silent(log.read_text())


def test_options_are_not_in_the_process_list(service: RunningService) -> None:
    """argv can be read by every user of the machine; the key works all the same."""
    command = Path(f"/proc/{service.pid('good')}/cmdline").read_bytes().decode()
    with service.http as http:
        body = {"model": "good", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        headers = {"authorization": f"Bearer {CANARIES['api_key']}"}
        statuses = [http.post("/v1/chat/completions", json=body, headers=each).status_code for each in ({}, headers)]

    assert "tiny-a.gguf" in command
    assert_silent(command)
    assert statuses == [401, 200]


SCRIPT = (sys.executable, "-I", "-S", str(SAY_AND_DIE), "--port", "${PORT}")
GAPS = {
    "the child prints an URL with a password in it": (
        *SCRIPT,
        "--say-argv",
        "--proxy",
        "http://user:CANARY@example.org/",
    ),
    "the command of a shell": ("sh", "-c", f"exec {sys.executable} {SAY_AND_DIE} --port ${{PORT}} --api-key CANARY"),
    "a known secret elsewhere in the command": (*SCRIPT, "--api-key", "CANARY", "--header=Bearer CANARY"),
    "a header with a key in it": (*SCRIPT, "--header", "Authorization: Bearer CANARY"),
}


@pytest.mark.parametrize("gap", GAPS)
def test_a_secret_in_an_odd_place_is_found(start: Callable[..., RunningService], gap: str) -> None:
    """Commands are free text; what is plainly a secret in them is hidden all the same."""
    canary = f"canary{secrets.token_hex(8)}"
    command = [part.replace("CANARY", canary) for part in GAPS[gap]]
    service = start(f"[models.odd]\ncmd = {json.dumps(command)}\n")

    answer = service.chat("odd")

    assert canary not in answer.text
    assert canary not in (service.directory / "service.log").read_text()
