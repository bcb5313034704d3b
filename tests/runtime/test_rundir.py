"""The run directory: where it is, who may be believed, and whose directories are whose."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from supervisor.llama.command import Command
from supervisor.llama.endpoint import TcpEndpoint
from supervisor.runtime import rundir
from supervisor.runtime.roster import OWNER, Owner, Roster, entries
from supervisor.runtime.rundir import claimed
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run directory with a short path, as socket files need."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as folder:
        yield Path(folder)


def dead_owner() -> Owner:
    """A service that has been killed."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return msgspec.structs.replace(Owner.myself(), pid=process.pid, started=1)


def left_by(base: Path, owner: Owner | bytes, name: str = "llama-supervise-dead") -> Path:
    folder = base / name
    folder.mkdir(mode=0o700)
    (folder / OWNER).write_bytes(owner if isinstance(owner, bytes) else msgspec.json.encode(owner))
    (folder / "1.sock").touch()
    return folder


# Where it is.


def test_the_first_that_is_given(base: Path) -> None:
    """systemd's directory, then the session's, and a directory of our own that only we can enter."""
    (base / "systemd").mkdir()
    (base / "session").mkdir()
    both = {"RUNTIME_DIRECTORY": f"{base}/systemd:{base}/other", "XDG_RUNTIME_DIR": f"{base}/session"}
    with claimed(both) as claim:
        assert claim.path.parent == base / "systemd"
        assert claim.path.stat().st_mode & 0o777 == 0o700
    with claimed({"XDG_RUNTIME_DIR": f"{base}/session"}) as claim:
        assert claim.path.parent == base / "session" / "llama-supervise"
        assert claim.path.parent.stat().st_mode & 0o777 == 0o700

    assert list((base / "systemd").iterdir()) == list((base / "session" / "llama-supervise").iterdir()) == []


def test_one_per_user_in_the_temporary_directory() -> None:
    """Without either, the directory has the user's id in its name."""
    with claimed({}) as claim:
        assert claim.path.parent.name == f"llama-supervise-{os.getuid()}"
        assert claim.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_path_too_long_for_sockets_is_passed_over(base: Path) -> None:
    """The socket files below it have to fit into an address."""
    long = base / ("x" * 80)
    long.mkdir()
    with claimed({"RUNTIME_DIRECTORY": str(long)}) as claim:
        assert claim.path.parent.name == f"llama-supervise-{os.getuid()}"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("link", "symbolic link"),
        ("file", "no directory"),
        ("open", "others may write to it (mode 0777"),
        pytest.param("theirs", f"belongs to the user with id {NOBODY}", marks=AS_ROOT),
    ],
)
def test_what_somebody_else_may_have_made_is_not_used(
    base: Path, caplog: pytest.LogCaptureFixture, kind: str, words: str
) -> None:
    """A squatter in a shared directory gets none of our sockets, and the log says why."""
    given = base / "given"
    if kind == "link":
        (base / "elsewhere").mkdir()
        given.symlink_to(base / "elsewhere")
    elif kind == "file":
        given.touch()
    else:
        given.mkdir()
        given.chmod(0o777 if kind == "open" else 0o700)
        if kind == "theirs":
            os.chown(given, NOBODY, NOBODY)

    with caplog.at_level(logging.WARNING), claimed({"RUNTIME_DIRECTORY": str(given)}) as claim:
        assert given not in claim.path.parents

    assert words in caplog.text


