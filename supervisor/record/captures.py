"""Whole requests and answers, kept in memory to be looked at: the newest, up to so many bytes (spec: section 5).

Headers that only the two ends may know are never kept, nor are bodies that are files.
"""

from __future__ import annotations

import base64
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.record.inflight import shown_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.record.ended import Ended

_NO_ANSWER = ("/audio/speech", "/images/generations", "/txt2img")
_NO_REQUEST = ("/audio/transcriptions", "/audio/voices")
_HEADERS_ONLY = ("/images/edits", "/img2img")
_OVERHEAD = 512
"""Bytes that a capture takes beside what is in it."""


@dataclass(frozen=True, slots=True)
class Capture:
    """One request and its answer."""

    path: str
    request_headers: dict[str, str]
    request: bytes | None
    answer_headers: dict[str, str]
    answer: bytes | None

    @property
    def size(self) -> int:
        texts = [*self.request_headers.items(), *self.answer_headers.items()]
        lengths = sum(len(name) + len(value) for name, value in texts)
        return _OVERHEAD + lengths + len(self.request or b"") + len(self.answer or b"")

    def as_json(self, number: int) -> dict[str, object]:
        """As llama-swap's page reads it."""
        return {
            "id": number,
            "req_path": self.path,
            "req_headers": self.request_headers,
            "req_body": _encoded(self.request),
            "resp_headers": self.answer_headers,
            "resp_body": _encoded(self.answer),
        }


class Captures:
    """The newest captures by the numbers of their rows; kept by one thread, read by another."""

    def __init__(self, limit: int, redact: Callable[[str], str]) -> None:
        """`limit` in bytes; 0 keeps none."""
        self.limit = limit
        self._redact = redact
        self._kept: OrderedDict[int, Capture] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def capture(self, ended: Ended, answer: bytes | None) -> Capture:
        """What may be kept of a request that is to be captured, and of its whole answer if it is a success."""
        assert ended.asked is not None
        path, asked = ended.path, ended.asked
        shows_request = not path.endswith((*_NO_REQUEST, *_HEADERS_ONLY))
        shows_answer = ended.status == 200 and not path.endswith((*_NO_ANSWER, *_HEADERS_ONLY))
        answer_headers = [pair for pair in asked.answer_headers if pair[0] != b"content-encoding"]
        return Capture(
            path,
            self._shown(shown_headers(asked.headers)),
            self._without_secrets(asked.body) if shows_request else None,
            self._shown(shown_headers(answer_headers)),
            self._without_secrets(answer) if shows_answer else None,
        )

    def keep(self, number: int, capture: Capture) -> bool:
        """Keep it under the number of its row, in the place of the oldest; whether there is room for it at all."""
        if capture.size > self.limit:
            return False
        with self._lock:
            self._kept[number] = capture
            self._size += capture.size
            while self._size > self.limit:
                _, oldest = self._kept.popitem(last=False)
                self._size -= oldest.size
        return True

    def get(self, number: int) -> Capture | None:
        """The capture of a row, if it is still there."""
        with self._lock:
            return self._kept.get(number)

    def numbers(self) -> frozenset[int]:
        """Those of the rows that have one."""
        with self._lock:
            return frozenset(self._kept)

    def _shown(self, headers: dict[str, str]) -> dict[str, str]:
        return {name: self._redact(value) for name, value in headers.items()}

    def _without_secrets(self, body: bytes | None) -> bytes | None:
        """Without what the config holds secret, where it is text."""
        if not body:
            return None
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return body
        shown = self._redact(text)
        return body if shown == text else shown.encode()

    def __repr__(self) -> str:
        return f"<Captures [{len(self._kept)}, {self._size} of {self.limit} bytes]>"


def _encoded(body: bytes | None) -> str | None:
    return base64.b64encode(body).decode() if body is not None else None
