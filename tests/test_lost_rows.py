"""Rows in a file while many streams end at once: none is lost, and `kill -9` costs the last ones at most."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import sqlite3
import threading
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.conftest import DEADLINE, RunningService, eventually, running_service
from tests.proxy.conftest import fake_cmd, http_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = f'[server]\nstore = "activity.db"\n[models.fake]\ncmd = {fake_cmd()}'
BODY = json.dumps({"model": "fake", "stream": True, "usage": {"prompt_tokens": 25, "completion_tokens": 4}})
CLIENTS = 8
LONG = 10 * DEADLINE

MANY = pytest.mark.parametrize("streams", [600, pytest.param(10_000, marks=pytest.mark.slow)])


class Clients:
    """Some who ask for one stream after the other, each in a session of its own, until there were enough."""

    def __init__(self, service: RunningService, streams: int) -> None:
        self._port = int(service.url.rpartition(":")[2])
        self._streams = streams
        self._numbers = count(1)
        self.ended: list[str] = []
        """The sessions of streams that came to their end, in that order."""
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """They ask, and have stopped when the block is over."""
        for thread in self._threads:
            thread.start()
        yield
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            while (number := next(self._numbers)) <= self._streams:
                headers = {"content-type": "application/json", "x-do": "sse", "x-name": "go"}
                headers["x-session-id"] = f"s{number}"
                connection.request("POST", "/v1/chat/completions", BODY, headers)
                answer = connection.getresponse().read()
                assert answer.endswith(b"data: [DONE]\n\n")
                self.ended.append(f"s{number}")


def prepared(service: RunningService) -> None:
    """The child is there, and no stream waits for anything."""
    with http_to(service.url) as http_client:
        assert http_client.post("/upstream/fake/go/go").status_code == 200


def rows_in(path: Path) -> list[tuple[int, str]]:
    """The number and the session of every row, in a database that is whole."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return list(database.execute("SELECT id, session_id FROM activity ORDER BY id"))


def newest(service: RunningService) -> tuple[int, int]:
    """The number of the row that was written last, and how many there are."""
    with http_to(service.url) as http_client:
        page = http_client.get("/api/metrics/activity", params={"limit": 1}).json()
    return page["data"][0]["id"], page["total"]


@MANY
def test_no_row_is_lost(tmp_path: Path, streams: int) -> None:
    """Every stream has its row, once, with its tokens; the counters agree."""
    with running_service(tmp_path / "service", CONFIG) as service:
        prepared(service)
        clients = Clients(service, streams)
        with clients.asking():
            pass
        with http_to(service.url) as http_client:
            told = http_client.get("/metrics").text
            sums = http_client.get("/api/metrics/stats").json()

        assert (sums["total_requests"], sums["total_output_tokens"]) == (streams, 4 * streams)
        assert f'llama_supervise_generated_tokens_total{{model="fake"}} {float(4 * streams)}' in told
        assert "llama_supervise_activity_rows_lost_total 0.0" in told
    rows = rows_in(tmp_path / "service" / "activity.db")
    assert sorted(session for _, session in rows) == sorted(clients.ended)
    assert len(rows) == streams


@MANY
def test_killed_while_it_writes(tmp_path: Path, streams: int) -> None:
    """The database is whole, no row is there twice, and what is missing are the last ones; numbers go on."""
    path = tmp_path / "service" / "activity.db"
    with running_service(tmp_path / "service", CONFIG) as service:
        prepared(service)
        clients = Clients(service, streams)
        with clients.asking():
            eventually(lambda: len(clients.ended) > streams // 2, within=LONG)
            settled = set(clients.ended)
            newest(service)  # whoever asks is answered after all that had ended was written
            eventually(lambda: len(clients.ended) > streams * 3 // 4, within=LONG)
            service.process.send_signal(signal.SIGKILL)
        service.process.wait()
    rows = rows_in(path)
    numbers, sessions = [number for number, _ in rows], [session for _, session in rows]

    assert numbers == list(range(1, len(rows) + 1))
    assert len(set(sessions)) == len(sessions)
    assert settled <= set(sessions)
    missing = [session for session in clients.ended if session not in set(sessions)]
    assert set(missing) <= set(clients.ended[-len(missing) - CLIENTS :])  # ends may cross on their way

    with running_service(tmp_path / "service", CONFIG) as service:
        service.chat("fake")
        assert newest(service) == (numbers[-1] + 1, numbers[-1] + 1)
