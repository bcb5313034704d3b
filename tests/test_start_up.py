"""What a start waits for, told by what it has loaded when it listens."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NOT_BEFORE_LISTENING = {
    "httpx",  # of commands that talk to a service
    "rich",  # of terminals
    "yaml",  # of llama-swap's files
    "tomlkit",  # of `import` and whoever edits a config
    "pynvml",  # of GPUs
    "prometheus_client",  # of whoever asks for metrics
    "supervisor.doctor",
    "supervisor.importing",
    "supervisor.local_commands",
    "supervisor.remote_commands",
}
"""Each takes 10 to 50 ms to import. What is added here needs a place where it is imported while nobody waits for it."""

SERVE = """
import os, signal, sys
from pathlib import Path
from supervisor import cli, serve_command, server
from supervisor.config.loader import load

def listening(service, url):
    print(*sys.modules, sep="\\n")
    os.kill(os.getpid(), signal.SIGTERM)

server.run(load(Path(sys.argv[1]), environ={}), on_listening=listening)
"""


def test_nothing_heavy_is_loaded_before_it_listens(tmp_path: Path) -> None:
    """A service that has been restarted is back at once: what only some uses need is loaded for those."""
    (tmp_path / "models.toml").write_text('[server]\nlisten = "127.0.0.1:0"\n[models.a]\nmodel = "a.gguf"\n')

    served = subprocess.run(
        [sys.executable, "-c", SERVE, tmp_path / "models.toml"], capture_output=True, text=True, timeout=60, check=True
    )

    loaded = set(served.stdout.split())
    assert "supervisor.app" in loaded
    assert loaded & NOT_BEFORE_LISTENING == set()
