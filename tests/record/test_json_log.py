"""The log for programs: every line of it is an object, whatever is logged and whoever logs it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from supervisor.record.json_log import JsonFormatter, child_line
from supervisor.record.own_log import IN_JOURNAL, JournalFormatter, LineFormatter
from tests.conftest import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = Path(sys.executable).parent / "llama-supervise"


def record(message: str, *arguments: object, level: int = logging.INFO, **facts: object) -> logging.LogRecord:
    made = logging.LogRecord("supervisor.pool", level, "", 0, message, arguments, None)
    made.created = 1_800_000_000.1239
    made.__dict__.update(facts)
    return made


def test_an_object() -> None:
    """A line has time, level, logger and message, and what else is known."""
    line = JsonFormatter().format(record('%s is "é"\nx', "a", model="a", run=3, request_id="r-1", threshold=5))

    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.123Z",
        "level": "info",
        "logger": "supervisor.pool",
        "message": 'a is "é"\nx',
        "model": "a",
        "run": 3,
        "request_id": "r-1",
    }
    assert "\n" not in line


def test_a_traceback() -> None:
    """A traceback is a field, not lines of its own."""
    try:
        raise ValueError("odd")
    except ValueError:
        made = logging.LogRecord("x", logging.ERROR, "", 0, "bug", (), sys.exc_info())
    line = JsonFormatter().format(made)

    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: odd")


def test_what_is_no_text() -> None:
    """Names of files need not be text, and facts need not be JSON; the line is both all the same."""
    line = JsonFormatter().format(record("cannot read %s", "/\udcff", model=Path("/\udcff")))

    assert json.loads(line.encode())["message"] == "cannot read /?"
    assert json.loads(line)["model"] == "/?"


def test_a_line_of_a_child() -> None:
    """What a child prints has the same form, and its run."""
    shown = json.loads(child_line("hello", run=7, stream="stderr", at=0.0))

    assert shown["time"] == "1970-01-01T00:00:00.000Z"
    assert (shown["logger"], shown["message"], shown["run"], shown["stream"]) == ("child", "hello", 7, "stderr")


def test_the_journal() -> None:
    """Each line for the journal begins with its priority, and leaves out what the journal knows."""
    form = JournalFormatter(LineFormatter(IN_JOURNAL))

    assert form.format(record("one\ntwo", level=logging.WARNING)) == r"<4>supervisor.pool: one\ntwo"
    broken = record("one", level=logging.WARNING, exc_text="Traceback:\n  two")
    assert form.format(broken) == "<4>supervisor.pool: one\n<4>Traceback:\n<4>  two"
    assert form.format(record("x", level=logging.DEBUG, request_id="r-1")) == "<7>supervisor.pool: x (request r-1)"
    assert form.format(record("x", level=logging.CRITICAL)).startswith("<2>")


# A whole service.


class Service:
    """A service whose stderr is read here, line by line."""

    def __init__(self, folder: Path, config: str, name: str, **environ: str) -> None:
        (folder / name).write_text(config)
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [COMMAND, "-c", folder / name, "--listen", "127.0.0.1:0", "--log-format", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RUNTIME_DIRECTORY": str(folder), **environ},
        )

    def until(self, word: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if word in line:
                return dict(json.loads(line))
        raise AssertionError(f"no line with {word}: {self.lines}")

    def end(self) -> str:
        """The rest of stdout."""
        self.process.send_signal(signal.SIGTERM)
        out, rest = self.process.communicate(timeout=DEADLINE)
        self.lines += rest.splitlines()
        assert self.process.returncode == 0
        return out


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Service]:
    return lambda config, name="models.toml", **environ: Service(tmp_path, config, name, **environ)


def test_a_service(serve: Callable[..., Service], tiny: Path) -> None:
    """From the first word to the last everything is JSON: cautions, what models do, and each request with its name."""
    service = serve(f'[defaults]\nctx-size = 256\nfit = "off"\n[models.one]\nmodel = "{tiny}/tiny-a.gguf"\n')
    url = service.until("listening on")["address"]
    body = {"model": "one", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-request-id": "r-1"}, trust_env=False, timeout=30)
    line = service.until('"r-1"')
    out = service.end()

    assert out == ""
    entries = [json.loads(each) for each in service.lines]
    assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
    ready = next(entry for entry in entries if " is ready after " in entry["message"])
    assert (ready["model"], ready["run"]) == ("one", 1)
    assert (line["logger"], line["status"], line["path"]) == ("supervisor.access", 200, "/v1/chat/completions")
    assert line["seconds"] > 0
    assert line["address"] == "127.0.0.1"


def test_with_a_file_of_llama_swap(serve: Callable[..., Service], tiny: Path) -> None:
    """It holds there too: our log is on stderr, and what children print is wrapped."""
    config = f"""
    logToStdout: both
    models:
      one:
        cmd: sh -c 'echo "{{}} hello"; exit 1' x ${{PORT}} {tiny}
    """
    service = serve(config, "config.yaml")
    url = service.until("listening on")["address"]
    httpx.post(f"{url}/v1/completions", json={"model": "one"}, trust_env=False, timeout=30)
    service.until('"supervisor.access"')
    out = [json.loads(line) for line in service.end().splitlines()]

    assert [entry["message"] for entry in out if entry["logger"] == "child"] == ["{} hello"]
    assert {entry["logger"] for entry in out} == {"child"}
    assert all(isinstance(json.loads(line), dict) for line in service.lines)


def test_a_config_that_cannot_be_used(tmp_path: Path) -> None:
    """What is wrong with a config is said in the same form."""
    (tmp_path / "models.toml").write_text("[server]\nodd = 1\n")
    words = [COMMAND, "-c", tmp_path / "models.toml", "--log-format", "json"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 2
    entries = [json.loads(line) for line in ended.stderr.splitlines()]
    assert entries[0]["level"] == "error"
    assert "server.odd" in entries[0]["message"]


@pytest.mark.parametrize("as_json", [False, True])
def test_into_the_journal(tmp_path: Path, *, as_json: bool) -> None:
    """Where stderr is the journal, lines have priorities and no times; elsewhere they do not."""
    (tmp_path / "models.toml").write_text("")
    words = [COMMAND, "-c", tmp_path / "models.toml", "--listen", "127.0.0.1:0"]
    log = tmp_path / "log"
    with log.open("w") as file:
        status = os.fstat(file.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        extra = ["--log-format", "json"] if as_json else []
        process = subprocess.Popen([*words, *extra], stdout=subprocess.PIPE, stderr=file, env=environ, text=True)
        if not as_json:
            assert process.stdout is not None
            next(line for line in process.stdout if line.startswith("listening on"))
        else:
            from tests.conftest import eventually

            eventually(lambda: "listening on" in log.read_text())
        process.terminate()
        process.communicate(timeout=DEADLINE)

    last = log.read_text().splitlines()[-1]
    assert re.fullmatch(r'<6>\{.*"SIGTERM: shutting down"\}' if as_json else r"<6>supervisor.server: SIGTERM: .*", last)
