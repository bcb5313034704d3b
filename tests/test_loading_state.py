"""The official clients, unmodified, while a model loads: progress as reasoning, then the answer; or an error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest

from tests.conftest import DEADLINE, ROOT, RunningService, eventually, running_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELLO = [{"role": "user", "content": "hello"}]
DEMO = ROOT / "models" / "gemma-3-270m-q4_k_m.gguf"
MODELS = ("chat", "helper", "text", "responses", "messages", "queue", "other", "early", "quiet")
FAILING = ("chat", "text", "responses", "raw", "messages")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: Path, wheel_binary: Path) -> Iterator[RunningService]:
    """Real llama-servers behind a gate: each begins once a file of its name is there."""
    folder = tmp_path_factory.mktemp("loading")
    wait = "while [ ! -e {folder}/{name} ]; do sleep 0.02; done; "
    serve = f"exec {wheel_binary} -m {tiny}/tiny-a.gguf -c 512 -t 1 -fit off --port ${{PORT}} --alias"
    tables = [
        f"[models.{name}]\ncmd = ['sh', '-c', '{wait.format(folder=folder, name=name)}{serve} {name}']\n"
        for name in MODELS
    ]
    tables += [
        f"[models.broken-{name}]\ncmd = ['sh', '-c', '{wait.format(folder=folder, name=f'broken-{name}')}"
        "echo no such luck >&2; : ${PORT}; exit 3']\n"
        for name in FAILING
    ]
    quiet = "send_loading_state = false\n"
    tables[MODELS.index("quiet")] += quiet
    head = '[server]\ncomment_after = "0s"\nmax_loaded = 20\n[defaults]\nsend_loading_state = true\n'
    with running_service(folder, head + "\n".join(tables)) as service:
        yield service


def open_gate(service: RunningService, name: str) -> None:
    (service.directory / name).touch()


@pytest.fixture
def client(service: RunningService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=DEADLINE, max_retries=0) as client:
        yield client


@pytest.fixture
def claude(service: RunningService) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=service.url, api_key="none", timeout=DEADLINE, max_retries=0) as client:
        yield client


def test_chat(service: RunningService, client: openai.OpenAI) -> None:
    """Chunks with the progress as reasoning, then the child's own; every one is whole."""
    stream = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=5, stream=True)
    first = next(stream)
    assert first.choices[0].delta.reasoning_content == "loading chat"  # type: ignore[attr-defined]
    open_gate(service, "chat")
    chunks = [first, *stream]

    assert {(chunk.object, chunk.model, chunk.choices[0].index) for chunk in chunks} == {
        ("chat.completion.chunk", "chat", 0)
    }
    ((name, created),) = {(chunk.id, chunk.created) for chunk in chunks}
    assert name.startswith("chatcmpl-")
    assert created
    deltas = [chunk.choices[0].delta for chunk in chunks]
    reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert reasoning.startswith("loading chat")
    assert "chat is ready after " in reasoning
    assert len("".join(delta.content or "" for delta in deltas)) == 5
    assert chunks[-1].choices[0].finish_reason == "length"


def test_chat_through_the_clients_own_adding_up(service: RunningService, client: openai.OpenAI) -> None:
    """The library's helper makes one message of it all, of one role."""
    with client.chat.completions.stream(model="helper", messages=HELLO, max_tokens=5) as stream:
        open_gate(service, "helper")
        with pytest.raises(openai.LengthFinishReasonError) as told:  # for five tokens end by their number
            stream.get_final_completion()
        message = told.value.completion.choices[0].message

    assert message.role == "assistant"
    assert len(message.content or "") == 5
    assert "helper is ready after" in message.reasoning_content  # type: ignore[attr-defined]


def test_completions(service: RunningService, client: openai.OpenAI) -> None:
    """The text is the answer and nothing else; the progress stands beside it."""
    stream = client.completions.create(model="text", prompt="hello", max_tokens=5, stream=True)
    first = next(stream)
    assert (first.choices[0].text, first.choices[0].reasoning_content) == ("", "loading text")  # type: ignore[attr-defined]
    open_gate(service, "text")
    chunks = [first, *stream]

    assert {(chunk.object, chunk.model, chunk.choices[0].index) for chunk in chunks} == {("text_completion", "text", 0)}
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert len("".join(chunk.choices[0].text for chunk in chunks)) == 5


