"""A child that says given lines on stderr and ends in a given way: at once, on a request, or when a file appears.

Run as `python say_and_die.py --port PORT [--say LINE]... [--exit CODE | --signal NAME]`. With `--serve` it becomes
healthy first; then the field `user` of a request says what happens: `die`, `hang`, `say` (and live on), else an answer.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

POLL_SECONDS = 0.01


def main() -> None:
    options = _arguments()
    for name in ("SIGHUP", "SIGINT", "SIGQUIT"):
        signal.signal(signal.Signals[name], signal.SIG_DFL)  # what runs in the background may have them ignored
    if options.fail_when is not None:
        _wait_for(options.fail_when)
    if options.serve or options.ready_when is not None:
        _serve(options)
    _say_and_die(options)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--say", action="append", default=[])
    parser.add_argument("--say-argv", action="store_true", help="say the whole command line too, as some servers do")
    parser.add_argument("--exit", type=int, default=1)
    parser.add_argument("--signal")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--ready-when", type=Path)
    parser.add_argument("--fail-when", type=Path)
    return parser.parse_known_args()[0]


def _wait_for(path: Path) -> None:
    pause = threading.Event()
    while not path.exists():
        pause.wait(POLL_SECONDS)


def _say(options: argparse.Namespace) -> None:
    for line in (*options.say, *([" ".join(sys.argv)] if options.say_argv else [])):
        os.write(2, line.encode() + b"\n")


def _say_and_die(options: argparse.Namespace) -> None:
    _say(options)
    if options.signal:
        os.kill(os.getpid(), signal.Signals[options.signal])
        signal.pause()
    os._exit(options.exit)


def _serve(options: argparse.Namespace) -> None:
    # Most runs say a line and are gone, and these take three times as long to import.
    import json
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Server(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            is_ready = options.ready_when is None or options.ready_when.exists()
            self._answer(200 if is_ready else 503, "application/json", b"{}")

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            match request.get("user"):
                case "die":
                    _say_and_die(options)
                case "hang":
                    threading.Event().wait()
                case "say":
                    _say(options)
                    self._answer(500, "application/json", b'{"error":{"message":"Compute error."}}')
                case _ if request.get("stream"):
                    chunk = {
                        "object": "chat.completion.chunk",
                        "choices": [{"index": 0, "delta": {"content": "heard"}}],
                    }
                    self._answer(200, "text/event-stream", b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(chunk).encode())
                case _:
                    message = {"role": "assistant", "content": "heard"}
                    answer = {"object": "chat.completion", "choices": [{"index": 0, "message": message}]}
                    self._answer(200, "application/json", json.dumps(answer).encode())

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    ThreadingHTTPServer(("127.0.0.1", options.port), Server).serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
