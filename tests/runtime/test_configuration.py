"""The config in force: one reload after the other, and nothing is lost or half done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.config.changes import Plan
from supervisor.config.problems import ConfigInvalid, Problem
from supervisor.config.values import Config, Model, Server
from supervisor.errors import ConfigRejected, InternalError, ShuttingDown
from supervisor.runtime.configuration import Configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

OLD = Config(Path("/"), Server(), {"a": Model("a")})
NEW = Config(Path("/"), Server(port=1, max_loaded=2), {"b": Model("b")})
INVALID = ConfigInvalid(
    [Problem("server.max_loaded", "a number", "many"), Problem("server.api_keys[0]", "a text", "canary")],
    source=Path("models.toml"),
)


class Files:
    """What is read is what the test has put there; a gate lets it hold a reading up."""

    def __init__(self) -> None:
        self.says: Config | Exception = OLD
        self.readings = 0
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def read(self) -> Config:
        says = self.says
        self.readings += 1
        self.begun.set()
        self.gate.wait(10)
        if isinstance(says, Exception):
            raise says
        return says


@contextlib.asynccontextmanager
async def a_configuration() -> AsyncIterator[tuple[Configuration, Files]]:
    files = Files()
    configuration = Configuration(OLD, files.read)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(configuration.run)
            yield configuration, files
            files.gate.set()
            tasks.cancel_scope.cancel()


async def begun(files: Files) -> None:
    """A reading is under way."""
    assert await asyncio.to_thread(files.begun.wait, 10)


async def test_a_reload_is_adopted_by_everybody_in_order() -> None:
    """Followers get what holds, after it has come into force; what needs a restart does not hold."""
    async with a_configuration() as (configuration, files):
        heard: list[tuple[str, Config, Config]] = []
        for name in ("first", "second"):
            configuration.followers.append(lambda config, name=name: heard.append((name, config, configuration.config)))  # type: ignore[misc]
        files.says = NEW
        plan = await configuration.reload()

        held = Config(Path("/"), Server(max_loaded=2), {"b": Model("b")})
        assert heard == [("first", held, held), ("second", held, held)]
        assert plan.needs_restart == ("server.listen",)
        assert (await configuration.plan()) == Plan(unchanged=1, needs_restart=("server.listen",))


async def test_a_plan_changes_nothing() -> None:
    """It only tells."""
    async with a_configuration() as (configuration, files):
        configuration.followers.append(lambda _: pytest.fail("a plan was adopted"))
        files.says = NEW

        assert (await configuration.plan()).added == ("b",)
        assert configuration.config is OLD


async def test_what_is_no_good_changes_nothing_and_is_told_whole(caplog: pytest.LogCaptureFixture) -> None:
    """Every problem, to whoever asked and to the log; but not what stands where a secret should."""
    async with a_configuration() as (configuration, files):
        configuration.followers.append(lambda _: pytest.fail("it was adopted"))
        outcomes: list[object] = []
        configuration.on_end.append(outcomes.append)
        files.says = INVALID
        with caplog.at_level(logging.INFO), pytest.raises(ConfigRejected) as rejected:
            await configuration.reload()

        assert rejected.value.problems == (
            "server.max_loaded: expected a number, found `many`",
            "server.api_keys[0]: expected a text, found `[redacted]`",
        )
        assert "`models.toml` cannot be used: 2 problems" in str(rejected.value)
        assert outcomes == [rejected.value]
        assert configuration.config is OLD
        assert all(problem in caplog.text for problem in rejected.value.problems)
        assert "canary" not in caplog.text


async def test_a_trigger_during_a_reload_causes_another_one() -> None:
    """However many there are, it is one; what was written before the last of them is read."""
    async with a_configuration() as (configuration, files):
        files.gate.clear()
        first = asyncio.ensure_future(configuration.reload())
        await begun(files)
        files.says = NEW
        later = [asyncio.ensure_future(configuration.reload()) for _ in range(3)]
        configuration.trigger("SIGHUP")
        await anyio.wait_all_tasks_blocked()
        files.gate.set()

        assert await first == Plan(unchanged=1)
        assert [(await each).added for each in later] == [("b",)] * 3
        assert files.readings == 2
        assert configuration.config.models.keys() == {"b"}


async def test_beginning_and_end_are_told() -> None:
    """Once each, also of a reload that fails: whoever is told that it begins may be waiting for its end."""
    async with a_configuration() as (configuration, files):
        heard: list[str] = []
        configuration.on_begin.append(lambda: heard.append("begin"))
        configuration.followers.append(lambda _: heard.append("adopt"))
        configuration.on_end.append(lambda outcome: heard.append(type(outcome).__name__))
        files.says = NEW
        await configuration.reload()
        files.says = INVALID
        with pytest.raises(ConfigRejected):
            await configuration.reload()

    assert heard == ["begin", "adopt", "Plan", "begin", "ConfigRejected"]


async def test_two_triggers_before_a_reload_are_one() -> None:
    """Nothing is read twice for nothing."""
    async with a_configuration() as (configuration, files):
        configuration.trigger("SIGHUP")
        configuration.trigger("SIGHUP")

        await configuration.reload()
        assert files.readings == 1


async def test_who_leaves_does_not_stop_the_reload() -> None:
    """Nor those who asked with him."""
    async with a_configuration() as (configuration, files):
        files.gate.clear()
        files.says = NEW
        leaving, staying = (asyncio.ensure_future(configuration.reload()) for _ in range(2))
        await begun(files)
        leaving.cancel()
        await anyio.wait_all_tasks_blocked()
        files.gate.set()

        assert (await staying).added == ("b",)


async def test_a_bug_of_one_follower_keeps_no_other_from_following(caplog: pytest.LogCaptureFixture) -> None:
    """And the next reload works."""
    async with a_configuration() as (configuration, files):
        followed: list[Config] = []
        configuration.followers += [lambda _: 1 / 0, followed.append]  # type: ignore[list-item]
        files.says = NEW
        await configuration.reload()

        assert followed == [configuration.config]
        assert "bug: " in caplog.text


async def test_a_bug_of_the_reader_is_told_and_changes_nothing() -> None:
    """The service goes on by what it has read before."""
    async with a_configuration() as (configuration, files):
        files.says = RuntimeError("a bug")
        with pytest.raises(InternalError):
            await configuration.reload()
        files.says = NEW

        assert (await configuration.reload()).added == ("b",)


async def test_who_still_waits_at_the_end_is_told() -> None:
    """A reload that is under way when the service ends answers nobody any more, and so are later ones."""
    async with a_configuration() as (configuration, files):
        files.gate.clear()
        waiting = asyncio.ensure_future(configuration.reload())
        await begun(files)
        queued = asyncio.ensure_future(configuration.reload())
        await anyio.wait_all_tasks_blocked()

    for each in (waiting, queued, configuration.reload()):
        with pytest.raises(ShuttingDown):
            await each
