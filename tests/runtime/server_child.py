"""A server to stand behind `cmd`: it listens when it may, answers probes as told, and writes down what it was given."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Probe(BaseHTTPRequestHandler):
    """Answers a GET of one path with the status, and any other with 404."""

    path_of_health = "/health"
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == self.path_of_health else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--path", default="/health")
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--note", type=Path, help="where to write down our pid, directory and environment")
    parser.add_argument("--when", type=Path, help="listen only once this file exists")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--daemon", action="store_true", help="serve from a process in a session of its own")
    options = parser.parse_args()
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.note:
        options.note.write_text(json.dumps({"pid": os.getpid(), "cwd": str(Path.cwd()), "env": dict(os.environ)}))
    if options.daemon:
        argv = [word for word in sys.argv if word != "--daemon"]
        subprocess.Popen(["setsid", "--fork", sys.executable, *argv], start_new_session=True).wait()
        signal.pause()
    while options.when and not options.when.exists():
        select.select([], [], [], 0.01)
    Probe.path_of_health, Probe.status = options.path, options.status
    ThreadingHTTPServer((options.host, options.port), Probe).serve_forever()


if __name__ == "__main__":
    main()
