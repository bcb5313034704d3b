"""A small HTTP server to stand behind `cmd`: it says what arrived, and is ready once a file exists.

Run as `python echo_server.py --port PORT [--ready-when FILE]`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Echo(BaseHTTPRequestHandler):
    """Answers `/health` when it may, and any POST with what it got."""

    protocol_version = "HTTP/1.1"
    ready_when: Path | None = None

    def do_GET(self) -> None:
        is_ready = self.ready_when is None or self.ready_when.exists()
        self._answer(200 if is_ready else 503, {"ready": is_ready})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = self.headers.get("content-type", "")
        parts = _parts(kind, body) if kind.startswith("multipart/") else []
        self._answer(200, {"text": "heard", "path": self.path, "parts": parts, "bytes": len(body)})

    def _answer(self, status: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _parts(kind: str, body: bytes) -> list[dict[str, object]]:
    form = BytesParser(policy=HTTP).parsebytes(f"content-type: {kind}\r\n\r\n".encode() + body)
    return [_part(part) for part in form.iter_parts() if isinstance(part, EmailMessage)]


def _part(part: EmailMessage) -> dict[str, object]:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return {
        "name": part.get_param("name", header="content-disposition"),
        "file": part.get_filename(),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready-when", type=Path)
    options = parser.parse_args()
    Echo.ready_when = options.ready_when
    ThreadingHTTPServer(("127.0.0.1", options.port), Echo).serve_forever()


if __name__ == "__main__":
    main()
