"""Real clients, unmodified, against a service that reads a llama-swap file: SDKs, EventSource, websockets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tests.conftest import DEADLINE
from tests.llamaswap.conftest import Swap, running_swap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CONFIG = """
apiKeys: [secret]
includeAliasesInList: true
models:
  qwen/qwen3:
    cmd: <child> --speaks
    aliases: [gpt-4o]
    useModelName: real
  broken:
    cmd: |
      <child> --exit-with 3
      --stderr "error_while loading shared libraries: libcuda.so.1: cannot open shared object file"
  one:
    cmd: <child> --speaks
    concurrencyLimit: 1
"""
HELLO: Any = [{"role": "user", "content": "ping"}]


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("clients"), CONFIG) as swap:
        swap.client.headers["x-api-key"] = "secret"
        yield swap


@pytest.fixture
def openai_client(swap: Swap) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{swap.url}/v1", api_key="secret", timeout=DEADLINE, max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(swap: Swap) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=swap.url, api_key="secret", timeout=DEADLINE, max_retries=0) as client:
        yield client


# OpenAI.


def test_openai_models(openai_client: openai.OpenAI) -> None:
    """1.4: `models.list()` reads the listing."""
    assert [model.id for model in openai_client.models.list()] == ["broken", "gpt-4o", "one", "qwen/qwen3"]


@pytest.mark.parametrize("model", ["qwen/qwen3", "gpt-4o"])
def test_openai_chat(openai_client: openai.OpenAI, model: str) -> None:
    """1.1: a chat is answered by the model or alias, which sees the name it is to see."""
    answer = openai_client.chat.completions.create(model=model, messages=HELLO)

    assert answer.choices[0].message.content == "pong from real"


def test_openai_stream(openai_client: openai.OpenAI) -> None:
    """1.9: so is a streamed one, piece by piece to its end."""
    stream = openai_client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    pieces = [chunk.choices[0] for chunk in stream]

    assert "".join(piece.delta.content or "" for piece in pieces) == "pong from real"
    assert pieces[-1].finish_reason == "stop"


def test_openai_embeddings(openai_client: openai.OpenAI) -> None:
    """1.1: embeddings come back as vectors."""
    answer = openai_client.embeddings.create(model="gpt-4o", input="x", encoding_format="float")

    assert answer.data[0].embedding == [0.25, 0.5]


def test_openai_on_the_short_path(swap: Swap) -> None:
    """1.1: with a base URL of /v requests reach the same places without it."""
    with openai.OpenAI(base_url=f"{swap.url}/v", api_key="secret", timeout=DEADLINE) as client:
        answer = client.embeddings.with_raw_response.create(
            model="gpt-4o", input="x", extra_headers={"x-do": "echo"}, encoding_format="float"
        )

    assert answer.http_response.json()["target"] == "/embeddings"


def test_openai_errors(swap: Swap, openai_client: openai.OpenAI) -> None:
    """1.3: each status is the exception that the client has for it, with our type and code."""
    with pytest.raises(openai.NotFoundError) as unknown:
        openai_client.chat.completions.create(model="nobody", messages=HELLO)
    with pytest.raises(openai.AuthenticationError) as stranger:
        openai_client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.InternalServerError) as broken:
        openai_client.chat.completions.create(model="broken", messages=HELLO, stream=True)
    swap.hold("one", "limit")
    with pytest.raises(openai.RateLimitError) as limited:
        openai_client.chat.completions.create(model="one", messages=HELLO)
    swap.child("one").go("limit")

    assert unknown.value.type == "invalid_request_error"
    assert stranger.value.code == "unauthorized"
    assert "error while loading shared libraries: libcuda.so.1" in str(broken.value.body)
    assert (limited.value.code, limited.value.response.headers["retry-after"]) == ("concurrency_limit", "1")


def test_openai_tries_again_after_a_429(swap: Swap) -> None:
    """1.3: a client that retries gets through once there is room."""
    held = swap.hold("one", "retry")
    refused = []

    def make_room(response: Any) -> None:
        if response.status_code == 429:
            refused.append(response)
            swap.child("one").go("retry")

    http_client = openai.DefaultHttpxClient(event_hooks={"response": [make_room]})
    with openai.OpenAI(base_url=f"{swap.url}/v1", api_key="secret", max_retries=5, http_client=http_client) as client:
        answer = client.chat.completions.create(model="one", messages=HELLO)

    assert refused
    assert held.result().status_code == 200
    assert answer.choices[0].message.content == "pong from one"


# Anthropic.


def test_anthropic_message(anthropic_client: anthropic.Anthropic) -> None:
    """1.1: a message is answered."""
    answer = anthropic_client.messages.create(model="qwen/qwen3", messages=HELLO, max_tokens=9)

    assert answer.content[0].type == "text"
    assert answer.content[0].text == "pong from real"


def test_anthropic_stream(anthropic_client: anthropic.Anthropic) -> None:
    """1.9: so is a streamed one."""
    with anthropic_client.messages.stream(model="gpt-4o", messages=HELLO, max_tokens=9) as stream:
        text = "".join(stream.text_stream)

    assert text == "pong from real"
    assert stream.get_final_message().stop_reason == "end_turn"


def test_anthropic_errors(swap: Swap, anthropic_client: anthropic.Anthropic) -> None:
    """1.3, on purpose: its errors are those that this client knows."""
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        anthropic_client.messages.create(model="nobody", messages=HELLO, max_tokens=9)
    with pytest.raises(anthropic.AuthenticationError):
        anthropic_client.with_options(api_key="wrong").messages.create(model="one", messages=HELLO, max_tokens=9)
    with pytest.raises(anthropic.InternalServerError, match="broken"):
        anthropic_client.messages.create(model="broken", messages=HELLO, max_tokens=9)
    swap.hold("one", "anthropic")
    with pytest.raises(anthropic.RateLimitError):
        anthropic_client.messages.create(model="one", messages=HELLO, max_tokens=9)
    swap.child("one").go("anthropic")


# Browsers.


def event_source(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The events as a browser's EventSource reads them: the algorithm of the HTML standard."""
    kind, data = "", []
    for line in lines:
        if not line:
            if data:
                yield kind or "message", "\n".join(data)
            kind, data = "", []
        field, _, value = line.partition(":")
        if field == "event":
            kind = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))


def test_event_source(swap: Swap) -> None:
    """1.11: EventSource's `onmessage` gets every message, and llama-swap's page can decode it."""
    with swap.client.stream("GET", "/api/events", headers={"accept": "text/event-stream"}) as response:
        events = event_source(response.iter_lines())
        messages = [next(events) for _ in range(6)]
    decoded = [json.loads(data) for _, data in messages]

    assert {kind for kind, _ in messages} == {"message"}
    assert [message["type"] for message in decoded][2:] == ["modelStatus", "uiConfig", "profileChanged", "inflight"]
    assert {model["id"] for model in json.loads(decoded[2]["data"])} == {"broken", "one", "qwen/qwen3"}


def test_websocket(swap: Swap) -> None:
    """1.6: a websocket client talks to the model's own server through /upstream."""
    headers = {"Authorization": "Bearer secret"}
    with swap.socket("/upstream/qwen/qwen3/any/place?x=1", additional_headers=headers, max_size=None) as socket:
        for message in ("hello", "é🦙", b"\x00\xff", bytes(2_000_000)):
            socket.send(message)

            assert socket.recv(DEADLINE) == message