@AS_ROOT
def test_a_run_directory_that_is_full(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A session's directory without room keeps nobody from serving; it is said what that costs."""
    argv = ["mount", "-t", "tmpfs", "-o", "nr_inodes=1,mode=700", "full", base]
    if subprocess.run(argv, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        with claimed({"RUNTIME_DIRECTORY": str(base)}) as claim:
            assert claim.path.parent == Path("/tmp")
            assert claim.path.stat().st_mode & 0o777 == 0o700
    finally:
        subprocess.run(["umount", base], check=True)

    assert not claim.path.exists()
    assert "No space left on device" in caplog.text
    assert "will not find what this one might leave behind" in caplog.text


# Who lives.


def test_a_dead_service_is_found(base: Path) -> None:
    """Its directory is handed over with what it wrote down, and is gone once it is removed."""
    owner = dead_owner()
    folder = left_by(base, owner)
    with claimed({"RUNTIME_DIRECTORY": str(base)}) as claim:
        (found,) = claim.abandoned
        assert (found.path, found.owner) == (folder, owner)

        found.remove()

        assert not folder.exists()


KILLED_ON_A_FULL_DISK = """
import os, resource, sys
from supervisor.runtime.rundir import claimed
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
with claimed({"RUNTIME_DIRECTORY": sys.argv[1]}) as claim:
    os.write(1, claim.owner.token.encode())
    os._exit(9)
"""


def test_a_dead_service_that_found_the_disk_full_is_found(base: Path) -> None:
    """Its directory has a name to sign with even where no byte can be written."""
    ended = subprocess.run([sys.executable, "-c", KILLED_ON_A_FULL_DISK, str(base)], capture_output=True, cwd=ROOT)
    with claimed({"RUNTIME_DIRECTORY": str(base)}) as claim:
        assert [each.owner.token for each in claim.abandoned] == [ended.stdout.decode()]
        claim.abandoned[0].remove()

    assert ended.returncode == 9
    assert list(base.iterdir()) == []


def test_who_lives_is_left_alone(base: Path) -> None:
    """A second service of the same user finds nobody dead, nor does a third find what the second tidies up."""
    left_by(base, dead_owner())
    environ = {"RUNTIME_DIRECTORY": str(base)}
    with claimed(environ) as first, claimed(environ) as second:
        assert len(first.abandoned) == 1
        assert second.abandoned == []
        first.abandoned[0].remove()
    assert list(base.iterdir()) == []


def test_a_lock_is_believed_more_than_a_pid(base: Path) -> None:
    """In another pid namespace a pid means another process; who holds the lock lives."""
    environ = {"RUNTIME_DIRECTORY": str(base)}
    with claimed(environ) as first:
        stranger = msgspec.structs.replace(first.owner, namespace="pid:[1]", pid=4_000_000)
        (first.path / OWNER).write_bytes(msgspec.json.encode(stranger))
        with claimed(environ) as second:
            assert second.abandoned == []


def test_a_pid_is_believed_without_a_lock(base: Path) -> None:
    """Where locks do not work, the process itself still tells that it lives."""
    folder = left_by(base, Owner.myself())
    with claimed({"RUNTIME_DIRECTORY": str(base)}) as claim:
        assert claim.abandoned == []
    assert folder.exists()


def test_other_things_in_the_run_directory_stay(base: Path) -> None:
    """Only what has our name and our file is ours."""
    (base / "llama-supervise-mine").mkdir()
    (base / "llama-supervise-mine" / "precious").touch()
    left_by(base, dead_owner(), name="something-else")
    with claimed({"RUNTIME_DIRECTORY": str(base)}) as claim:
        assert claim.abandoned == []
    assert (base / "llama-supervise-mine" / "precious").exists()
    assert (base / "something-else").exists()


def test_what_was_never_written_down(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A service that died before it could write who it is leaves an empty file, and no children."""
    folder = left_by(base, b"")
    with claimed({"RUNTIME_DIRECTORY": str(base)}) as claim:
        assert claim.abandoned == []
    assert not folder.exists()
    assert "could not write down" in caplog.text


def test_a_locked_run_directory_does_not_hold_us_up_for_ever(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody who keeps the lock keeps us from tidying up, not from serving."""
    import fcntl

    monkeypatch.setattr(rundir, "LOCK_PATIENCE", 0.05)
    left_by(base, dead_owner())
    fd = os.open(base, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with claimed({"RUNTIME_DIRECTORY": str(base)}) as claim:
            assert claim.abandoned == []
    finally:
        os.close(fd)
    assert "is locked by another process" in caplog.text


# What is written down.


def test_a_child_is_on_the_list_while_it_lives(base: Path) -> None:
    """First how it is stopped, then its pid; nothing once it has ended."""
    command = Command(("run",), {}, base, TcpEndpoint(1), speaks_protocol=False, stop=("stop", "${PID}"))
    roster = Roster(base)
    with roster.entered(command, run=3, model="m", stop_timeout=2.0) as spawned:
        (before,) = entries(base)
        spawned(os.getpid())
        (after,) = entries(base)

    assert (before.run, before.model, before.stop, before.pid) == (3, "m", ("stop", "${PID}"), None)
    assert after.pid == os.getpid()
    assert after.lives
    assert entries(base) == []


def test_a_full_disk_keeps_nobody_from_being_served(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written is said once, and the child runs."""
    command = Command(("run",), {}, base, TcpEndpoint(1), speaks_protocol=False)
    roster = Roster(base / "gone")
    with roster.entered(command, run=3, model="m", stop_timeout=2.0) as spawned:
        spawned(1)

    assert caplog.text.count("cannot be written") == 1


def test_records_that_are_broken_are_left_out(base: Path) -> None:
    """A record cut short by the end of its writer does not hide the others."""
    command = Command(("run",), {}, base, TcpEndpoint(1), speaks_protocol=False)
    (base / "run-1.json").write_text('{"run": 1, "mod')
    with Roster(base).entered(command, run=2, model="m", stop_timeout=2.0):
        assert [entry.run for entry in entries(base)] == [2]
