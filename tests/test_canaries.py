"""Names in requests stay names: they become no path, no shell's word, and nothing that steers a log or a terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from supervisor.record.own_log import LineFormatter, LlamaSwapFormatter, one_line
from tests.conftest import eventually, running_service
from tests.proxy.conftest import fake_cmd, http_to, raw_request, read_answer
from tests.proxy.test_limits import UPGRADE

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import RunningService

NAMES = (
    "../../../../../../{folder}/canary",
    "{folder}/canary",
    "..\\canary",
    "$(touch {folder}/canary)",
    "`touch {folder}/canary`",
    "; touch {folder}/canary #",
    "| touch {folder}/canary",
    "x\n2026-01-01 00:00:00,000 ERROR   supervisor.CANARY: made up",
    "x\r2026-01-01 00:00:00,000 ERROR   supervisor.CANARY: made up",
    "x\u2028CANARY line",
    "x\u0085CANARY line",
    "\x1b[2J\x1b]0;CANARY\x07",
    "\x9b31mCANARY",
    "\u202eCANARY",
    "%s%s%n%d",
    "{0.__class__}",
    "${env:HOME}",
    "\x00",
    "\ud800",
    "x" * 100_000,
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that logs all it can, to files too, and runs a child."""
    config = f"""
        [server]
        log_level = "debug"
        log_dir = "logs"
        [models.fake]
        cmd = {fake_cmd()}
    """
    with running_service(tmp_path_factory.mktemp("canaries") / "service", config) as running:
        yield running


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_names_from_requests(service: RunningService, tmp_path: Path, name: str) -> None:
    """Wherever a request can name something, a name that is an attack is an unknown name and nothing more."""
    name = name.format(folder=tmp_path) if "{folder}" in name else name
    text = json.dumps({"model": name})
    encoded = quote(name, safe="", errors="surrogatepass")[:30_000]
    tag = f"end-{abs(hash(name))}"
    with http_to(service.url) as http:
        answers = [
            http.post("/v1/chat/completions", content=text),
            http.post("/v1/messages", content=text),
            http.post("/models/load", content=text),
            http.post("/models/unload", content=text),
            http.post("/v1/audio/transcriptions", files={"model": (None, name.encode(errors="replace"))}),
            *(
                http.get(path.format(encoded))
                for path in ("/upstream/{}/x", "/props?model={}", "/unload/{}", "/logs/{}", "/api/models/{}", "/{}")
            ),
            http.post("/api/models/unload/" + encoded),
        ]
        http.get("/health", headers={"user-agent": "agent", "x-request-id": tag})
    target = f"/upstream/{encoded}/x".encode()[:30_000]
    with raw_request(
        service, b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n" + b"\r\n".join(UPGRADE) + b"\r\n\r\n"
    ) as client:
        assert read_answer(client.makefile("rb")).status in {400, 404}

    assert {answer.status_code for answer in answers} <= {400, 403, 404, 405}, answers
    assert not (tmp_path / "canary").exists()
    assert list(tmp_path.iterdir()) == []
    assert list((service.directory).glob("**/*CANARY*")) == []


def test_what_the_log_has_of_them(service: RunningService) -> None:
    """The log, on stderr, in files and over HTTP, has them without line ends and control characters."""
    for name in NAMES:
        with raw_request(
            service,
            f"GET /{quote(name, errors='surrogatepass')[:1000]} HTTP/1.1\r\nhost: x\r\n".encode()
            + b"\r\n".join(UPGRADE)
            + b"\r\n\r\n",
        ) as client:
            read_answer(client.makefile("rb"))
    with http_to(service.url) as http:
        http.post("/models/load", json={"model": "fake"}).raise_for_status()
        files = service.directory / "logs" / "llama-supervise.log"
        eventually(lambda: files.exists() and "spawned" in files.read_text())
        kept = http.get("/logs").text
    for log in (kept, files.read_text(), (service.directory / "service.log").read_text()):
        assert "CANARY" in log
        assert "Traceback" not in log
        assert "Logging error" not in log
        for line in log.split("\n"):
            assert one_line(line) == line
            assert not line.startswith(("CANARY", "2026-01-01 00:00:00,000 ERROR"))


@pytest.mark.parametrize("form", [LineFormatter("%(message)s"), LlamaSwapFormatter("")], ids=["ours", "llama-swap"])
def test_one_line_for_each_message(form: logging.Formatter) -> None:
    """What people write in other languages is left as it is; what would be a second line, or a command, is not."""
    record = _record("no model `%s`", "é🦙\tx\n\x1b[31m\u202e\ud800\u2028")

    assert form.format(record).removeprefix("[INFO] ") == r"no model `é🦙	x\n\x1b[31m\u202e\ud800\u2028`"


def test_tracebacks_keep_their_lines() -> None:
    """A traceback has many lines, but steers no terminal either."""
    try:
        raise ValueError("\x1b[31mred")
    except ValueError:
        import sys

        record = _record("bug: it broke")
        record.exc_info = sys.exc_info()
    text = LineFormatter("%(message)s").format(record)

    assert text.startswith("bug: it broke\nTraceback (most recent call last):\n")
    assert text.endswith("ValueError: \\x1b[31mred")


def _record(message: str, *arguments: object) -> logging.LogRecord:
    import logging

    return logging.LogRecord("supervisor.x", logging.INFO, "x.py", 1, message, arguments, None)
