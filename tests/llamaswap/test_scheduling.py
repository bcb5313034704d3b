"""Groups, a matrix and priorities with real processes (spec: llama-swap.md, 2.6 to 2.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conftest import eventually
from tests.proxy.conftest import post, raw_request

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


def test_nobody_starves(start_swap: Callable[..., Swap]) -> None:
    """2.6, on purpose: a model that has to leave takes no new requests, however busy it is."""
    swap = start_swap('models: {a: {cmd: "<child>"}, b: {cmd: "<child>"}}')
    first = swap.hold("a", "first")
    other = swap.later(swap.ask, "b", name="other")
    eventually(lambda: swap.model("a")["state"] == "draining")
    later = swap.later(swap.ask, "a", name="later")
    swap.child("a").go("first")

    assert first.result().status_code == other.result().status_code == later.result().status_code == 200
    assert [entry["model"] for entry in swap.journal() if entry["event"] == "start"] == ["a", "b", "a"]


def test_a_client_that_leaves_while_it_waits(start_swap: Callable[..., Swap]) -> None:
    """2.6: its request is forgotten, and no model is loaded for it."""
    swap = start_swap('models: {a: {cmd: "<child>"}, b: {cmd: "<child>"}}')
    held = swap.hold("a", "held")
    with raw_request(swap, post("/v1/chat/completions", b'{"model":"b"}')):
        eventually(lambda: swap.model("a")["state"] == "draining")
    eventually(lambda: swap.model("a")["state"] == "busy")
    swap.child("a").go("held")

    assert held.result().status_code == 200
    assert swap.ask("a").status_code == 200
    assert swap.starts("b") == []
    assert len(swap.starts("a")) == 1


def test_a_client_that_leaves_while_its_model_loads(start_swap: Callable[..., Swap]) -> None:
    """2.6: the load goes on, and the next request finds the model ready."""
    swap = start_swap('models: {a: {cmd: "<child> --health 503"}}')
    with raw_request(swap, post("/v1/chat/completions", b'{"model":"a"}')):
        eventually(lambda: swap.running() == {"a": "starting"})
    swap.child("a").set_health(200)
    eventually(lambda: swap.running() == {"a": "ready"})

    assert swap.ask("a").status_code == 200
    assert len(swap.starts("a")) == 1


def test_a_load_that_fails(start_swap: Callable[..., Swap]) -> None:
    """2.6: all who wait for it get the same error; who was evicted for it stays evicted; the next in line is served."""
    swap = start_swap('models: {a: {cmd: "<child>"}, b: {cmd: "<child> --exit-with 3"}, c: {cmd: "<child>"}}')
    held = swap.hold("a", "held")
    failing = [swap.later(swap.ask, "b") for _ in range(3)]
    eventually(lambda: swap.model("a")["state"] == "draining")
    next_one = swap.later(swap.ask, "c")
    swap.child("a").go("held")

    errors = [each.result().json()["error"] for each in failing]
    assert held.result().status_code == next_one.result().status_code == 200
    assert len({error["failure"]["id"] for error in errors}) == 1
    assert swap.running() == {"c": "ready"}


def test_a_loaded_model_evicts_nobody(start_swap: Callable[..., Swap]) -> None:
    """2.7, different: who was loaded beside a model of an exclusive group stays, whoever is asked."""
    swap = start_swap("""
models: {a: {cmd: "<child>"}, e: {cmd: "<child>"}}
groups:
  main: {members: [a]}
  side: {exclusive: false, members: [e]}
""")
    for model in ("a", "e", "a"):
        swap.ask(model).raise_for_status()

    assert swap.running() == {"a": "ready", "e": "ready"}
    swap.get("/unload")
    for model in ("e", "a"):
        swap.ask(model).raise_for_status()
    assert swap.running() == {"a": "ready"}
