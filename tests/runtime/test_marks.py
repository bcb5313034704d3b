"""Knowing our processes by mark, pid and start time."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from supervisor.runtime.marks import MARK, boot_id, carriers, pid_namespace, started_at, still_is, zombies_below
from tests.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEPER = [sys.executable, "-S", "-c", "import signal; signal.pause()"]


@contextmanager
def sleeper(mark: str, **options: bool) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEPER, env={**os.environ, MARK: mark}, **options)
    try:
        eventually(lambda: carriers(mark))
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_process_is_found_by_its_mark_wherever_it_is() -> None:
    """A session of its own hides nothing; what it starts has its mark, too."""
    with sleeper("first.1", start_new_session=True) as process:
        (found,) = carriers("first.1")

        assert (found.pid, found.started) == (process.pid, started_at(process.pid))
        assert (found.mark, found.run, found.leads_group) == ("first.1", "1", True)


def test_other_marks_are_other_peoples() -> None:
    """`token.1` is neither `token.10` nor `other.1`; `token.` stands for all runs of one service."""
    with sleeper("first.1") as one, sleeper("first.10") as ten, sleeper("second.1") as stranger:
        assert [found.pid for found in carriers("first.1")] == [one.pid]
        assert {found.pid for found in carriers("first.")} == {one.pid, ten.pid}
        assert [found.pid for found in carriers("second.")] == [stranger.pid]
        assert carriers("irst.1") == []
        assert not carriers("first.1")[0].leads_group


def test_a_pid_alone_is_nobody() -> None:
    """Another process that has got the pid is not the one that was meant."""
    with sleeper("first.1"):
        (found,) = carriers("first.1")

        assert still_is(found)
        assert not still_is(found._replace(started=found.started + 1))
        assert not still_is(found._replace(mark="second.1"))
    assert not still_is(found)


def test_zombies_are_dead() -> None:
    """What has ended and is not reaped carries nothing any more, but is seen as a zombie of its parent."""
    process = subprocess.Popen(SLEEPER, env={**os.environ, MARK: "first.1"})
    try:
        started = started_at(process.pid)
        process.kill()
        eventually(lambda: started_at(process.pid) is None)

        assert carriers("first.1") == []
        assert (process.pid, started) in zombies_below(os.getpid())
        assert (process.pid, started) not in zombies_below(1)
    finally:
        process.wait()
    assert started_at(process.pid) is None


def test_where_pids_have_their_meaning() -> None:
    """A boot and a namespace have names that stay."""
    assert boot_id() == boot_id() != ""
    assert pid_namespace().startswith("pid:[")
