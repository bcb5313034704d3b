"""The record of all requests that have ended: understood, counted and written by one thread, in batches.

The loop only puts what was kept of a request into a queue; no disk and no parser holds it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from supervisor.errors import RecordBusy
from supervisor.record.captures import Captures
from supervisor.record.recording import Recording
from supervisor.record.rows import body_of, row_of
from supervisor.record.store import RETRY_SECONDS, Store
from supervisor.record.turns import in_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from supervisor.config.values import Config, Server
    from supervisor.fleet.names import Target
    from supervisor.record.bus import Bus
    from supervisor.record.ended import Ended
    from supervisor.record.metrics import Metrics
    from supervisor.record.queries import Query
    from supervisor.record.recording import Client
    from supervisor.record.rows import Row, StoredRow

logger = logging.getLogger("supervisor.record")

KIND = "activity"
BATCH_SECONDS = 0.2
"""From the end of a request until its row is there."""
PAUSE_SECONDS = 0.05
BUSY = 2
"""Rows wait until no more requests than that end in such a time: what the thread does then keeps nobody waiting, and
a few rows at a time cost twice as much,"""
MOST_LOOKS = 20
"""but not for longer than so many of them,"""
MOST_RESTING = 5000
"""nor when so many wait."""
MOST_AT_ONCE = 500
"""Requests of one transaction."""
MOST_WHOLE = 32 * 1024**2
"""Bytes that requests may hold that wait for the thread; of later ones what is large is let go."""
MOST_WAITING = 50_000
"""Requests that may wait for the thread, if a disk holds it up; later ones are lost."""
BETWEEN_PAUSES = 32
"""Requests after which the thread lets the loop go on."""
ANSWER_SECONDS = 20.0
"""How long a question waits for the thread."""
SETTLE_SECONDS = 1.0
LAST_SECONDS = 5.0
"""How long the end of the service waits for the last rows."""

T = TypeVar("T")


class Activity:
    """The record of one service. It begins and ends with the `with` block, and is told of requests by the loop."""

    def __init__(
        self,
        server: Server,
        base: Path,
        *,
        bus: Bus,
        metrics: Metrics,
        redact: Callable[[str], str],
        priorities: Mapping[str, int] | None = None,
        store: Store | None = None,
    ) -> None:
        self._session_headers = [name.lower().encode() for name in server.session_id_headers]
        self._priorities = priorities or {}
        self._bus = bus
        self._metrics = metrics
        self.captures = Captures(server.capture_buffer, redact)
        path = base / server.store if server.store else None
        self._store = store or Store(path, server.metrics_max_in_memory)
        self._queue: deque[Ended] = deque()
        self._questions: deque[Callable[[], None]] = deque()
        self._looks = 0
        """How often a pause may still be looked for, before the thread begins without one."""
        self._is_due = False
        """Whether the thread is going to look at the queue."""
        self._is_ending = False
        self._held = self._let_go = 0
        """Bytes of the requests that have been put into the queue, and that the thread has done with."""
        self._overflowed = 0
        self._lost_told = 0
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)  # a disk may hang for ever

    def adopt(self, config: Config) -> None:
        """Let what another config says of sessions and priorities hold for rows to come."""
        self._session_headers = [name.lower().encode() for name in config.server.session_id_headers]
        self._priorities = config.priorities

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_ending = True
        self._work.set()
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            logger.error("the last requests could not be recorded within %.0f s", LAST_SECONDS)

    # What the loop does.

    def begin(
        self, client: Client, target: Target | None, path: str, *, name: str = "", body: bytes | None = None
    ) -> None:
        """Record this request once it has ended; `body` is what the model's server gets of it.

        Without a target, nothing is called as the `name` it came with.
        """
        Recording(client, name, target, path, body, self.captures.limit, self._session_headers, self._ended)

    def _ended(self, ended: Ended) -> None:
        waiting = len(self._queue)
        if waiting >= MOST_WAITING:
            self._overflowed += 1
            return
        if self._held - self._let_go >= MOST_WHOLE:
            ended.shed()
        self._held += ended.size
        self._queue.append(ended)
        if not self._is_due:
            self._is_due = True
            self._looks = MOST_LOOKS
            self._loop.call_later(BATCH_SECONDS, self._look, waiting)

    def _look(self, before: int) -> None:
        """Let the thread work in the pauses of busy times."""
        waiting = len(self._queue)
        is_busy = waiting - before > BUSY
        if is_busy and self._looks and waiting < MOST_RESTING:
            self._looks -= 1
            self._loop.call_later(PAUSE_SECONDS, self._look, waiting)
        else:
            self._work.set()

    async def page(self, query: Query) -> tuple[list[StoredRow], int]:
        """The rows of a page, and how many there are on all pages; raises `RecordBusy`."""
        return await self._ask(partial(self._store.page, query))

    async def statistics(self, models: Sequence[str] = ()) -> dict[str, object]:
        """Sums and spreads over these models, or all; raises `RecordBusy`."""
        return await self._ask(partial(self._store.statistics, models))

    async def settle(self) -> None:
        """Wait until all that has ended by now is counted, or for a moment if a disk holds that up."""
        with contextlib.suppress(RecordBusy):
            await self._ask(lambda: None, within=SETTLE_SECONDS)

    async def _ask(self, question: Callable[[], T], *, within: float = ANSWER_SECONDS) -> T:
        """Let the thread find out, after it has written what has ended by now."""
        answer: Future[T] = Future()

        def find_out() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(question())
                except Exception as exc:
                    answer.set_exception(exc)

        self._questions.append(find_out)
        self._work.set()
        try:
            async with asyncio.timeout(within):
                return await asyncio.wrap_future(answer)
        except TimeoutError as exc:
            raise RecordBusy(
                f"the record of requests did not answer within {within:.0f} s",
                hint="its disk is slow, or there are very many rows",
            ) from exc

    # What the thread does.

    def _run(self) -> None:
        with self._store:
            while not self._is_ending or self._queue:
                self._work.wait(RETRY_SECONDS if self._store.problem else None)
                self._work.clear()
                self._is_due = False  # before we look: whoever comes after that wakes us again
                self._write_all()
                while self._questions:
                    self._questions.popleft()()

    def _write_all(self) -> None:
        if self._store.problem and not self._queue:
            self._tell(self._store.add(()))
        while self._queue:
            some = [self._queue.popleft() for _ in range(min(len(self._queue), MOST_AT_ONCE))]
            try:
                self._write(some)
            except Exception:
                logger.exception("bug: the record of %d requests broke", len(some))
                self._metrics.lost(len(some))
            self._let_go += sum(ended.size for ended in some)
        self._tell_lost()

    def _write(self, requests: Sequence[Ended]) -> None:
        rows = []
        for ended in in_turns(requests, BETWEEN_PAUSES):
            row = self._understood(ended)
            if row is not None:
                rows.append(row)
                self._metrics.ended(ended, row)
                if ended.asked is not None:
                    self.captures.keep(self._store.last_id + len(rows), self.captures.capture(ended, body_of(ended)))
        self._tell(self._store.add(rows))

    def _understood(self, ended: Ended) -> Row | None:
        try:
            return row_of(ended, self._priorities)
        except Exception:
            logger.exception("bug: a request of %s could not be understood", ended.model)
            self._metrics.lost(1)
            return None

    def _tell(self, numbers: Sequence[int]) -> None:
        if numbers and self._bus.is_heard and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._publish, numbers)

    def _publish(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._bus.publish(KIND, {"id": number}, can_wait=True)

    def _tell_lost(self) -> None:
        lost = self._overflowed + self._store.lost
        if lost > self._lost_told:
            self._metrics.lost(lost - self._lost_told)
            logger.error("%d requests could not be recorded: the disk is too slow", lost - self._lost_told)
            self._lost_told = lost

    def __repr__(self) -> str:
        return f"<Activity [{len(self._queue)} waiting | {self._store}]>"
