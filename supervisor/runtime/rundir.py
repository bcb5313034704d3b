"""The run directory: where a service keeps its sockets and its roster while it lives, and finds those of the dead.

Each service has a directory of its own in there, and holds it locked: a lock ends with its holder, however that ends,
is seen across pid namespaces, and keeps systemd-tmpfiles(8) away. Who looks for the dead, or makes its own directory,
holds the lock of the run directory, so no one is taken for dead before it has locked its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import astuple

from supervisor.runtime.roster import OWNER, Owner

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger("supervisor.roster")

PREFIX = "llama-supervise-"
LONGEST = 66
"""Bytes of a run directory's path; sockaddr_un has room for 107, and two names come on top."""
SIGNATURE = "supervisor"
"""A symbolic link to nowhere, whose target has the `Owner` where the disk is full."""
LOCK_PATIENCE = 5.0
PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The directory of a service that is dead; locked by us, so that nobody else tidies it up too."""

    path: Path
    owner: Owner
    lock: int
    """The file descriptor that holds it."""

    def remove(self) -> None:
        """Remove it; nothing is left of its service."""
        remove(self.path)
        os.close(self.lock)


@dataclass(frozen=True, slots=True)
class Claim:
    """The directory of this service, and those of dead ones beside it."""

    path: Path
    owner: Owner
    abandoned: list[Abandoned] = field(default_factory=list)


class Unsafe(Exception):
    """Raised when a directory is not ours alone to write to."""


@contextlib.contextmanager
def claimed(environ: Mapping[str, str]) -> Iterator[Claim]:
    """A directory of our own that nobody else can enter; it is removed in the end."""
    with contextlib.ExitStack() as stack:
        base = _run_directory(environ)
        with _locked_directory(base) as is_locked:
            claim = Claim(_own(base), Owner.myself())
            stack.enter_context(_owned(claim))
            stack.callback(remove, claim.path)
            if base is not None and is_locked:
                claim.abandoned.extend(_abandoned(base, claim.path))
        yield claim


def remove(folder: Path) -> None:
    """Remove the directory of a service. The owner goes last, for without it nobody knows whose the rest is."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in {OWNER, SIGNATURE}:
                path.unlink(missing_ok=True)
        (folder / SIGNATURE).unlink(missing_ok=True)
        (folder / OWNER).unlink(missing_ok=True)
        folder.rmdir()


# Where it is.


def _run_directory(environ: Mapping[str, str]) -> Path | None:
    """The first place that is there and ours alone; None if there is none."""
    for path in _candidates(environ):
        try:
            _make_sure(path)
        except (Unsafe, OSError) as exc:
            logger.warning("`%s` cannot be the run directory: %s", path, exc)
        else:
            return path
    return None


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    return (path for path in _places(environ) if len(os.fsencode(path)) <= LONGEST and path.is_absolute())


def _places(environ: Mapping[str, str]) -> Iterator[Path]:
    """One after the other: asking for the temporary directory fails where no file can be written."""
    # systemd puts colons between several (systemd.exec(5)).
    yield Path(environ.get("RUNTIME_DIRECTORY", "").partition(":")[0])
    yield Path(environ.get("XDG_RUNTIME_DIR", "")) / "llama-supervise"
    yield Path(tempfile.gettempdir()) / f"llama-supervise-{os.getuid()}"
    yield Path("/tmp") / f"llama-supervise-{os.getuid()}"


def _make_sure(path: Path) -> None:
    """Make the directory if it is not there; raises `Unsafe` if anybody else might have made it, or write to it."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise Unsafe("it is a symbolic link" if stat.S_ISLNK(status.st_mode) else "it is no directory")
    if status.st_uid != os.getuid():
        raise Unsafe(f"it belongs to the user with id {status.st_uid}, not {os.getuid()}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unsafe(f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o}, expected 0700)")


def _own(base: Path | None) -> Path:
    """A new directory for ourselves, in the run directory if that has room."""
    if base is not None:
        try:
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        except OSError as exc:
            logger.warning("`%s` cannot be used: %s", base, exc.strerror)
    logger.warning("without a run directory, a next service will not find what this one might leave behind")
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))


# Who lives.


@contextlib.contextmanager
def _locked_directory(base: Path | None) -> Iterator[bool]:
    """Keep others out while we look around; whether that worked."""
    if base is None:
        yield False
        return
    fd = _opened(base)
    try:
        is_locked = _lock(fd, patience=LOCK_PATIENCE)
        if not is_locked:
            logger.warning("`%s` is locked by another process: what a dead service left there stays", base)
        yield is_locked
    finally:
        os.close(fd)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(fd: int, *, patience: float = 0.0) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(PAUSE)
        except OSError:  # a file system without locks
            return False
        else:
            return True


@contextlib.contextmanager
def _owned(claim: Claim) -> Iterator[None]:
    """Have our own directory known as that of somebody who lives."""
    fd = _opened(claim.path)
    try:
        _lock(fd, patience=LOCK_PATIENCE)
        _sign(claim.path, claim.owner)
        yield
    finally:
        os.close(fd)


def _sign(folder: Path, owner: Owner) -> None:
    """Write down whose a directory is. A full disk has room for a short symbolic link where it has none for a file."""
    try:
        (folder / OWNER).write_bytes(msgspec.json.encode(owner))
    except OSError as exc:
        try:
            (folder / SIGNATURE).symlink_to(" ".join(map(str, astuple(owner))))
        except OSError:
            logger.warning("`%s` cannot be written: %s", folder / OWNER, exc.strerror)


def _signed(folder: Path) -> Owner:
    """Who has signed it; raises `OSError` if nobody has, and `msgspec.DecodeError` if that cannot be read."""
    try:
        values = str((folder / SIGNATURE).readlink()).split(" ")
    except OSError:
        return msgspec.json.decode((folder / OWNER).read_bytes(), type=Owner)
    return msgspec.convert(dict(zip(Owner.__struct_fields__, values, strict=False)), Owner, strict=False)


def _abandoned(base: Path, own: Path) -> Iterator[Abandoned]:
    """The directories whose service is dead, locked."""
    for path in sorted(base.glob(f"{PREFIX}*")):
        if path == own:
            continue
        try:
            fd = _opened(path)
        except OSError:  # it is no directory, or just going
            continue
        owner = _dead_owner(path, fd)
        if owner is None:
            os.close(fd)
        else:
            yield Abandoned(path, owner, fd)


def _dead_owner(path: Path, fd: int) -> Owner | None:
    """Whose a directory is, if we hold its lock now and its owner is dead."""
    if os.fstat(fd).st_uid != os.getuid() or not _lock(fd):
        return None
    try:
        owner = _signed(path)
    except OSError:  # it is none of ours
        return None
    except msgspec.DecodeError:
        logger.warning("`%s` belongs to a dead service that could not write down which; removed", path)
        remove(path)
        return None
    return None if owner.lives else owner