def test_responses(service: RunningService, client: openai.OpenAI) -> None:
    """A summary of reasoning is the first item, the answer the second, in one response that can be sent back."""
    with client.responses.stream(model="responses", input="hello", max_output_tokens=5) as stream:
        found = []
        for event in stream:
            found.append(event)
            if event.type == "response.reasoning_summary_text.delta":
                open_gate(service, "responses")
        final = stream.get_final_response()

    assert [event.sequence_number for event in found] == sorted({event.sequence_number for event in found})
    assert [event.type for event in found].count("response.created") == 1
    deltas = [event.delta for event in found if event.type == "response.reasoning_summary_text.delta"]
    assert deltas[0] == "loading responses"
    reasoning, message = final.output
    assert reasoning.type == "reasoning"
    assert reasoning.summary[0].text == "".join(deltas)
    assert message.type == "message"
    assert len(final.output_text) == 5
    again: Any = [{"role": "user", "content": "hello"}, *(item.model_dump(exclude_none=True) for item in final.output)]
    answer = client.responses.create(
        model="responses", input=[*again, {"role": "user", "content": "and?"}], max_output_tokens=3
    )
    assert len(answer.output_text) == 3


def test_messages(service: RunningService, claude: anthropic.Anthropic) -> None:
    """A thought is the first block, the answer the second, in one message that can be sent back."""
    with claude.messages.stream(model="messages", messages=HELLO, max_tokens=5) as stream:  # type: ignore[arg-type]
        kinds = []
        for event in stream:
            kinds.append(event.type)
            if event.type == "content_block_delta":
                open_gate(service, "messages")
        final = stream.get_final_message()

    assert (kinds.count("message_start"), kinds.count("message_stop")) == (1, 1)
    thought, text = final.content
    assert thought.type == "thinking"
    assert thought.thinking.startswith("loading messages")
    assert "messages is ready after" in thought.thinking
    assert text.type == "text"
    assert len(text.text) == 5
    assert final.stop_reason == "max_tokens"
    assert (final.usage.input_tokens > 0, final.usage.output_tokens) == (True, 5)
    more: Any = [*HELLO, {"role": "assistant", "content": final.content}, {"role": "user", "content": "and?"}]
    assert len(claude.messages.create(model="messages", messages=more, max_tokens=3).content) == 1


def test_a_failing_chat_raises(service: RunningService, client: openai.OpenAI) -> None:
    """After the progress came the error, with the child's own words."""
    stream = client.chat.completions.create(model="broken-chat", messages=HELLO, stream=True)
    assert next(stream).choices[0].delta.reasoning_content == "loading broken-chat"  # type: ignore[attr-defined]
    open_gate(service, "broken-chat")
    with pytest.raises(openai.APIError, match="broken-chat could not start"):
        list(stream)


def test_a_failing_completion_raises(service: RunningService, client: openai.OpenAI) -> None:
    """The same for the older API."""
    stream = client.completions.create(model="broken-text", prompt="hello", stream=True)
    assert next(stream).choices[0].text == ""
    open_gate(service, "broken-text")
    with pytest.raises(openai.APIError, match="broken-text could not start"):
        list(stream)


def test_a_failing_response_raises(service: RunningService, client: openai.OpenAI) -> None:
    """The same for the newer one."""
    stream = client.responses.create(model="broken-responses", input="hello", stream=True)
    assert next(stream).type == "response.created"
    open_gate(service, "broken-responses")
    with pytest.raises(openai.APIError, match="broken-responses could not start"):
        list(stream)


def test_a_failing_response_is_an_event_of_its_api(service: RunningService) -> None:
    """For clients other than the library: its type says so, and it has the next number."""
    body = {"model": "broken-raw", "input": "hello", "stream": True}
    with service.http as http, http.stream("POST", "/v1/responses", json=body) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: response.created"
        open_gate(service, "broken-raw")
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[-1]["type"], events[-1]["code"]) == ("error", events[-1]["error"]["code"])


def test_a_failing_message_raises(service: RunningService, claude: anthropic.Anthropic) -> None:
    """And for Anthropic's."""
    stream = claude.messages.create(model="broken-messages", messages=HELLO, max_tokens=5, stream=True)  # type: ignore[call-overload]
    assert next(stream).type == "message_start"
    open_gate(service, "broken-messages")
    with pytest.raises(anthropic.APIError, match="broken-messages could not start"):
        list(stream)


