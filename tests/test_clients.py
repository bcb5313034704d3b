"""The official OpenAI and Anthropic clients, unmodified, against a running service."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import struct
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import anthropic
import openai
import pytest

from tests.conftest import DEADLINE, RunningService, eventually, running_service

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = [{"role": "user", "content": "hello"}]
ECHO_SERVER = Path(__file__).with_name("echo_server.py")
MANY_TOKENS = 50_000
"""More than the client reads before the test does something to the child."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[RunningService]:
    config = f"""
        [server]
        max_loaded = 8

        [defaults]
        ctx-size = 512
        fit = "off"
        threads = 1

        [models.text]
        model = "{tiny}/tiny-a.gguf"
        aliases = ["gpt-4o"]

        [models.endless]
        model = "{tiny}/tiny-a.gguf"
        context-shift = true

        [models.vectors]
        model = "{tiny}/tiny-embed.gguf"
        embedding = true
        pooling = "mean"

        [models.seeing]
        model = "{tiny}/tiny-a.gguf"
        mmproj = "{tiny}/tiny-mmproj.gguf"

        [models.broken]
        model = "{tiny}/broken-truncated-data.gguf"

        [models.broken-inside]
        model = "{tiny}/broken-missing-tensor.gguf"

        [models.ears]
        cmd = ["{sys.executable}", "{ECHO_SERVER}", "--port", "${{PORT}}"]
    """
    with running_service(tmp_path_factory.mktemp("clients"), config) as service:
        yield service


@pytest.fixture
def openai_client(service: RunningService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=DEADLINE) as client:
        yield client


@pytest.fixture
def anthropic_client(service: RunningService) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=service.url, api_key="none", timeout=DEADLINE) as client:
        yield client


# OpenAI.


def test_openai_lists_models(openai_client: openai.OpenAI) -> None:
    """`models.list()` gives every model of the config, `retrieve` one of them, by alias too."""
    names = [model.id for model in openai_client.models.list()]

    assert names == ["broken", "broken-inside", "ears", "endless", "seeing", "text", "vectors"]
    assert openai_client.models.retrieve("vectors").id == "vectors"
    assert openai_client.models.retrieve("gpt-4o").id == "text"


def test_openai_chat(openai_client: openai.OpenAI) -> None:
    """A chat completion comes back with its text and its usage."""
    answer = openai_client.chat.completions.create(model="text", messages=HELLO, max_tokens=5)

    assert len(answer.choices[0].message.content or "") == 5
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_openai_chat_stream(openai_client: openai.OpenAI) -> None:
    """A streamed chat completion arrives in pieces and ends by itself."""
    stream = openai_client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=5, stream=True)
    pieces = [chunk.choices[0] for chunk in stream]

    assert len("".join(piece.delta.content or "" for piece in pieces)) == 5
    assert pieces[-1].finish_reason == "length"


def test_openai_completions(openai_client: openai.OpenAI) -> None:
    """The older completions work too, at once and streamed."""
    whole = openai_client.completions.create(model="text", prompt="hello", max_tokens=5)
    stream = openai_client.completions.create(model="text", prompt="hello", max_tokens=5, stream=True)

    assert len(whole.choices[0].text) == 5
    assert len("".join(chunk.choices[0].text for chunk in stream)) == 5


def test_openai_embeddings(openai_client: openai.OpenAI) -> None:
    """Every input gets its vector, in order."""
    answer = openai_client.embeddings.create(model="vectors", input=["hello", "world", "hello"])
    first, second, third = (row.embedding for row in answer.data)

    assert len(first) == 64
    assert first == pytest.approx(third, abs=1e-3)
    assert first != pytest.approx(second, abs=1e-3)


def test_openai_responses(openai_client: openai.OpenAI) -> None:
    """The responses API works at once and streamed."""
    whole = openai_client.responses.create(model="text", input="hello", max_output_tokens=5)
    with openai_client.responses.create(model="text", input="hello", max_output_tokens=5, stream=True) as stream:
        events = list(stream)

    assert len(whole.output_text) == 5
    assert len("".join(event.delta for event in events if event.type == "response.output_text.delta")) == 5
    assert events[-1].type == "response.completed"


def test_openai_image(openai_client: openai.OpenAI) -> None:
    """A model with a projector sees the image in a chat, and says in the list of models that it can."""
    url = "data:image/png;base64," + base64.b64encode(png(64, 64)).decode()
    parts = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": url}}]
    answer = openai_client.chat.completions.create(
        model="seeing",
        messages=[{"role": "user", "content": parts}],  # type: ignore[list-item]
        max_tokens=3,
    )
    architecture = openai_client.models.retrieve("seeing").to_dict()["architecture"]

    assert len(answer.choices[0].message.content or "") == 3
    assert architecture["input_modalities"] == ["text", "image"]  # type: ignore[index]


