"""`GET /v1/models` (spec 1.4): its entries and what they say."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import eventually
from tests.llamaswap.conftest import Swap, running_swap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = """
models:
  zeta:
    cmd: <child>
  full:
    cmd: <child>
    name: "  gpt-oss 120B "
    description: " says much  "
    aliases: [gpt-4o-mini, gpt/4]
    capabilities: {in: [text, image], out: [text], tools: true, context: 32000}
    metadata: {colour: red, type: mine, nested: {a: [1, null]}, capabilities: x, context_length: 1, architecture: y}
  plain:
    cmd: <child>
    name: "  "
    metadata: {capabilities: x, supported_parameters: y}
  hidden:
    cmd: <child>
    unlisted: true
    aliases: [hidden-alias]
  vision: {cmd: "<child>", capabilities: {in: [image]}}
  hearing: {cmd: "<child>", capabilities: {in: [audio], out: [text]}}
  speaking: {cmd: "<child>", capabilities: {in: [text], out: [audio]}}
  painting: {cmd: "<child>", capabilities: {in: [text], out: [image]}}
  editing: {cmd: "<child>", capabilities: {in: [image], out: [image]}}
  calling: {cmd: "<child>", capabilities: {tools: true}}
  ranking: {cmd: "<child>", capabilities: {reranker: true}}
selectors:
  coding:
    strategy: spillover
    targets: [full, peer1/remote]
    settings: {spillover: 4}
    name: Coding
    description: " picks "
    metadata: {colour: blue}
  shy: {strategy: pin, targets: [full], unlisted: true}
profiles:
  work:
    pins: {draft: full, zeta: plain, nope: null, gone: ""}
peers:
  peer1: {proxy: "http://127.0.0.1:1", models: [remote, a/b]}
"""
CAPABILITIES = {
    "full": {"vision": True, "function_calling": True},
    "vision": {"vision": True},
    "hearing": {"audio_transcriptions": True},
    "speaking": {"audio_speech": True},
    "painting": {"image_generation": True},
    "editing": {"vision": True, "image_to_image": True},
    "calling": {"function_calling": True},
    "ranking": {"reranker": True},
}


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("listing"), CONFIG) as swap:
        yield swap


def entries(swap: Swap) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in swap.get("/v1/models").json()["data"]}


def told(swap: Swap, name: str) -> dict[str, Any]:
    """What an entry says of llama-swap's own."""
    own: dict[str, Any] = entries(swap)[name]["meta"]["llamaswap"]
    return own


def test_whole(swap: Swap) -> None:
    """1.4: a list, sorted by id, of everything that is listed."""
    body = swap.get("/v1/models").json()
    ids = [entry["id"] for entry in body["data"]]
    listed = {"zeta", "full", "plain", *CAPABILITIES, "coding", "peer1/remote", "peer1/a/b"}

    assert body["object"] == "list"
    assert ids == sorted(ids)
    assert set(ids) == listed


ORDER = [
    *("id", "object", "created", "owned_by", "name", "description"),
    *("architecture", "capabilities", "supported_parameters", "context_length", "meta", "status"),
]


def test_order_of_the_fields(swap: Swap) -> None:
    """1.4: `data` stands before `object`, and the fields of an entry in one order; ours may stand between them."""
    assert list(swap.get("/v1/models").json()) == ["data", "object"]
    for entry in entries(swap).values():
        assert [field for field in entry if field in ORDER] == [field for field in ORDER if field in entry]
    assert set(ORDER) <= entries(swap)["full"].keys()


def test_same_without_v1(swap: Swap) -> None:
    """1.4: /models is the same."""
    with_v1, without = (swap.get(path).json()["data"] for path in ("/v1/models", "/models"))

    assert [{**entry, "created": 0} for entry in with_v1] == [{**entry, "created": 0} for entry in without]


def test_common_fields(swap: Swap) -> None:
    """1.4: every entry is a model, made just now, with a type of llama-swap's and a status."""
    for entry in entries(swap).values():
        assert entry["object"] == "model"
        assert abs(entry["created"] - time.time()) < 3600
        assert entry["owned_by"] in {"llama-swap", "llama-supervise"}
        assert entry["meta"]["llamaswap"]["type"] in {"model", "peer", "selector"}
        assert entry["status"]["value"] == "unloaded"


def test_name_and_description(swap: Swap) -> None:
    """1.4: name and description are trimmed, and left out if nothing is left."""
    full, plain = entries(swap)["full"], entries(swap)["plain"]

    assert (full["name"], full["description"]) == ("gpt-oss 120B", "says much")
    assert not plain.keys() & {"name", "description"}


