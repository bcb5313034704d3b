"""Profiles and selectors (spec 2.9): names that stand for other names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.llamaswap.children import Server, running_server
from tests.llamaswap.conftest import Swap, running_swap, seen, sent

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = """
models:
  a:
    cmd: <child>
    aliases: [first]
    filters:
      setParamsByID: {a:low: {effort: low}}
  b:
    cmd: <child>
  c:
    cmd: <child>
  slow:
    cmd: <child> --health 503
routing: {router: {settings: {groups: {all: {swap: false, members: [a, b, c, slow]}}}}}
peers:
  away: {proxy: "<remote>", models: [far]}
selectors:
  pinned: {strategy: pin, targets: [b, a]}
  warm: {strategy: warm, targets: [a, b, slow]}
  spill: {strategy: spillover, targets: [a, b], settings: {spillover: 2}}
  mixed: {strategy: pin, targets: [away/far, a]}
profiles:
  work:
    description: for work
    pins:
      llm: b
      llm/big: c
      a: b
      low: a:low
      out: away/far
      chosen: pinned
      straight: a
      nothing: null
      empty: ""
  play:
    pins: {llm: a}
"""


@pytest.fixture(scope="module")
def remote() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory, remote: Server) -> Iterator[Swap]:
    text = CONFIG.replace("<remote>", remote.url)
    with running_swap(tmp_path_factory.mktemp("profiles"), text) as swap:
        yield swap


@pytest.fixture
def cold(swap: Swap) -> Swap:
    """The service without any process or profile."""
    swap.get("/unload")
    swap.client.put("/api/profiles/active", json={"name": None})
    return swap


@pytest.fixture
def working(cold: Swap) -> Swap:
    """The service with the profile `work`."""
    cold.client.put("/api/profiles/active", json={"name": "work"}).raise_for_status()
    return cold


# Choosing a profile.


def test_list(cold: Swap) -> None:
    """1.5: profiles are listed by id with their pins; a name that is switched off stands for ""."""
    body = cold.get("/api/profiles").json()
    play, work = body["profiles"]

    assert body["active"] is None
    assert play == {"id": "play", "description": "", "pins": {"llm": "a"}}
    assert (work["id"], work["description"]) == ("work", "for work")
    assert work["pins"].items() >= {"llm": "b", "nothing": "", "empty": ""}.items()


@pytest.mark.parametrize("off", [None, ""])
def test_choose(cold: Swap, off: str | None) -> None:
    """1.5: one profile is active, or none; the content type does not matter."""
    chosen = cold.client.put("/api/profiles/active", content=b'{"name":"play"}')
    active = cold.get("/api/profiles").json()["active"]
    back = cold.client.put("/api/profiles/active", json={"name": off})

    assert (chosen.json(), active) == ({"active": "play"}, "play")
    assert back.json() == {"active": None}
    assert cold.get("/api/profiles").json()["active"] is None


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"name":"unknown"}', 404),
        (b"{}", 400),
        (b'{"name":1}', 400),
        (b'{"name":["work"]}', 400),
        (b"no json", 400),
        (b"", 400),
    ],
)
def test_choose_wrongly(working: Swap, body: bytes, status: int) -> None:
    """1.3: anything but a profile's name or null is refused and changes nothing."""
    assert working.client.put("/api/profiles/active", content=body).status_code == status
    assert working.get("/api/profiles").json()["active"] == "work"


def test_told(cold: Swap) -> None:
    """1.11: a change is told to who listens."""
    with cold.events() as events:
        events.until("profileChanged", lambda data: data == {"active": None})
        cold.client.put("/api/profiles/active", json={"name": "play"})
        events.until("profileChanged", lambda data: data == {"active": "play"})
        cold.client.put("/api/profiles/active", json={"name": None})
        events.until("profileChanged", lambda data: data == {"active": None})


# What it does.


@pytest.mark.parametrize(
    ("name", "model"), [("llm", "b"), ("llm/big", "c"), ("a", "b"), ("straight", "a"), ("chosen", "b")]
)
def test_pins(working: Swap, name: str, model: str) -> None:
    """2.9: a pin leads to its target, whose name the body gets; it may be a model's name, and pins do not chain."""
    assert sent(working.ask(name))["model"] == model
    assert set(working.running()) == {model}