def test_openai_transcription(openai_client: openai.OpenAI) -> None:
    """An audio file reaches a server of any kind byte for byte, with the form's other fields."""
    audio = os.urandom(700_000)
    answer = openai_client.audio.transcriptions.create(
        model="ears", file=("talk.wav", audio), language="en", prompt="two lines\r\n--of text"
    )
    parts = {part["name"]: part for part in answer.to_dict()["parts"]}  # type: ignore[index, union-attr]

    assert answer.text == "heard"
    assert set(parts) == {"model", "language", "prompt", "file"}
    assert parts["model"]["sha256"] == hashlib.sha256(b"ears").hexdigest()
    assert parts["prompt"]["sha256"] == hashlib.sha256(b"two lines\r\n--of text").hexdigest()
    assert parts["file"]["file"] == "talk.wav"
    assert parts["file"]["sha256"] == hashlib.sha256(audio).hexdigest()


@pytest.mark.parametrize("stream", [False, True])
def test_openai_broken_model(service: RunningService, openai_client: openai.OpenAI, stream: bool) -> None:
    """A broken model file is an InternalServerError that says why, and the client does not try again."""
    before = tries(service, "broken")
    with pytest.raises(openai.InternalServerError) as raised:
        openai_client.chat.completions.create(model="broken", messages=HELLO, max_tokens=5, stream=stream)

    assert raised.value.code == "model_file_truncated"
    assert "is incomplete" in raised.value.message
    assert tries(service, "broken") == before + 1


def test_openai_tries_a_broken_start_once(service: RunningService, openai_client: openai.OpenAI) -> None:
    """What only the child itself finds wrong is told with its own line as evidence, after a single start."""
    error = None
    while error is None or error.code == "unknown":  # the wheel's build loses its last words now and then
        before = tries(service, "broken-inside")
        with pytest.raises(openai.APIStatusError) as raised:
            openai_client.with_options(max_retries=2 if error is None else 0).chat.completions.create(
                model="broken-inside", messages=HELLO, max_tokens=5
            )
        error = raised.value

    assert error.status_code == 500
    assert error.code == "model_file_invalid"
    assert "blk.1.ffn_up.weight" in error.body["failure"]["evidence"][0]  # type: ignore[index]
    assert tries(service, "broken-inside") == before + 1


def test_openai_unknown_model(openai_client: openai.OpenAI) -> None:
    """A name that nobody has is a NotFoundError that names it."""
    with pytest.raises(openai.NotFoundError) as raised:
        openai_client.chat.completions.create(model="texxt", messages=HELLO)
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("texxt")

    assert raised.value.code == "model_not_found"
    assert "texxt" in raised.value.message


def test_openai_malformed_request(openai_client: openai.OpenAI) -> None:
    """What llama-server refuses reaches the client as llama-server said it."""
    with pytest.raises(openai.BadRequestError) as raised:
        openai_client.chat.completions.create(model="text", messages="nonsense")  # type: ignore[call-overload]

    assert "Expected 'messages' to be an array" in raised.value.message


def test_openai_stream_of_a_killed_child(service: RunningService, openai_client: openai.OpenAI) -> None:
    """When a child is killed in the middle of an answer, the stream raises; it does not look like a clean end."""
    stream = openai_client.chat.completions.create(model="endless", messages=HELLO, max_tokens=MANY_TOKENS, stream=True)
    next(stream)
    os.kill(service.pid("endless"), signal.SIGKILL)
    with pytest.raises(openai.APIError, match="SIGKILL") as raised:
        list(stream)

    assert raised.value.code == "killed_by_signal"


def test_openai_responses_of_a_killed_child(service: RunningService, openai_client: openai.OpenAI) -> None:
    """The same holds for a stream of the responses API."""
    stream = openai_client.responses.create(model="endless", input="hello", max_output_tokens=MANY_TOKENS, stream=True)
    next(stream)
    os.kill(service.pid("endless"), signal.SIGKILL)

    with pytest.raises(openai.APIError, match="SIGKILL"):
        list(stream)


@pytest.mark.anyio
async def test_openai_async(service: RunningService) -> None:
    """The async client chats, streams, and raises the same errors."""
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=DEADLINE) as client:
        answer = await client.chat.completions.create(model="text", messages=HELLO, max_tokens=5)
        stream = await client.chat.completions.create(model="text", messages=HELLO, max_tokens=5, stream=True)
        pieces = [chunk async for chunk in stream]
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="broken", messages=HELLO)

    assert len(answer.choices[0].message.content or "") == 5
    assert pieces[-1].choices[0].finish_reason == "length"