def test_a_model_that_is_ready_says_nothing(service: RunningService, client: openai.OpenAI) -> None:
    """Nothing is added to its stream."""
    open_gate(service, "early")
    client.chat.completions.create(model="early", messages=HELLO, max_tokens=1)
    stream = client.chat.completions.create(model="early", messages=HELLO, max_tokens=5, stream=True)

    assert not any(hasattr(chunk.choices[0].delta, "reasoning_content") for chunk in stream)


def test_a_model_whose_config_does_not_ask_for_it_gets_comments(service: RunningService) -> None:
    """As every waiting stream does."""
    body = {"model": "quiet", "messages": HELLO, "max_tokens": 5, "stream": True}
    with service.http as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        comments = iter(line for line in lines if line)
        told = next(comments)
        while told.startswith(": waiting for quiet"):  # the model of the test before it is leaving
            told = next(comments)
        assert told == ": loading quiet"
        open_gate(service, "quiet")
        assert not any("reasoning_content" in line for line in lines)


def test_a_request_without_a_stream_is_told_nothing(service: RunningService, client: openai.OpenAI) -> None:
    """It gets the answer, and that alone."""
    open_gate(service, "other")
    answer = client.chat.completions.create(model="other", messages=HELLO, max_tokens=5)

    assert not hasattr(answer.choices[0].message, "reasoning_content")


def test_who_waits_for_another_model_is_told_so(tmp_path: Path, tiny: Path, wheel_binary: Path) -> None:
    """While another model has the room, the stream says how many come first; then how its own loads."""
    serve = f"exec {wheel_binary} -m {tiny}/tiny-a.gguf -c 512 -t 1 -fit off --port ${{PORT}}"
    config = (
        '[server]\ncomment_after = "0s"\n[defaults]\nsend_loading_state = true\n'
        f"[models.first]\ncmd = ['sh', '-c', 'while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done; {serve}']\n"
        f"[models.second]\nmodel = '{tiny}/tiny-a.gguf'\nctx-size = 512\nfit = 'off'\n"
    )
    with (
        running_service(tmp_path / "service", config) as service,
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=DEADLINE) as client,
    ):
        first = client.chat.completions.create(model="first", messages=HELLO, max_tokens=2, stream=True)
        assert next(first).choices[0].delta.reasoning_content == "loading first"  # type: ignore[attr-defined]
        second = client.chat.completions.create(model="second", messages=HELLO, max_tokens=2, stream=True)
        assert next(second).choices[0].delta.reasoning_content == "waiting for second: 1 other model comes first"  # type: ignore[attr-defined]
        (tmp_path / "gate").touch()
        assert len("".join(chunk.choices[0].delta.content or "" for chunk in first)) == 2
        assert len("".join(chunk.choices[0].delta.content or "" for chunk in second)) == 2


def test_a_client_that_leaves_is_not_waited_for(service: RunningService) -> None:
    """Its place in the queue goes with it."""
    body = {"model": "queue", "messages": HELLO, "stream": True}
    with service.http as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()  # whose end is that of the connection
        assert "loading queue" in next(lines)
        assert service.model("queue")["waiting"] == 1
    eventually(lambda: service.model("queue")["waiting"] == 0)


@pytest.mark.slow
@pytest.mark.skipif(not DEMO.exists(), reason="the demo model is not here")
def test_the_demo_model_tells_its_true_progress(tmp_path: Path, binary: Path) -> None:
    """Percentages grow while it is read, and an answer follows."""
    config = (
        '[server]\ncomment_after = "0s"\n'
        f"[models.demo]\nbinary = '{binary}'\nmodel = '{DEMO}'\nctx-size = 512\nsend_loading_state = true\n"
    )
    with (
        running_service(tmp_path / "service", config) as service,
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", timeout=DEADLINE) as client,
    ):
        stream = client.chat.completions.create(model="demo", messages=HELLO, max_tokens=5, stream=True)
        deltas = [chunk.choices[0].delta for chunk in stream]
    told = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert told.startswith("loading demo")
    shares = [int(word.rstrip("%")) for word in told.split() if word.endswith("%")]
    assert shares
    assert shares == sorted(set(shares))
    assert "demo is ready after" in told
    assert any(delta.content for delta in deltas)
