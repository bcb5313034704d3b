"""What a log keeps of the planner's values is enough to decide the same again, and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec.json
import pytest

from supervisor.config.clients import ClientKey
from supervisor.config.values import Config, Filters, Model, Peer, Server
from supervisor.errors import Failure, ModelFailed
from supervisor.fleet.actions import Refuse, Spawn
from supervisor.fleet.essence import Essence
from supervisor.fleet.events import Exited, Reconfigured
from supervisor.fleet.planner import decide
from supervisor.fleet.queue import TicketId
from supervisor.fleet.step import Step
from supervisor.fleet.values import Fleet, Phase, Run, RunId
from supervisor.record.notation import plain
from tests.fleet.again import assert_same_again, through_json
from tests.fleet.test_memory_properties import MemoryWorld
from tests.fleet.test_properties import World
from tests.fleet.worlds import play_the_same

if TYPE_CHECKING:
    from supervisor.fleet.events import Event


class _Twice:
    """Every step is taken a second time by what a log would keep of it; so are all dialogues (scene.py)."""

    def __init__(self) -> None:
        super().__init__()
        self.essence = Essence()

    def step(self, event: Event) -> None:
        before = self.recounted()  # type: ignore[attr-defined]
        after, actions = decide(before, event, self.now)  # type: ignore[attr-defined]
        assert_same_again(self.essence, Step(self.now, before, event, actions), after)  # type: ignore[attr-defined]
        super().step(event)  # type: ignore[misc]


class WorldTwice(_Twice, World):
    pass


class MemoryWorldTwice(_Twice, MemoryWorld):
    pass


@pytest.mark.parametrize("world", [WorldTwice, MemoryWorldTwice])
def test_random_worlds(world: type[World]) -> None:
    """Whatever happens, what a log keeps of a step is enough to take it again."""
    play_the_same(world, count=25)


CANARY = "canary-1234567"


def test_secrets_and_commands_stay_behind() -> None:
    """Of keys, peers, environments, command lines, request filters and what a child printed nothing is kept."""
    model = Model(
        "a",
        options={"api-key": CANARY},
        env={"MY_TOKEN": CANARY},
        cmd=("serve", CANARY),
        cmd_stop=(CANARY,),
        proxy=f"http://me:{CANARY}@x",
        filters=Filters(force={"user": CANARY}),
        metadata={"note": CANARY},
    )
    config = Config(
        Path(f"/home/{CANARY}"),
        Server(api_keys=(CANARY,), store=CANARY),
        {"a": model},
        peers={"p": Peer(f"http://{CANARY}@x", (), api_key=CANARY)},
        keys={"k": ClientKey("k", secret=CANARY)},
        secrets=frozenset({CANARY}),
    )
    failure = Failure(
        "f",
        "a",
        "unknown",
        "it failed",
        "",
        "loading",
        "now",
        evidence=(CANARY,),
        stderr_tail=(CANARY,),
        command=(CANARY,),
    )
    run = Run(RunId(1), model, Phase.READY, 0.0, 0.0)
    essence = Essence()
    kept = (
        essence.fleet(Fleet(config, runs=(run,), failures={"a": failure})),
        essence.event(Reconfigured(config)),
        essence.event(Exited(RunId(1), failure)),
        essence.action(Spawn(run)),
        essence.action(Refuse(TicketId(1), ModelFailed(failure))),
    )

    assert CANARY not in msgspec.json.encode(plain(kept)).decode()
    assert through_json(kept[0]).failures["a"].message == "it failed"


def test_another_process_is_another_version() -> None:
    """Models that one process can serve stay equal; one that needs another stays different, and may come back."""
    essence = Essence()
    first, longer, other = (
        Model("a", options={"ctx-size": 1}),
        Model("a", options={"ctx-size": 1}, ttl=5.0),
        Model("a", options={"ctx-size": 2}),
    )

    assert essence.model(first).binary == essence.model(longer).binary != essence.model(other).binary
    assert essence.model(longer) != essence.model(first) == essence.model(replace(first, description="new"))


def test_secrets_in_texts_are_hidden() -> None:
    """Wherever a text has got one."""
    noted = plain(
        {"a": ("x", Failure("f", "a", "c", f"no {CANARY}", "", "loading", "now"))},
        lambda text: text.replace(CANARY, "***"),
    )

    assert noted["a"][1]["message"] == "no ***"
