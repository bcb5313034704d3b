"""Another config while the service runs (spec 2.11): by SIGHUP and by -watch-config.

Where llama-swap stops everything and cuts what is under way, we do not; the rest is as there.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.conftest import eventually
from tests.llamaswap.conftest import following, running_command, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.llamaswap.conftest import Swap

GROUP = "groups: {all: {swap: false, members: [a, b]}}\n"
TWO = f"{GROUP}models:\n  a: {{cmd: '<child>'}}\n  b: {{cmd: '<child>'}}\n"


def save(swap: Swap, text: str, name: str = "config.yaml") -> None:
    """Another config, all of it at once."""
    (swap.directory / "new").write_text(written(text, swap.directory, swap.start_port))
    (swap.directory / "new").replace(swap.directory / name)


def hang_up(swap: Swap, text: str) -> None:
    """Another config, and the signal; back once it holds, or was refused."""
    save(swap, text)
    before = reloads(swap)
    swap.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(swap) > before)


def reloads(swap: Swap) -> int:
    return swap.get("/logs/proxy").text.count("been reloaded")


def names(swap: Swap) -> list[str]:
    return [model["id"] for model in swap.get("/v1/models").json()["data"]]


def test_sighup(start_swap: Callable[..., Swap]) -> None:
    """2.11: on SIGHUP the file is read again, and what it says holds."""
    swap = start_swap(TWO)
    hang_up(swap, "models:\n  a: {cmd: '<child>'}\n  c: {cmd: '<child>', aliases: [see]}\n")

    assert names(swap) == ["a", "c"]
    assert [swap.ask(name).status_code for name in ("see", "b")] == [200, 404]


def test_what_is_the_same_goes_on(start_swap: Callable[..., Swap]) -> None:
    """2.11, but: a model that the file has not changed keeps its process, and requests under way are not cut."""
    swap = start_swap(TWO)
    same, other = swap.hold("a", "same"), swap.hold("b", "other")
    pids = {name: swap.child_pid(name) for name in "ab"}
    old = swap.child("b")
    hang_up(swap, TWO.replace("b: {cmd: '<child>'}", "b: {cmd: '<child> --websockets-none'}"))
    later = swap.later(swap.ask, "b")
    swap.child("a").go("same")
    old.go("other")

    assert (same.result().text, other.result().text) == ("held", "held")
    assert later.result().status_code == 200
    assert (len(swap.starts("a")), len(swap.starts("b"))) == (1, 2)
    assert swap.child_pid("a") == pids["a"]
    assert "--websockets-none" in swap.starts("b")[-1]["argv"]


def test_a_bad_config(start_swap: Callable[..., Swap]) -> None:
    """2.11: a config that is wrong is told, and the old one stays in force."""
    swap = start_swap(TWO)
    swap.ask("a").raise_for_status()
    hang_up(swap, "models:\n  a: {cmd: '<child>', ttl: soon}\n  a b: nonsense\n")

    assert "models.a.ttl" in swap.get("/logs/proxy").text
    assert names(swap) == ["a", "b"]
    assert swap.ask("b").status_code == 200
    assert swap.running() == {"a": "ready", "b": "ready"}


@pytest.mark.parametrize("kind", ["in place", "by rename"])
def test_watch_config(start_swap: Callable[..., Swap], kind: str) -> None:
    """2.11: with -watch-config a file that changes is read again, and one that is away for a moment is waited for."""
    swap = start_swap(TWO, "-watch-config")
    path = swap.directory / "config.yaml"
    for name in ("c", "d"):
        text = f"models:\n  {name}: {{cmd: '<child>'}}\n"
        if kind == "in place":
            path.unlink()
            path.write_text(written(text, swap.directory, swap.start_port))
        else:
            save(swap, text)
        eventually(lambda name=name: names(swap) == [name])

    assert reloads(swap) == 2
    assert swap.ask("d").status_code == 200


def test_without_the_flag_nothing_is_watched(start_swap: Callable[..., Swap]) -> None:
    """2.11: only -watch-config watches; the signal works all the same."""
    swap = start_swap(TWO)
    save(swap, "models:\n  c: {cmd: '<child>'}\n")
    swap.ask("a").raise_for_status()
    assert names(swap) == ["a", "b"]

    hang_up(swap, "models:\n  c: {cmd: '<child>'}\n")
    assert names(swap) == ["c"]


def test_watch_config_dir(tmp_path: Path) -> None:
    """2.11: files of the folder come, change and go; a folder that is empty for a while is left at that."""
    folder = tmp_path / "d"
    folder.mkdir()

    def put(name: str, text: str) -> None:
        (tmp_path / "new").write_text(written(text, tmp_path, 20000))
        (tmp_path / "new").replace(folder / name)

    put("1.yaml", "models: {a: {cmd: '<child>'}}")
    with running_command(tmp_path, "-config-dir", folder, "-watch-config") as swap:
        put("2.yml", "models: {b: {cmd: '<child>'}}")
        eventually(lambda: names(swap) == ["a", "b"])
        put("1.yaml", "models: {c: {cmd: '<child>'}}")
        eventually(lambda: names(swap) == ["b", "c"])
        (folder / "2.yml").unlink()
        eventually(lambda: names(swap) == ["c"])
        (folder / "1.yaml").unlink()
        put("3.yaml", "models: {d: {cmd: '<child>'}}")
        eventually(lambda: names(swap) == ["d"])


def test_streams_stay_open(start_swap: Callable[..., Swap]) -> None:
    """1.11 and 2.11, but: who watches goes on watching, and is told the models that there are now."""
    swap = start_swap(TWO)
    with swap.events() as events, following(swap, "/logs/stream") as until:
        events.until("inflight")
        settings = "ui: {activity: {session_id: [X-Mine]}}\n"
        hang_up(swap, f"{settings}models:\n  a: {{cmd: '<child>', name: New}}\n  c: {{cmd: '<child>'}}\n")

        assert events.until("uiConfig") == {"activity": {"session_id": ["X-Mine"]}}
        models = events.until("modelStatus", lambda models: [model["id"] for model in models] == ["a", "c"])
        assert models[0]["name"] == "New"
        until("the config has been reloaded")
        swap.ask("c").raise_for_status()
        events.until("modelStatus", lambda models: models[1]["state"] == "ready")


def test_the_active_profile(start_swap: Callable[..., Swap]) -> None:
    """2.9, but: a profile stays active if the new file has it too; one that is gone is none, and pages are told."""
    profiles = "profiles: {night: {pins: {llm: a}}}\n"
    swap = start_swap(profiles + TWO)
    swap.client.put("/api/profiles/active", json={"name": "night"}).raise_for_status()
    hang_up(swap, profiles.replace("llm: a", "llm: b") + TWO)
    swap.ask("llm").raise_for_status()
    assert swap.running() == {"b": "ready"}

    with swap.events() as events:
        assert events.until("profileChanged") == {"active": "night"}
        hang_up(swap, TWO)
        assert events.until("profileChanged") == {"active": None}
    assert swap.ask("llm").status_code == 404


def test_preload(start_swap: Callable[..., Swap]) -> None:
    """2.10, but: what the file names anew is loaded, and what the reload took down; what was unloaded stays so."""
    preload = "hooks: {on_startup: {preload: [a]}}\n"
    swap = start_swap(preload + TWO)
    eventually(lambda: swap.running() == {"a": "ready"})
    hang_up(swap, preload.replace("[a]", "[b, a]") + TWO)
    eventually(lambda: swap.running() == {"a": "ready", "b": "ready"})
    swap.post("/api/models/unload/b").raise_for_status()
    hang_up(swap, preload.replace("[a]", "[b, a]") + TWO.replace("a: {cmd: '<child>'}", "a: {cmd: '<child> --other'}"))
    eventually(lambda: len(swap.starts("a")) == 2)

    eventually(lambda: swap.running() == {"a": "ready"})
    assert len(swap.starts("b")) == 1


def test_ports_move(start_swap: Callable[..., Swap]) -> None:
    """3.4: ports are given in the order of the models' names, so that one put in front moves the others on."""
    swap = start_swap("groups: {all: {swap: false, members: [b]}}\nmodels:\n  b: {cmd: '<child>'}\n")
    held = swap.hold("b", "held")
    old = swap.child("b")
    hang_up(swap, TWO)
    both = [swap.later(swap.ask, name) for name in "ab"]
    eventually(lambda: [row["waiting"] for row in swap.get("/status").json()["models"]] == [1, 1])
    assert swap.running().keys() == {"b"}
    old.go("held")

    assert held.result().text == "held"
    assert [each.result().status_code for each in both] == [200, 200]
    assert [swap.starts(name)[-1]["port"] - swap.start_port for name in "ab"] == [0, 1]


def test_a_websocket_lasts(start_swap: Callable[..., Swap]) -> None:
    """2.11, but: one to a model that is another now goes on, to the process it was opened to."""

    swap = start_swap(TWO)
    swap.ask("a").raise_for_status()
    with swap.socket("/upstream/a/ws") as socket:
        hang_up(swap, TWO.replace("a: {cmd: '<child>'}", "a: {cmd: '<child> --other'}"))
        socket.send("still there")

        assert socket.recv() == "still there"
    assert swap.ask("a").status_code == 200
    assert len(swap.starts("a")) == 2
