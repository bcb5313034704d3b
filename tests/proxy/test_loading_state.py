"""What a waiting stream is told, and how the child's own stream goes on after it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import ShuttingDown
from supervisor.proxy.loading.narrator import Narrator, Situation
from supervisor.proxy.loading_state import Joint, LoadingState, Telling, loading_state

LOADING = Situation()


def state(telling: Telling) -> LoadingState:
    return loading_state(telling, "m", token="t", created=7)


def events(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream; a name, where there is one, is the type."""
    found = []
    for block in stream.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append(json.loads(fields["data"]))
        assert fields.get("event", found[-1].get("type")) == found[-1].get("type")
    return found


def test_it_says_what_is_new_and_nothing_twice() -> None:
    """First its turn, then how much is read, and after a silence at least how long it takes."""
    narrator = Narrator("m")
    said = [
        narrator.news(Situation(ahead=2), 0.0),
        narrator.news(Situation(ahead=2), 1.0),
        narrator.news(Situation(ahead=1), 2.0),
        narrator.news(Situation(ahead=0), 3.0),
        narrator.news(LOADING, 4.0),
        narrator.news(Situation(fraction=0.0), 4.5),
        narrator.news(Situation(fraction=0.004), 4.6),
        narrator.news(Situation(fraction=0.5), 5.0),
        narrator.news(Situation(fraction=0.5), 9.9),
        narrator.news(Situation(fraction=0.5), 10.0),
        narrator.ready(10.44),
    ]

    assert said == [
        "waiting for m: 2 other models come first",
        "",
        "\nwaiting for m: 1 other model comes first",
        "\nwaiting for m: it is next",
        "\nloading m",
        " 0%",
        "",
        " 50%",
        "",
        " 10 s",
        "\nm is ready after 10.4 s\n\n",
    ]


@pytest.mark.parametrize(
    ("telling", "kind", "choice"),
    [
        (Telling.CHAT, "chat.completion.chunk", {"delta": {"reasoning_content": "x"}}),
        (Telling.TEXT, "text_completion", {"text": "", "logprobs": None, "reasoning_content": "x"}),
    ],
)
def test_chunks_are_whole(telling: Telling, kind: str, choice: dict[str, Any]) -> None:
    """They have all that a chunk of their API has, and no word of the answer."""
    (chunk,) = events(state(telling).begin() + state(telling).tell("x") + state(telling).end())

    assert chunk.pop("id").endswith("-t")
    assert chunk == {
        "object": kind,
        "created": 7,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": None, **choice}],
    }


CHILDS_CHUNKS = b"".join(
    b'data: {"choices":[%s],"created":9,"id":"c","logprob":-0.10000000000000001,"object":"x"}\n\n' % choice
    for choice in (b'{"index":0,"delta":{"content":"a\\nb \xc3\xbc"}}', b'{"index":1,"text":"b"}', b"")
)


@pytest.mark.parametrize("telling", [Telling.CHAT, Telling.TEXT])
@given(st.lists(st.integers(0, 10_000), max_size=20))
def test_a_childs_chunks_go_on_as_ours(telling: Telling, cuts: list[int]) -> None:
    """All chunks of a stream have one id and one time; what the child says stays as it is, byte by byte."""
    childs = CHILDS_CHUNKS + b"data: [DONE]\n\n"
    joint = state(telling).joint()
    stream = b"".join(joint.feed(piece) for piece in cut(childs, cuts)) + joint.rest()

    (ours,) = events(state(telling).tell("x"))
    own = f'"created":{ours["created"]},"id":"{ours["id"]}"'.encode()
    assert stream == childs.replace(b'"created":9,"id":"c"', own)


CHILDS_MESSAGE = b"".join(
    b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event).encode())
    for event in [
        {"type": "message_start", "message": {"id": "c", "usage": {"input_tokens": 9, "output_tokens": 0}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a\nb ü"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
)
CHILDS_RESPONSE = b"".join(
    b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event).encode())
    for event in [
        {"type": "response.created", "response": {"id": "c", "status": "in_progress"}},
        {"type": "response.in_progress", "response": {"id": "c", "status": "in_progress"}},
        {"type": "response.output_item.added", "item": {"id": "i1", "type": "message"}},
        {"type": "response.content_part.added", "item_id": "i1", "part": {"type": "output_text", "text": ""}},
        {"type": "response.output_text.delta", "item_id": "i1", "delta": "a\nb ü"},
        {"type": "response.output_item.done", "item": {"id": "i1", "type": "message"}},
        {"type": "response.output_item.added", "item": {"id": "i2", "type": "function_call"}},
        {"type": "response.function_call_arguments.delta", "item_id": "i2", "delta": "{}"},
        {"type": "response.completed", "response": {"id": "c", "output": [{"id": "i1"}, {"id": "i2"}], "usage": {}}},
    ]
)


