"""Groups, a matrix and priorities with real processes (spec: llama-swap.md, 2.6 to 2.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.llamaswap.conftest import Swap

EMBEDDER = """
models:
  llm-a: {cmd: "<child>"}
  llm-b: {cmd: "<child>"}
  embedder: {cmd: "<child>"}
groups:
  llms: {members: [llm-a, llm-b]}
  always: {swap: false, exclusive: false, persistent: true, members: [embedder]}
"""
MATRIX = """
models:
  llm-a: {cmd: "<child>"}
  llm-b: {cmd: "<child>"}
  tts: {cmd: "<child>"}
  image: {cmd: "<child>"}
matrix:
  vars: {A: llm-a, B: llm-b}
  evict_costs: {tts: 5}
  sets:
    talk: "(A | B) & tts"
    draw: "image"
"""
PRIORITY = """
models: {a: {cmd: "<child>"}, b: {cmd: "<child>"}, c: {cmd: "<child>"}}
routing: {scheduler: {settings: {fifo: {priority: {c: 10}}}}}
"""


def test_embedder_stays_beside_models_that_swap(start_swap: Callable[..., Swap]) -> None:
    """2.7: a persistent group that does not swap and is not exclusive neither evicts nor is evicted."""
    swap = start_swap(EMBEDDER)
    for model in ("embedder", "llm-a", "llm-b", "embedder", "llm-a", "embedder"):
        swap.ask(model).raise_for_status()

    assert swap.running() == {"embedder": "ready", "llm-a": "ready"}
    assert [entry["model"] for entry in swap.journal() if entry["event"] == "start"] == [
        "embedder",
        "llm-a",
        "llm-b",
        "llm-a",
    ]


def test_embedder_serves_during_a_swap(start_swap: Callable[..., Swap]) -> None:
    """2.6: a swap that waits for a request in flight holds nobody up who is not part of it, and cuts nothing."""
    swap = start_swap(EMBEDDER)
    held = swap.hold("llm-a", "long")
    waiting = swap.later(swap.ask, "llm-b")
    swap.ask("embedder").raise_for_status()
    swap.ask("embedder").raise_for_status()

    assert not waiting.done()
    assert not swap.starts("llm-b")
    swap.child("llm-a").go("long")
    assert held.result().text == "held"
    assert waiting.result().status_code == 200
    assert swap.running() == {"embedder": "ready", "llm-b": "ready"}


def test_matrix(start_swap: Callable[..., Swap]) -> None:
    """2.8: what a set permits is loaded together, the cheapest eviction is chosen, nothing is loaded unasked."""
    swap = start_swap(MATRIX)
    swap.ask("llm-a").raise_for_status()
    assert swap.running() == {"llm-a": "ready"}
    swap.ask("tts").raise_for_status()
    assert swap.running() == {"llm-a": "ready", "tts": "ready"}
    swap.ask("llm-b").raise_for_status()
    assert swap.running() == {"llm-b": "ready", "tts": "ready"}
    swap.ask("image").raise_for_status()

    assert swap.running() == {"image": "ready"}


def test_priority(start_swap: Callable[..., Swap]) -> None:
    """2.6: the model with the higher priority is loaded first, though it was asked for last."""
    swap = start_swap(PRIORITY)
    held = swap.hold("a", "first")
    later = []
    for number, model in enumerate("bcc", 1):
        later.append(swap.later(swap.ask, model))
        eventually(lambda count=number: len(queued(swap)) == count)
    assert queued(swap) == ["c", "c", "b"]
    swap.child("a").go("first")

    assert [response.result().status_code for response in (held, *later)] == [200] * 4
    assert [entry["model"] for entry in swap.journal() if entry["event"] == "start"] == ["a", "c", "b"]


def queued(swap: Swap) -> list[str]:
    """Whom the waiting requests are for, in their order."""
    return [row["model"] for row in swap.get("/status").json()["queue"]]
