"""How many requests a model takes at a time (spec 2.6, rule 2): one more is a 429."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.llamaswap.conftest import Swap, running_swap
from tests.proxy.conftest import post, raw_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

CONFIG = """
models:
  default:
    cmd: <child>
  one:
    cmd: <child>
    aliases: [uno]
    concurrencyLimit: 1
  two:
    cmd: <child>
    concurrencyLimit: 2
  slow:
    cmd: <child> --health 503
    concurrencyLimit: 2
  broken:
    cmd: <child> --exit-with 1 --stderr "no"
    concurrencyLimit: 1
routing: {router: {settings: {groups: {all: {swap: false, members: [default, one, two, slow, broken]}}}}}
"""


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    with running_swap(tmp_path_factory.mktemp("limits"), CONFIG) as swap:
        yield swap


def is_refused(response: httpx.Response) -> bool:
    """Whether this is the 429 of a limit, complete."""
    if response.status_code != 429:
        return False
    error = response.json()["error"]
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["retry-after"] == "1"
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "concurrency_limit", None)
    return True


@pytest.mark.parametrize(("model", "limit"), [("default", 10), ("one", 1), ("two", 2)])
def test_limit(swap: Swap, model: str, limit: int) -> None:
    """2.6: `concurrencyLimit` requests are served at a time, without one 10; the next is refused at once."""
    name = f"limit of {model}"
    held = [swap.later(swap.ask, model, do="hold", name=name) for _ in range(limit)]
    swap.await_start(model, name, limit)

    assert is_refused(swap.ask(model))
    swap.child(model).go(name)
    assert [each.result().status_code for each in held] == [200] * limit
    assert swap.ask(model).status_code == 200


@pytest.mark.parametrize("accept", ["text/plain", "text/html", "*/*"])
def test_always_json(swap: Swap, accept: str) -> None:
    """1.3: the refusal is JSON whatever the client accepts."""
    swap.hold("one", accept)

    assert is_refused(swap.ask("one", headers={"accept": accept}))
    swap.child("one").go(accept)


def test_anthropic(swap: Swap) -> None:
    """1.3, on purpose: Anthropic's clients are refused in their own words."""
    swap.hold("one", "anthropic")
    response = swap.ask("one", path="/v1/messages")
    swap.child("one").go("anthropic")

    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert (response.json()["type"], response.json()["error"]["type"]) == ("error", "rate_limit_error")


def test_all_names_and_routes_count(swap: Swap) -> None:
    """2.6: a model's aliases and every way to it share its limit."""
    swap.hold("one", "shared")

    assert is_refused(swap.ask("uno"))
    assert is_refused(swap.get("/upstream/one/x"))
    assert is_refused(swap.get("/props?model=one"))
    assert is_refused(swap.post("/v1/audio/transcriptions", files={"model": (None, "one")}))
    swap.child("one").go("shared")


def test_models_do_not_share(swap: Swap) -> None:
    """2.6: a full model does not hinder another one."""
    swap.hold("one", "alone")

    assert swap.ask("two").status_code == 200
    swap.child("one").go("alone")


def test_waiting_counts(swap: Swap) -> None:
    """2.6: who waits for a load counts too, so the one too many is refused before the model is ready."""
    asking = [swap.later(swap.ask, "slow") for _ in range(3)]
    eventually(lambda: any(each.done() for each in asking))
    (refused,) = (each.result() for each in asking if each.done())

    assert is_refused(refused)
    assert swap.running()["slow"] == "starting"
    swap.post("/api/models/unload/slow")
    assert {each.result().status_code for each in asking} - {429} <= {500, 503}


def test_errors_free_their_place(swap: Swap) -> None:
    """2.6: a place is free again after a failed start."""
    for _ in range(2):
        assert swap.ask("broken").status_code in {500, 503}


def test_child_errors_free_their_place(swap: Swap) -> None:
    """2.6: … and after a child that died."""
    swap.ask("one").raise_for_status()
    assert swap.ask("one", do="die").status_code == 502
    eventually(lambda: swap.ask("one").status_code == 200)


def test_clients_that_leave_free_their_place(swap: Swap) -> None:
    """2.6: … and after a client that left."""
    swap.ask("one").raise_for_status()
    request = post(
        "/v1/chat/completions", b'{"model":"one"}', x_do="hang", x_name="left", content_type="application/json"
    )
    with raw_request(swap, request):
        swap.await_start("one", "left")
        assert is_refused(swap.ask("one"))

    eventually(lambda: swap.child("one").facts("left")["gone"] == 1)
    eventually(lambda: swap.ask("one").status_code == 200)
