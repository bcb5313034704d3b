"""`sendLoadingState` (spec: llama-swap.md, 1.10): streams that are told how their model loads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.llamaswap.conftest import Swap, running_swap

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """
sendLoadingState: true
models:
  slow: {cmd: "<child> --speaks --health 503", concurrencyLimit: 1}
  quiet: {cmd: "<child> --speaks --health 503", sendLoadingState: false}
  ready: {cmd: "<child> --speaks"}
  broken: {cmd: "sh -c 'while [ ! -e <dir>/go ]; do sleep 0.02; done; echo no such luck >&2; exit 3' ${PORT}"}
"""
CHAT = {"messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("loading"), CONFIG) as swap:
        yield swap


def streamed(swap: Swap, model: str) -> Any:
    return swap.client.stream("POST", "/v1/chat/completions", json={"model": model, "stream": True, **CHAT})


def chunk_of(line: str) -> dict[str, Any]:
    chunk: dict[str, Any] = json.loads(line.removeprefix("data: "))
    return chunk


def reasoning_of(lines: list[str]) -> str:
    chunks = [chunk_of(line) for line in lines if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("reasoning_content") or "" for chunk in chunks)


def test_it_tells(swap: Swap) -> None:
    """1.10: a stream of chunks whose reasoning says what is loaded, then the child's own; on purpose whole ones."""
    with streamed(swap, "slow") as response:
        lines = response.iter_lines()
        first = next(lines)
        swap.child("slow").set_health(200)
        rest = list(lines)

        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
    assert chunk_of(first)["choices"][0]["delta"]["reasoning_content"].startswith("loading slow")
    assert chunk_of(first).keys() >= {"id", "object", "created", "model"}
    assert "slow is ready" in reasoning_of([first, *rest])
    assert [line for line in rest if line.startswith("data: ")][-1] == "data: [DONE]"
    assert any('"pong"' in line for line in rest)


def test_a_refusal_is_a_429(swap: Swap) -> None:
    """1.10: who is one too many has no stream, but a status."""
    with streamed(swap, "slow") as response:
        lines = response.iter_lines()
        next(lines)
        refused = swap.ask("slow", stream=True, **CHAT)

        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "concurrency_limit")
        del lines  # which ends the request


def test_a_load_that_fails(swap: Swap) -> None:
    """1.10, on purpose no raw JSON: a load that fails is an event in the stream, the last one."""
    with streamed(swap, "broken") as response:
        lines = response.iter_lines()
        first = next(lines)
        (swap.directory / "go").touch()
        events = [first, *(line for line in lines if line)]

        assert response.status_code == 200
    assert all(line.startswith(("data: ", ":")) for line in events)
    assert "no such luck" in json.dumps(chunk_of(events[-1])["error"])
    assert reasoning_of(events[:-1]).startswith("loading broken")


@pytest.mark.parametrize(("model", "stream"), [("slow", False), ("quiet", True), ("ready", True)])
def test_who_is_not_told(swap: Swap, model: str, *, stream: bool) -> None:
    """1.10: who wants no stream, whose model says no, and whose model is ready gets the answer alone."""
    if model == "ready":
        swap.ask("ready", **CHAT).raise_for_status()
    asked = swap.later(swap.ask, model, do="", stream=stream, **CHAT)
    swap.child(model).set_health(200)
    answer = asked.result()

    assert answer.status_code == 200
    assert "pong" in answer.text
    assert "reasoning_content" not in answer.text
