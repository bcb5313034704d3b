"""Ending what a dead service has left behind: all of it, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from supervisor.llama.command import Command
from supervisor.llama.endpoint import TcpEndpoint
from supervisor.runtime.ending import end_carriers
from supervisor.runtime.marks import MARK, carriers, started_at
from supervisor.runtime.orphans import end_orphans
from supervisor.runtime.process import Process
from supervisor.runtime.reaper import keep_reaping
from supervisor.runtime.roster import OWNER, Entry, Owner
from supervisor.runtime.rundir import claimed
from tests.conftest import alive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.runtime.orphans import Legacy

pytestmark = pytest.mark.anyio

SLEEP = "import signal; print('up', flush=True); signal.pause()"
DEAF = f"import signal; signal.signal(15, signal.SIG_IGN); {SLEEP}"
TO_A_FILE = (
    "import os, sys; open(sys.argv[1], 'a').write(' '.join([*sys.argv[2:], os.environ.get('FROM', '')]) + '\\n')"
)


class Dead:
    """A service that was killed, with processes it could not end."""

    def __init__(self, base: Path, stack: ExitStack) -> None:
        self.base = base
        self._stack = stack
        gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
        gone.wait()
        self.owner = msgspec.structs.replace(Owner.myself(), pid=gone.pid, started=1)
        self.folder = base / "llama-supervise-dead"
        self.folder.mkdir()
        self._write_owner()

    def changed(self, **fields: str) -> None:
        self.owner = msgspec.structs.replace(self.owner, **fields)
        self._write_owner()

    def _write_owner(self) -> None:
        (self.folder / OWNER).write_bytes(msgspec.json.encode(self.owner))

    def process(self, run: int | None, code: str = SLEEP, **environ: str) -> int:
        """A process of this run in its own session; None: one without a mark."""
        mark = {} if run is None else {MARK: f"{self.owner.token}.{run}"}
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            env={**os.environ, **mark, **environ},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._stack.callback(_finish, process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process.pid

    def entry(self, run: int, pid: int | None = None, *stop: object, started: int | None = None) -> None:
        """What it has written down of a child."""
        since = started if started is not None or pid is None else started_at(pid)
        entry = Entry(run, f"model-{run}", tuple(map(str, stop)), 1.0, str(self.base), pid, since)
        (self.folder / f"run-{run}.json").write_bytes(msgspec.json.encode(entry))

    async def buried(self) -> Legacy:
        with claimed({"RUNTIME_DIRECTORY": str(self.base)}) as claim:
            (legacy,) = await end_orphans(
                claim.abandoned, environment=lambda model: {**os.environ, "FROM": model}, redact=str
            )
        return legacy


def _finish(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture
def dead() -> Iterator[Dead]:
    with ExitStack() as stack:
        yield Dead(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp"))), stack)


async def test_every_process_with_its_mark_is_ended(dead: Dead) -> None:
    """Children and what left their groups; told in one line, with the model's name and the pid."""
    child, grandchild = dead.process(1), dead.process(1)
    dead.entry(1, child)
    legacy = await dead.buried()

    assert not alive(child)
    assert not alive(grandchild)
    assert str(legacy).startswith(f"a service before this one (pid {dead.owner.pid}) did not end well: ended model-1 (")
    assert f"(pid {child})" in str(legacy)
    assert f"(pid {grandchild})" in str(legacy)
    assert not dead.folder.exists()


async def test_one_that_was_never_written_down(dead: Dead) -> None:
    """The mark is enough: the service may have died between a spawn and its record."""
    child = dead.process(7)
    legacy = await dead.buried()

    assert not alive(child)
    assert f"(pid {child})" in str(legacy)


async def test_one_that_ignores_everything(dead: Dead) -> None:
    """SIGKILL comes after the time its model was allowed."""
    child = dead.process(1, DEAF)
    dead.entry(1, child)
    legacy = await dead.buried()

    assert not alive(child)
    assert f"model-1 (pid {child} killed)" in str(legacy)


async def test_one_that_was_stopped_in_its_tracks(dead: Dead) -> None:
    """A process under SIGSTOP hears SIGTERM too, for it is let go on."""
    child = dead.process(1)
    dead.entry(1, child)
    os.kill(child, 19)
    legacy = await dead.buried()

    assert not alive(child)
    assert "killed" not in str(legacy)