# Anthropic.


def test_anthropic_message(anthropic_client: anthropic.Anthropic) -> None:
    """A message comes back with its text and its usage."""
    answer = anthropic_client.messages.create(model="text", messages=HELLO, max_tokens=5)

    assert answer.content[0].type == "text"
    assert len(answer.content[0].text) == 5
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 5


def test_anthropic_stream(anthropic_client: anthropic.Anthropic) -> None:
    """A streamed message arrives in pieces and ends with the whole message."""
    with anthropic_client.messages.stream(model="text", messages=HELLO, max_tokens=5) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()

    assert len(text) == 5
    assert message.stop_reason == "max_tokens"


def test_anthropic_count_tokens(anthropic_client: anthropic.Anthropic) -> None:
    """Tokens are counted without generating any."""
    short = anthropic_client.messages.count_tokens(model="text", messages=HELLO)
    longer = anthropic_client.messages.count_tokens(model="text", messages=HELLO, system="be brief")

    assert 0 < short.input_tokens < longer.input_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_broken_model(service: RunningService, anthropic_client: anthropic.Anthropic, stream: bool) -> None:
    """A broken model file is an InternalServerError that says why, and the client does not try again."""
    before = tries(service, "broken")
    with pytest.raises(anthropic.InternalServerError, match="is incomplete") as raised:
        anthropic_client.messages.create(model="broken", messages=HELLO, max_tokens=5, stream=stream)

    assert raised.value.body["error"]["failure"]["cause"] == "model_file_truncated"  # type: ignore[index]
    assert tries(service, "broken") == before + 1


def test_anthropic_unknown_model(anthropic_client: anthropic.Anthropic) -> None:
    """A name that nobody has is a NotFoundError."""
    with pytest.raises(anthropic.NotFoundError, match="texxt") as raised:
        anthropic_client.messages.create(model="texxt", messages=HELLO, max_tokens=5)

    assert raised.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]


def test_anthropic_malformed_request(anthropic_client: anthropic.Anthropic) -> None:
    """What llama-server refuses is a BadRequestError with its words."""
    with pytest.raises(anthropic.BadRequestError, match="type must be number, but is string"):
        anthropic_client.messages.create(model="text", messages=HELLO, max_tokens="many")  # type: ignore[arg-type]


def test_anthropic_stream_of_a_killed_child(service: RunningService, anthropic_client: anthropic.Anthropic) -> None:
    """When a child is killed in the middle of a message, the stream raises; it does not look like a clean end."""
    stream = anthropic_client.messages.create(model="endless", messages=HELLO, max_tokens=MANY_TOKENS, stream=True)
    next(stream)
    os.kill(service.pid("endless"), signal.SIGKILL)

    with pytest.raises(anthropic.APIStatusError, match="SIGKILL"):
        list(stream)


@pytest.mark.anyio
async def test_anthropic_async(service: RunningService) -> None:
    """The async client sends messages, streams, and raises the same errors."""
    async with anthropic.AsyncAnthropic(base_url=service.url, api_key="none", timeout=DEADLINE) as client:
        answer = await client.messages.create(model="text", messages=HELLO, max_tokens=5)
        stream = await client.messages.create(model="text", messages=HELLO, max_tokens=5, stream=True)
        events = [event async for event in stream]
        with pytest.raises(anthropic.InternalServerError):
            await client.messages.create(model="broken", messages=HELLO, max_tokens=5)

    assert answer.stop_reason == "max_tokens"
    assert events[-1].type == "message_stop"


# Both.


def test_a_killed_child_starts_again(service: RunningService, openai_client: openai.OpenAI) -> None:
    """The next request after a crash is served by a new process."""
    openai_client.chat.completions.create(model="endless", messages=HELLO, max_tokens=1)
    killed = service.pid("endless")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: service.model("endless")["state"] == "failed")
    openai_client.chat.completions.create(model="endless", messages=HELLO, max_tokens=1)

    assert service.pid("endless") != killed


def tries(service: RunningService, model: str) -> int:
    """How many starts of this model have been tried and are over."""
    return (service.directory / "service.log").read_text().count(f" {model} has ended ")


def png(width: int, height: int) -> bytes:
    """A coloured image."""
    rows = b"".join(b"\0" + bytes(value for x in range(width) for value in (x, y, 128)) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