@pytest.mark.parametrize("model", CAPABILITIES)
def test_capabilities(swap: Swap, model: str) -> None:
    """1.4: the flags follow from what a model takes and gives."""
    assert entries(swap)[model]["capabilities"] == CAPABILITIES[model]


def test_capability_fields(swap: Swap) -> None:
    """1.4: capabilities bring architecture, supported parameters and the context, here and in `meta`."""
    full = entries(swap)["full"]

    assert full["architecture"] == {
        "input_modalities": ["text", "image"],
        "modality": "text+image->text",
        "output_modalities": ["text"],
    }
    assert full["supported_parameters"] == ["tools", "tool_choice"]
    assert full["context_length"] == full["meta"]["n_ctx"] == 32000


def test_no_capability_fields(swap: Swap) -> None:
    """1.4: without capabilities there are none of these fields; a modality needs both directions."""
    plain, vision = entries(swap)["plain"], entries(swap)["vision"]

    assert not plain.keys() & {"architecture", "capabilities", "supported_parameters", "context_length"}
    assert "modality" not in vision["architecture"]
    assert "context_length" not in vision


def test_metadata(swap: Swap) -> None:
    """1.4: the user's metadata stands beside our keys, which win."""
    full = told(swap, "full")

    assert (full["type"], full["aliases"]) == ("model", ["gpt-4o-mini", "gpt/4"])
    assert (full["colour"], full["nested"]) == ("red", {"a": [1, None]})
    assert told(swap, "zeta") == {"type": "model"}


def test_metadata_and_capabilities(swap: Swap) -> None:
    """1.4: metadata that would contradict capabilities is dropped where there are some, else kept."""
    fields = {"architecture", "capabilities", "supported_parameters", "context_length"}

    assert not told(swap, "full").keys() & fields
    assert (told(swap, "plain")["capabilities"], told(swap, "plain")["supported_parameters"]) == ("x", "y")


def test_selectors(swap: Swap) -> None:
    """1.4: a selector says how it chooses and among what."""
    coding = entries(swap)["coding"]

    assert (coding["name"], coding["description"]) == ("Coding", "picks")
    assert coding["meta"]["llamaswap"].items() >= {"type": "selector", "strategy": "spillover", "spillover": 4}.items()
    assert coding["meta"]["llamaswap"]["targets"] == ["full", "peer1/remote"]
    assert coding["meta"]["llamaswap"]["colour"] == "blue"


def test_peers(swap: Swap) -> None:
    """1.4: a peer's model is listed by its qualified name, unloaded whatever it is there."""
    remote = entries(swap)["peer1/remote"]

    assert remote["name"] == "peer1: remote"
    assert remote["meta"]["llamaswap"] == {"type": "peer", "peerID": "peer1"}
    assert remote["status"] == {"value": "unloaded"}


def test_unlisted_still_answers(swap: Swap) -> None:
    """1.4: what is not listed is there all the same."""
    assert swap.ask("hidden-alias").status_code == 200


def test_origin(swap: Swap) -> None:
    """1.4: a page of another site may read the list."""
    for path in ("/v1/models", "/models"):
        response = swap.get(path, headers={"origin": "https://chat.example"})

        assert response.headers["access-control-allow-origin"] in {"https://chat.example", "*"}


def test_aliases_in_list(start_swap: Callable[..., Swap]) -> None:
    """1.4: with includeAliasesInList each alias of a listed model is an entry of its own."""
    swap = start_swap(f"includeAliasesInList: true\n{CONFIG}")
    alias = entries(swap)["gpt-4o-mini"]

    assert alias["meta"]["llamaswap"] == {"type": "alias", "modelID": "full"}
    assert alias["object"] == "model"
    assert "gpt/4" in entries(swap)
    assert "hidden-alias" not in entries(swap)


def test_status(start_swap: Callable[..., Swap]) -> None:
    """1.4: a model that runs is loaded, and so are its aliases; one that does not is unloaded."""
    swap = start_swap(f"includeAliasesInList: true\n{CONFIG}")

    def status(name: str) -> str:
        return str(entries(swap)[name]["status"]["value"])

    swap.ask("full").raise_for_status()
    assert (status("full"), status("gpt-4o-mini"), status("zeta")) == ("loaded", "loaded", "unloaded")
    swap.get("/unload")
    eventually(lambda: status("full") == "unloaded")


def test_active_profile(start_swap: Callable[..., Swap]) -> None:
    """1.4, 2.9: an active profile adds its pins, but none that another entry has or that is switched off."""
    swap = start_swap(CONFIG)
    swap.client.put("/api/profiles/active", json={"name": "work"}).raise_for_status()

    assert told(swap, "draft")["type"] == "profile"
    assert not entries(swap).keys() & {"nope", "gone"}
    assert told(swap, "zeta")["type"] == "model"
