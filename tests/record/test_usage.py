"""What answers say of their tokens and speeds."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.record.usage import NOTHING, Usage, error_message, unpacked, usage_of

TIMINGS = {
    **{"cache_n": 20, "prompt_n": 5, "prompt_ms": 24.5, "prompt_per_second": 201.25},
    **{"predicted_n": 4, "predicted_ms": 40.5, "predicted_per_second": 70.5},
}
OF_LLAMA = Usage(20, -1, -1, 5, 4, 201.25, 70.5)
OPENAI = {"prompt_tokens": 25, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 20}}
OF_OPENAI = Usage(20, -1, -1, 25, 4, -1, -1)
METRICS = {
    "time_to_first_token_ms": 50,
    "mean_itl_ms": 10,
    "speculative_decoding": {"num_draft_tokens": 9, "num_accepted_draft_tokens": 6},
}


def body(fields: object) -> bytes:
    return json.dumps(fields).encode()


def events(*each: object) -> bytes:
    return b"".join(b"data: " + body(event) + b"\n\n" for event in each)


def told(text: bytes, *, is_stream: bool = False) -> Usage:
    return usage_of([text], is_stream=is_stream)[0]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"usage": OPENAI}, OF_OPENAI),
        (
            {"usage": {"input_tokens": 5, "output_tokens": 4, "cache_read_input_tokens": 20}},
            Usage(20, -1, -1, 5, 4, -1, -1),
        ),
        ({"usage": {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 2}}}, Usage(2, -1, -1, 5, 0, -1, -1)),
        (
            {"usage": {"prompt_tokens": 7, "total_tokens": 7}, "data": [{"embedding": [0.5]}]},
            Usage(-1, -1, -1, 7, 0, -1, -1),
        ),
        ({"usage": {"prompt_tokens": 9, "total_tokens": 9}, "results": []}, Usage(-1, -1, -1, 9, 0, -1, -1)),
        ({"usage": OPENAI, "timings": TIMINGS}, OF_LLAMA),
        ({"timings": {**TIMINGS, "draft_n": 5, "draft_n_accepted": 3}}, Usage(20, 5, 3, 5, 4, 201.25, 70.5)),
        ({"timings": {**TIMINGS, "draft_n": 5}}, OF_LLAMA),
        ([{"timings": {}}, {"timings": TIMINGS}], OF_LLAMA),
        ({"usage": OPENAI, "metrics": METRICS}, Usage(20, 9, 6, 25, 4, 100, 100)),
        ({"choices": []}, NOTHING),
        ({"usage": None, "timings": None}, NOTHING),
        ({"usage": {"prompt_tokens": "many", "completion_tokens": True}}, Usage(-1, -1, -1, 0, 0, -1, -1)),
        ({"usage": {"prompt_tokens": -3, "completion_tokens": 10**30}}, Usage(-1, -1, -1, 0, 0, -1, -1)),
        ("a text", NOTHING),
    ],
)
def test_a_whole_answer(fields: object, expected: Usage) -> None:
    """OpenAI's, Anthropic's, llama-server's and vLLM's numbers are found, and nothing else is taken for one."""
    assert told(body(fields)) == expected


def test_a_chat_stream() -> None:
    """The last numbers count; what a model writes is not taken for them."""
    talk = {"choices": [{"delta": {"content": '"usage": {"prompt_tokens": 666}'}}]}
    text = events(talk, {"usage": {"prompt_tokens": 1}}, {"choices": [], "usage": OPENAI, "timings": TIMINGS})

    assert told(text + b"data: [DONE]\n\n", is_stream=True) == OF_LLAMA


@pytest.mark.parametrize("size", [7, 100, 10_000])
def test_a_stream_in_its_chunks(size: int) -> None:
    """The marks of chunks between and within the events are no part of them."""
    text = events({"choices": []}, {"choices": [], "usage": OPENAI, "timings": TIMINGS}) + b"data: [DONE]\n\n"
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    raw = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"

    assert told(raw, is_stream=True) == OF_LLAMA


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_the_ends_of_lines(end: bytes) -> None:
    """However a server ends its lines, each event is read by itself: what only looks like its numbers is not taken."""
    text = events({"choices": []}, {"usage": {"prompt_tokens": 1}}, {"usage": OPENAI, "echo": {"timings": TIMINGS}})

    assert told(text.replace(b"\n", end), is_stream=True) == OF_OPENAI


def test_anthropics_stream() -> None:
    """Prompt at the beginning, answer at the end; a zero between does not count."""
    start = {
        "type": "message_start",
        "message": {"usage": {"cache_read_input_tokens": 20, "input_tokens": 5, "output_tokens": 0}},
    }
    end = {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 0, "output_tokens": 4}}

    assert told(events(start, {"type": "ping"}, end), is_stream=True) == Usage(20, -1, -1, 5, 4, -1, -1)


def test_a_responses_stream() -> None:
    """The tokens stand within the response, llama-server's timings beside it."""
    usage = {"input_tokens": 25, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 20}}
    done = {"type": "response.completed", "response": {"output": [], "usage": usage}}

    assert told(events(done), is_stream=True) == OF_OPENAI
    assert told(events({**done, "timings": TIMINGS}), is_stream=True) == OF_LLAMA


