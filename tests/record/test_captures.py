"""Whole requests that are kept to be looked at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.record.captures import Capture, Captures
from supervisor.record.ended import Asked


def capture(size: int) -> Capture:
    return Capture("/v1/completions", {}, b"x" * size, {}, None)


def test_the_newest_are_kept() -> None:
    """The oldest make room; one that is larger than all the room is not kept, and costs no other."""
    captures = Captures(4000, lambda text: text)
    kept = [captures.keep(number, capture(1000)) for number in range(1, 5)]

    assert kept == [True] * 4
    assert captures.numbers() == {3, 4}
    assert captures.keep(5, capture(4000)) is False
    assert captures.numbers() == {3, 4}
    assert captures.get(1) is None


def test_nothing_is_kept() -> None:
    """Without room there is none for anything."""
    assert Captures(0, lambda text: text).keep(1, capture(0)) is False


def ended(path: str, *, status: int = 200) -> Any:
    """A request that has ended, as far as a capture looks at it."""
    headers = [
        (b"authorization", b"Bearer sk-1"),
        (b"x-api-key", b"sk-1"),
        (b"cookie", b"sk-1"),
        (b"x-word", b"a secret"),
    ]
    answer = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip"), (b"set-cookie", b"sk-1")]
    return SimpleNamespace(asked=Asked(headers, b"the question", answer), path=path, status=status)


@pytest.mark.parametrize(
    ("path", "has_question", "has_answer"),
    [
        ("/v1/chat/completions", True, True),
        ("/v1/embeddings", True, True),
        ("/v1/audio/speech", True, False),
        ("/v1/images/generations", True, False),
        ("/sdapi/v1/txt2img", True, False),
        ("/v1/audio/transcriptions", False, True),
        ("/v1/audio/voices", False, True),
        ("/v1/images/edits", False, False),
        ("/sdapi/v1/img2img", False, False),
    ],
)
def test_bodies_that_are_files(path: str, has_question: bool, has_answer: bool) -> None:
    """Sounds and pictures are not kept, whichever way they go; what is said about them is."""
    kept = Captures(4000, lambda text: text).capture(ended(path), b"the answer")

    assert kept.request == (b"the question" if has_question else None)
    assert kept.answer == (b"the answer" if has_answer else None)


def test_of_a_failure_the_question_is_kept() -> None:
    """Its answer is in the row, as its message."""
    kept = Captures(4000, lambda text: text).capture(ended("/v1/chat/completions", status=400), b"the answer")

    assert (kept.request, kept.answer) == (b"the question", None)


def test_what_only_the_two_ends_may_know() -> None:
    """Credentials and cookies are never kept, nor what the config holds secret; nor how a body was once compressed."""
    told = Captures(4000, lambda text: text.replace("secret", "***")).capture(ended("/v1/completions"), b"a secret")

    assert told.as_json(7) == {
        "id": 7,
        "req_path": "/v1/completions",
        "req_headers": {
            **{"Authorization": "[REDACTED]", "X-Api-Key": "[REDACTED]", "Cookie": "[REDACTED]"},
            "X-Word": "a ***",
        },
        "req_body": "dGhlIHF1ZXN0aW9u",
        "resp_headers": {"Content-Type": "application/json", "Set-Cookie": "[REDACTED]"},
        "resp_body": "YSAqKio=",
    }
