"""A service started by hand at a terminal: Ctrl-C ends it, and no model can ask the one who sits there for anything."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.conftest import DEADLINE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).parent / "llama-supervise"
CTRL_C = b"\x03"
TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY)
os.execv(sys.argv[1], sys.argv[1:])
"""
ASKS = """
[models.asks]
cmd = ["sh", "-c", "read password < /dev/tty && exec sleep 60", "${PORT}"]
"""


class Terminal:
    """A pseudo-terminal and the program that it was opened for, which leads the session there."""

    def __init__(self, *argv: str | Path) -> None:
        self.keyboard, theirs = pty.openpty()
        self.leader = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": "dumb"},
        )
        os.close(theirs)
        os.set_blocking(self.keyboard, False)
        self.text = ""

    def shows(self, words: str) -> bool:
        """Whether this has come up by now."""
        try:
            while piece := os.read(self.keyboard, 65536):
                self.text += piece.decode()
        except OSError:  # nothing more for now, or nobody there any longer
            pass
        return words in self.text

    def word_after(self, words: str) -> str:
        eventually(lambda: self.shows(words) and "\n" in self.text.partition(words)[2])
        return self.text.partition(words)[2].split()[0]

    def end(self) -> None:
        """Leave nothing of its session behind, which is nothing but it where all is well."""
        for path in Path("/proc").iterdir():
            if path.name.isdecimal() and _session_of(int(path.name)) == self.leader.pid:
                os.kill(int(path.name), signal.SIGKILL)
        self.leader.wait()
        os.close(self.keyboard)


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


@pytest.fixture(params=["by a shell", "by itself"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A service in front of a terminal, started by a shell, or alone there, as in a container or a window of tmux."""
    config = tmp_path / "models.toml"
    config.write_text(ASKS)
    argv = (COMMAND, "-c", config, "--listen", "127.0.0.1:0")
    if request.param == "by a shell":
        line = f"set -m; {shlex.join(map(str, argv))}; echo ended with $?"
        terminal = Terminal("/bin/bash", "-c", line)
    else:
        terminal = Terminal(*argv)
    try:
        yield terminal
    finally:
        terminal.end()


def test_a_model_that_asks_at_the_terminal_fails_at_once(terminal: Terminal) -> None:
    """As in a service, instead of being stopped in the background without a word (SIGTTIN)."""
    url = terminal.word_after("listening on ")

    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "asks"}, timeout=DEADLINE, trust_env=False)

    assert "/dev/tty: No such device or address" in answer.text
    os.write(terminal.keyboard, CTRL_C)
    terminal.leader.wait(DEADLINE)


def test_ctrl_c_ends_it(terminal: Terminal) -> None:
    """Once is enough, and it ends as it does by SIGINT."""
    terminal.word_after("listening on ")

    os.write(terminal.keyboard, CTRL_C)

    assert terminal.leader.wait(DEADLINE) == 0
    assert terminal.shows("ended with 0") or not terminal.text.count("ended with")
