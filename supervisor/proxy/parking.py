"""Large request bodies on disk while their requests wait for a model, and from there to its server, piece by piece.

A file without a name, which is gone with us. Where the disk is full a body stays in memory, and nothing else changes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from supervisor.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.errors import SupervisorError
    from supervisor.proxy.call import Call
    from supervisor.proxy.client import Client

logger = logging.getLogger("supervisor.proxy")

PARKED_FROM = 8 * 1024**2
"""Bytes of a body that is worth a file."""
PARKED_AFTER = 1.0
"""Seconds of waiting that are worth one."""
PIECE = 256 * 1024
"""Bytes read from disk at a time; a server that is slow is given no more meanwhile."""
_IN_MEMORY = frozenset(("tmpfs", "ramfs"))


class Parking:
    """Where bodies are put."""

    def __init__(self, folders: Iterable[Path] | None = None, *, after: float = PARKED_AFTER) -> None:
        """The first of `folders` that is on a disk is taken."""
        self.after = after
        self.folder = parking_folder(_usual_folders() if folders is None else folders)
        self._has_failed = False

    def park(self, call: Call, client: Client) -> ParkedBody | None:
        """Put its body on disk if the wait goes on; None for a small one."""
        return ParkedBody(self, call, client) if len(call.body) >= PARKED_FROM else None

    def failed(self, error: BaseException) -> None:
        """A body could not be written."""
        if not self._has_failed:
            self._has_failed = True
            logger.warning("request bodies wait in memory, for none can be written to %s: %s", self.folder, error)

    def succeeded(self) -> None:
        """A body was written."""
        if self._has_failed:
            self._has_failed = False
            logger.info("request bodies can be written to %s again", self.folder)


class ParkedBody:
    """The body of one request that waits."""

    def __init__(self, parking: Parking, call: Call, client: Client) -> None:
        self._parking = parking
        self._call = call
        self._client = client
        self._size = len(call.body)
        self._file: BinaryIO | None = None
        self._is_over = False
        self._timer = asyncio.get_running_loop().call_later(parking.after, self._begin)

    @property
    def is_on_disk(self) -> bool:
        return self._file is not None

    def fetch(self, fail: Callable[[SupervisorError], None]) -> None:
        """The wait is over; a body that is on disk comes from there. `fail` is called if it cannot be read."""
        file = self._file
        self.leave(keeps_file=True)
        if file is not None:
            self._call.length = self._size
            self._client.replay(Replay(file, self._size, self._client, fail))

    def leave(self, *, keeps_file: bool = False) -> None:
        """The wait is over, and nobody needs the file."""
        self._is_over = True
        self._timer.cancel()
        file, self._file = self._file, None
        if file is not None and not keeps_file:
            file.close()

    def _begin(self) -> None:
        body = self._call.body
        work = asyncio.get_running_loop().run_in_executor(None, self._write, body)
        work.add_done_callback(self._written)

    def _write(self, body: bytes) -> BinaryIO | None:
        """In a thread; None if the wait was over before it was done."""
        file: BinaryIO = tempfile.TemporaryFile(dir=self._parking.folder, buffering=0)  # noqa: SIM115 - it outlives this
        try:
            with memoryview(body) as view:
                written = 0
                while written < len(view):
                    if self._is_over:
                        file.close()
                        return None
                    written += file.write(view[written : written + PIECE])
        except BaseException:
            file.close()
            raise
        return file

    def _written(self, work: asyncio.Future[BinaryIO | None]) -> None:
        if work.cancelled():
            return
        error = work.exception()
        if error is not None:
            self._parking.failed(error)
            return
        self._parking.succeeded()
        file = work.result()
        if file is not None and self._is_over:
            file.close()
        elif file is not None:
            self._file = file
            self._call.body = b""
            self._client.release_body()


class Replay:
    """A body that comes from disk, as if it came from its client."""

    def __init__(self, file: BinaryIO, size: int, client: Client, fail: Callable[[SupervisorError], None]) -> None:
        self._file = file
        self._size = size
        self._client = client
        self._fail = fail
        self._at = 0
        self._is_paused = True
        self._is_reading = False
        self._is_closed = False

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._go_on()

    def close(self) -> None:
        self._is_closed = True
        if not self._is_reading:  # else its number could be another file's before it is read
            self._file.close()

    def _go_on(self) -> None:
        if self._is_reading or self._is_paused or self._is_closed or self._at == self._size:
            return
        self._is_reading = True
        work = asyncio.get_running_loop().run_in_executor(None, os.pread, self._file.fileno(), PIECE, self._at)
        work.add_done_callback(self._came)

    def _came(self, work: asyncio.Future[bytes]) -> None:
        self._is_reading = False
        if self._is_closed or work.cancelled():
            self._file.close()
            return
        error = work.exception()
        if error is not None or not work.result():
            logger.error("a request body cannot be read back from %s: %s", self._file, error or "it is cut off")
            self._client.let_go()
            self._fail(InternalError("the request's body was on disk and cannot be read back"))
            return
        piece = work.result()
        self._at += len(piece)
        self._client.feed(piece)
        if self._at == self._size:
            self._client.complete()
        self._go_on()


def parking_folder(folders: Iterable[Path], mounts: Path = Path("/proc/self/mountinfo")) -> Path:
    """The first folder that can be written to and is on a disk; else the first that can be written to."""
    usable = [folder for folder in folders if os.access(folder, os.W_OK | os.X_OK)]
    on_disk = [folder for folder in usable if file_system(folder, mounts) not in _IN_MEMORY]
    return next(iter(on_disk or usable), Path(tempfile.gettempdir()))


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The kind of file system a folder is on; None where that cannot be known (proc_pid_mountinfo(5))."""
    try:
        device = folder.stat().st_dev
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    number = f"{os.major(device)}:{os.minor(device)}"
    for fields in (line.split() for line in lines):
        if len(fields) > 6 and fields[2] == number and "-" in fields:
            return fields[fields.index("-") + 1]
    return None


def _usual_folders() -> list[Path]:
    return [Path("/var/tmp"), Path(tempfile.gettempdir())]
