"""The config in force: one for the whole service, replaced as a whole, one reload after the other.

Whoever derives something from the config is a follower; nobody else keeps a copy. What another config changes is
decided by `config.changes`, what becomes of processes by the planner.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeAlias

import anyio.to_thread

from supervisor.config import changes
from supervisor.config.changes import Plan
from supervisor.config.problems import ConfigInvalid
from supervisor.config.secrets import shown_problem
from supervisor.errors import ConfigRejected, InternalError, ShuttingDown, SupervisorError

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config.values import Config
    from supervisor.runtime.foresight import Foresight

logger = logging.getLogger("supervisor.config")

Outcome: TypeAlias = Plan | SupervisorError


class Configuration:
    """What the service runs by, and how it gets another config: read off the loop, then adopted in one turn of it."""

    def __init__(self, config: Config, read: Callable[[], Config] | None = None) -> None:
        """`read` gives the config as its files say it now; raises `ConfigInvalid`. Without it nothing ever changes."""
        self.config = config
        self.followers: list[Callable[[Config], None]] = []
        """Given each config that comes into force, in this order; must not wait."""
        self.on_begin: list[Callable[[], None]] = []
        """Called when a reload begins."""
        self.on_end: list[Callable[[Outcome], None]] = []
        """Told how each reload has ended."""
        self.foresight: Foresight | None = None
        """What tells which models of another config could not start."""
        self._read = read or (lambda: self.config)
        self._asked = asyncio.Event()
        self._waiting: list[asyncio.Future[Outcome]] = []
        self._is_over = False

    async def run(self) -> None:
        """Reload whenever that is asked for; runs until cancelled.

        Who asks while a reload is under way gets another one, for his change may have come after its reading.
        """
        waiting: list[asyncio.Future[Outcome]] = []
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                waiting, self._waiting = self._waiting, []
                outcome = await self._reload()
                _answer(waiting, outcome)
        finally:
            self._is_over = True
            _answer([*waiting, *self._waiting], _shutting_down())

    def trigger(self, reason: str) -> None:
        """Ask for a reload; do not wait."""
        logger.info("reading the config again: %s", reason)
        self._asked.set()

    async def reload(self) -> Plan:
        """Adopt what the files say now; what that has changed.

        Raises `ConfigRejected` when they are no good, in which case nothing has changed, and `ShuttingDown`.
        """
        if self._is_over:
            raise _shutting_down()
        waiting: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self.trigger("asked to")
        outcome = await waiting
        if isinstance(outcome, SupervisorError):
            raise outcome
        return outcome

    async def plan(self) -> Plan:
        """What a reload would change now; raises `ConfigRejected`."""
        return await self._planned(await self._reading())

    async def _reload(self) -> Outcome:
        for begun in self.on_begin:
            begun()
        outcome: Outcome
        try:
            config = await self._reading()
        except SupervisorError as exc:
            outcome = exc
        else:
            outcome = await self._planned(config)
            self._adopt(config, outcome)
        _log(outcome)
        for told in self.on_end:
            told(outcome)
        return outcome

    async def _reading(self) -> Config:
        try:
            return await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        except ConfigInvalid as exc:
            raise _rejected(exc) from exc
        except Exception as exc:  # a bug of a reader must not end the service that runs by what was read before
            logger.exception("bug: reading the config broke")
            raise InternalError("reading the config broke; the service's log has the details") from exc

    async def _planned(self, config: Config) -> Plan:
        plan = changes.plan(self.config, config)
        if self.foresight is None:
            return plan
        broken = await self.foresight.broken(config, (*plan.added, *plan.restarted))
        return changes.plan(self.config, config).foreseen(broken, self.foresight.running())

    def _adopt(self, config: Config, plan: Plan) -> None:
        self.config = changes.adopted(self.config, config, plan.kept)
        for warning in config.warnings:
            logger.warning("%s", shown_problem(warning))
        for follow in self.followers:
            try:
                follow(self.config)
            except Exception:  # the others must not be left with the old config
                logger.exception("bug: %r could not follow the config", follow)

    def __repr__(self) -> str:
        return f"<Configuration [{len(self.config.models)} models | {len(self.followers)} followers]>"


def _answer(waiting: list[asyncio.Future[Outcome]], outcome: Outcome) -> None:
    for each in waiting:
        if not each.done():  # its client may have left
            each.set_result(outcome)


def _rejected(invalid: ConfigInvalid) -> ConfigRejected:
    problems = tuple(str(shown_problem(problem)) for problem in invalid.problems)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigRejected(f"`{invalid.source or 'the config'}` cannot be used: {count}", problems=problems)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("shutting down")


def _log(outcome: Outcome) -> None:
    if isinstance(outcome, Plan):
        troubles = set(outcome.troubles())
        for line in outcome.lines():
            logger.log(logging.WARNING if line in troubles else logging.INFO, "config: %s", line)
        logger.info("the config has been reloaded%s", "" if outcome else ": nothing is different")
        return
    for problem in outcome.problems if isinstance(outcome, ConfigRejected) else ():
        logger.error("config: %s", problem)
    logger.error("the config has not been reloaded, and the old one stays in force: %s", outcome)