def test_a_long_answer() -> None:
    """Of an answer of which the middle is missing, both ends are searched."""
    whole = body({"object": "list", "usage": {"prompt_tokens": 7}, "data": [{"embedding": [0.5] * 1000}]})
    usage, _ = usage_of([whole[:200], whole[-200:]], is_stream=False, is_whole=False)
    at_end = body(
        {"choices": [{"text": '\\"usage\\": {"prompt_tokens": 1}' * 100}], "usage": OPENAI, "timings": TIMINGS}
    )

    assert usage == Usage(-1, -1, -1, 7, 0, -1, -1)
    assert usage_of([at_end[:300], at_end[-400:]], is_stream=False, is_whole=False)[0] == OF_LLAMA


def test_a_torn_event() -> None:
    """An event whose beginning is missing still tells its numbers."""
    tail = events({"type": "response.completed", "response": {"output": "x" * 500, "usage": OPENAI}})

    assert usage_of([b"data: {}\n\n", tail[300:]], is_stream=True, is_whole=False)[0] in {OF_OPENAI, NOTHING}
    assert usage_of([b"data: {", tail[300:]], is_stream=True, is_whole=False)[0] in {OF_OPENAI, NOTHING}


def test_how_long_it_took() -> None:
    """llama-server's own measure of its time comes along."""
    assert usage_of([body({"timings": TIMINGS})], is_stream=False) == (OF_LLAMA, 65.0)


@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_any_bytes(text: bytes, is_stream: bool, is_whole: bool) -> None:
    """Whatever a server sends, it is understood or it is not."""
    usage, _ = usage_of([text, b'"usage": {' + text], is_stream=is_stream, is_whole=is_whole)

    assert usage.input_tokens >= 0


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (400, body({"error": {"message": "too long", "code": 400}}), "too long"),
        (400, body({"error": "too long"}), "too long"),
        (400, body({"message": "too long"}), "too long"),
        (422, body({"detail": "too long"}), "too long"),
        (422, body({"detail": [{"loc": []}]}), "422 Unprocessable Entity"),
        (502, b"<html>", "502 Bad Gateway"),
        (599, b"", "599"),
        (400, body({"error": "x" * 900}), "x" * 500),
    ],
)
def test_errors(status: int, text: bytes, expected: str) -> None:
    """The message of an error, wherever it stands, else the name of its status."""
    assert error_message(status, text) == expected


def test_compressed() -> None:
    """gzip and deflate are read as far as they go, others are not; a bomb is not unpacked."""
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(b"hello" * 1000) + packer.flush()

    assert unpacked(packed, b"gzip") == b"hello" * 1000
    assert (unpacked(packed[:-8], b"gzip") or b"").startswith(b"hello")
    assert unpacked(zlib.compress(b"hello"), b"deflate") == b"hello"
    assert unpacked(b"hello", b"br") is None
    assert unpacked(b"hello", b"gzip") is None
    assert len(unpacked(zlib.compress(bytes(50_000_000)), b"deflate") or b"") == 8 * 1024**2