def test_pins_in_queries_and_forms(working: Swap) -> None:
    """2.9: so do those in a query and in a form."""
    working.get("/props?model=llm").raise_for_status()
    working.post("/v1/audio/transcriptions", files={"model": (None, "llm/big")}).raise_for_status()

    assert set(working.running()) == {"b", "c"}


def test_pins_before_filters(working: Swap) -> None:
    """2.9: a pin comes before aliases and filters: its target's parameters are set."""
    assert sent(working.ask("low"))["effort"] == "low"


def test_pin_to_a_peer(working: Swap) -> None:
    """2.9: a peer's model may be a target."""
    assert sent(working.ask("out"))["model"] == "far"
    assert working.running() == {}


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_switched_off(working: Swap, name: str) -> None:
    """2.9: a name that is switched off is a 404."""
    assert working.ask(name).status_code == 404


def test_pins_below_upstream(working: Swap) -> None:
    """2.9: below /upstream the longest pin wins, and the body stays as it is."""
    body = b'{"model":"llm"}'
    headers = {"content-type": "application/json"}
    request = seen(working.post("/upstream/llm/big/v1/chat/completions", content=body, headers=headers))

    assert (request["target"], request["body"]) == ("/v1/chat/completions", body.decode())
    assert set(working.running()) == {"c"}


def test_no_profile(cold: Swap) -> None:
    """2.9: without it its names mean nothing."""
    assert cold.ask("llm").status_code == 404
    assert sent(cold.ask("a"))["model"] == "a"
    assert set(cold.running()) == {"a"}


# Selectors.


def test_pin_strategy(cold: Swap) -> None:
    """2.9: `pin` takes the first target, and the body names it."""
    assert sent(cold.ask("pinned"))["model"] == "b"
    assert set(cold.running()) == {"b"}


def test_selector_of_a_peer(cold: Swap) -> None:
    """2.9: a target may be a peer's."""
    assert sent(cold.ask("mixed"))["model"] == "far"


def test_selector_in_query_and_form(cold: Swap) -> None:
    """2.9: a selector is a name like any other on model routes."""
    cold.get("/props?model=pinned").raise_for_status()
    cold.post("/v1/audio/transcriptions", files={"model": (None, "pinned")}).raise_for_status()

    assert set(cold.running()) == {"b"}


def test_warm_strategy(cold: Swap) -> None:
    """2.9: `warm` takes the first that is ready, else the first that starts, else the first."""
    waiting = cold.later(cold.ask, "slow", name="direct")
    eventually(lambda: cold.running() == {"slow": "starting"})
    joining = cold.later(cold.ask, "warm", name="joins")
    eventually(lambda: in_flight(cold) == 2)
    cold.ask("b").raise_for_status()

    assert sent(cold.ask("warm"))["model"] == "b"
    cold.post("/api/models/unload/slow")
    assert {waiting.result().status_code, joining.result().status_code} <= {500, 503}
    cold.get("/unload")
    assert sent(cold.ask("warm"))["model"] == "a"


def in_flight(swap: Swap) -> int:
    """How many requests there are, those that wait included."""
    with swap.events() as events:
        return len(events.until("inflight").get("requests", ()))


def test_spillover_strategy(cold: Swap) -> None:
    """2.9: `spillover` fills the first target, then starts the next, then takes the least busy."""
    held = [cold.later(cold.ask, "spill", do="hold", name="spill") for _ in range(2)]
    cold.await_start("a", "spill", 2)
    assert set(cold.running()) == {"a"}

    held += [cold.later(cold.ask, "spill", do="hold", name="spill") for _ in range(2)]
    cold.await_start("b", "spill", 2)
    assert sent(cold.ask("spill"))["model"] in {"a", "b"}
    for model in ("a", "b"):
        cold.child(model).go("spill")
    assert {each.result().status_code for each in held} == {200}


def test_spillover_counts_its_own(cold: Swap) -> None:
    """2.9: requests that name a target directly do not count."""
    held = [cold.hold("a", f"direct {number}") for number in range(2)]
    first = cold.ask("spill")
    for number in range(2):
        cold.child("a").go(f"direct {number}")

    assert sent(first)["model"] == "a"
    assert {each.result().status_code for each in held} == {200}
    assert set(cold.running()) == {"a"}