def joined(telling: Telling, childs: bytes, cuts: list[int]) -> list[dict[str, Any]]:
    """The events of a whole stream whose second half comes in pieces."""
    told = state(telling)
    stream = told.begin() + told.tell("one ") + told.tell("two") + told.end()
    joint = told.joint()
    pieces = [joint.feed(piece) for piece in cut(childs, cuts)]
    return events(stream + b"".join(pieces) + joint.rest())


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(stream), *(place % len(stream) for place in places)})
    return [stream[start:end] for start, end in pairwise(ends)]


@given(st.lists(st.integers(0, 10_000), max_size=20), st.booleans())
def test_a_childs_message_goes_on_after_the_thought(cuts: list[int], crlf: bool) -> None:
    """One start, one end, blocks counted through, the child's usage; however the bytes come."""
    childs = CHILDS_MESSAGE.replace(b"\n\n", b"\r\n\r\n") if crlf else CHILDS_MESSAGE
    found = joined(Telling.MESSAGES, childs, cuts)

    assert [(event["type"], event.get("index")) for event in found] == [
        ("message_start", None),
        ("content_block_start", 0),
        *[("content_block_delta", 0)] * 3,
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("ping", None),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert found[8]["delta"]["text"] == "a\nb ü"
    assert found[10]["usage"] == {"input_tokens": 9, "output_tokens": 2}


@given(st.lists(st.integers(0, 10_000), max_size=20))
def test_a_childs_response_goes_on_after_the_summary(cuts: list[int]) -> None:
    """One id, events and items counted through, and at the end every item that was there."""
    found = joined(Telling.RESPONSES, CHILDS_RESPONSE, cuts)

    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    responses = [event["response"] for event in found if "response" in event]
    assert {(each["id"], each["created_at"]) for each in responses} == {("resp_t", 7)}
    kinds = [event["type"].removeprefix("response.") for event in found]
    assert kinds == [
        *("created", "in_progress", "output_item.added", "reasoning_summary_part.added"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.delta", "reasoning_summary_text.done"),
        *("reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "completed"),
    ]
    assert [event.get("output_index") for event in found] == [None, None, *[0] * 7, *[1] * 4, *[2] * 2, None]
    whole = found[8]["item"]
    assert whole["summary"] == [{"type": "summary_text", "text": "one two"}]
    assert found[-1]["response"]["output"] == [whole, {"id": "i1"}, {"id": "i2"}]


@pytest.mark.parametrize("telling", Telling)
def test_what_is_no_event_of_the_api_passes(telling: Telling) -> None:
    """Comments, other data and an end without an empty line go on as they came."""
    joint = state(telling).joint()

    for piece in (b": alive\n\n", b"data: [DONE]\n\n", b'data: {"error": 1}\n\n', b"data: [1]\n\n"):
        assert joint.feed(piece) == piece
    assert (joint.feed(b"data: {"), joint.rest()) == (b"", b"data: {")
    assert holds_something(joint)


def holds_something(joint: Joint) -> bool:
    """What makes sure that every chunk comes through it."""
    return bool(joint.holds)


@pytest.mark.parametrize("telling", Telling)
def test_a_failure_is_an_event_with_the_error(telling: Telling) -> None:
    """The last one, in its API's words."""
    told = state(telling)
    (*_, last) = events(told.begin() + told.tell("x") + told.failed(ShuttingDown("over")))

    assert last["error"]["message"] == "over"
    if telling is Telling.RESPONSES:
        assert (last["type"], last["message"], last["sequence_number"]) == ("error", "over", 5)


def test_a_failure_after_the_childs_first_events() -> None:
    """Its number is the next one, whoever has told the events before it."""
    told = state(Telling.RESPONSES)
    stream = told.begin() + told.end() + told.joint().feed(CHILDS_RESPONSE) + told.failed(ShuttingDown("over"))

    assert [event["sequence_number"] for event in events(stream)] == list(range(len(events(stream))))