async def test_a_pid_that_is_somebody_elses_now(dead: Dead) -> None:
    """A process with the recorded pid but another start, or without the mark, is not touched."""
    reused, unmarked = dead.process(None), dead.process(None)
    dead.entry(1, reused, started=1)
    dead.entry(2, unmarked)
    legacy = await dead.buried()

    assert alive(reused)
    assert alive(unmarked)
    assert f"left pid {unmarked} of model-2 alone" in str(legacy)
    assert str(reused) not in str(legacy)


async def test_another_service_of_the_same_user(dead: Dead) -> None:
    """Its children have another token."""
    theirs = dead.process(None, **{MARK: "another-token.1"})
    mine = dead.process(1)
    await dead.buried()

    assert alive(theirs)
    assert not alive(mine)


async def test_its_stop_commands_are_run(dead: Dead) -> None:
    """With the environment the model has today; a container is ended by nothing else."""
    note = dead.base / "note"
    child = dead.process(1)
    dead.entry(1, child, sys.executable, "-S", "-c", TO_A_FILE, note, "one", "${PID}")
    dead.entry(2, None, sys.executable, "-S", "-c", TO_A_FILE, note, "two")
    legacy = await dead.buried()

    assert set(note.read_text().splitlines()) == {f"one {child} model-1", "two model-2"}
    assert str(legacy).count("ran `") == 2


async def test_a_stop_command_with_a_pid_that_is_gone(dead: Dead) -> None:
    """`kill ${PID}` is not run when the pid may be a stranger's."""
    note = dead.base / "note"
    stranger = dead.process(None)
    dead.entry(1, stranger, sys.executable, "-S", "-c", TO_A_FILE, note, "${PID}")
    dead.entry(2, None, sys.executable, "-S", "-c", TO_A_FILE, note, "${PID}")
    await dead.buried()

    assert not note.exists()


async def test_a_stop_command_without_end(dead: Dead, caplog: pytest.LogCaptureFixture) -> None:
    """It gets as long as its model was allowed; then the service starts all the same."""
    dead.entry(1, None, sys.executable, "-S", "-c", SLEEP)
    await dead.buried()

    assert "did not end within 1 s" in caplog.text


async def test_a_boot_between(dead: Dead) -> None:
    """Nothing survives that: pids and start times of then mean nothing, and neither do its containers."""
    child = dead.process(1)
    dead.entry(1, child)
    dead.entry(2, None, sys.executable, "-S", "-c", TO_A_FILE, dead.base / "note")
    dead.changed(boot="another")
    legacy = await dead.buried()

    assert alive(child)
    assert not (dead.base / "note").exists()
    assert str(legacy).endswith("nothing is left")
    assert not dead.folder.exists()


async def test_another_pid_namespace(dead: Dead) -> None:
    """A container before this one: its pids are not ours to judge, but the containers it had started are stopped."""
    child = dead.process(1)
    dead.entry(1, child)
    dead.entry(2, None, sys.executable, "-S", "-c", TO_A_FILE, dead.base / "note")
    dead.changed(namespace="pid:[1]")
    await dead.buried()

    assert alive(child)
    assert (dead.base / "note").exists()


async def test_what_a_process_starts_while_it_is_ended(dead: Dead) -> None:
    """A fork on SIGTERM does not get away."""
    forks = "import os, signal, sys\ndef again(*_):\n    if os.fork(): os._exit(0)\n    os.setsid()\n"
    child = dead.process(1, f"{forks}signal.signal(15, again)\nprint('up', flush=True)\nwhile True: signal.pause()")
    ended = await end_carriers(f"{dead.owner.token}.1", grace=0.5)

    assert {child} < {each.pid for each in ended.told}
    assert ended.killed
    assert carriers(f"{dead.owner.token}.") == []


# What is given to us because its parent died.


async def test_zombies_that_nobody_awaits_are_reaped_and_no_others() -> None:
    """Our own children keep their exit codes, however late they are asked for."""
    codes = []
    nobodys = os.posix_spawn("/bin/true", ["/bin/true"], os.environ)  # noqa: ASYNC221 - it is not waited for
    command = Command(("/bin/sh", "-c", "exit 7"), dict(os.environ), Path("/"), TcpEndpoint(1), speaks_protocol=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: keep_reaping(pause=0.01))
        for _ in range(20):
            process = Process(command, lambda stream, chunk: None)
            time.sleep(0.02)  # noqa: ASYNC251 - the loop is held up: its end and the reaper's turn come together
            codes.append(await process.wait())
        with anyio.fail_after(10):
            while os.path.exists(f"/proc/{nobodys}"):  # noqa: ASYNC110, ASYNC240, PTH110
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    assert codes == [7] * 20
