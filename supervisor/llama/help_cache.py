"""The catalogue of a binary, asked once: in memory and on disk by path, size and modification time.

On disk is the help text itself, so that a better parser needs no new cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import anyio
import msgspec

from supervisor.llama.help_text import Catalogue, parse_help

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import ByteReceiveStream, Process

logger = logging.getLogger("supervisor.llama")

_MAX_OUTPUT = 4 * 1024 * 1024
_TAIL = 2000


class HelpFailed(Exception):
    """Raised when a binary does not print its help: it cannot start, crashes or hangs."""

    def __init__(self, binary: Path, returncode: int | None, stderr: str, *, reason: str = "") -> None:
        message = f"`{binary} --help` {reason or f'exited with {returncode}'}"
        super().__init__(f"{message}: {stderr}" if stderr else message)
        self.message = message
        self.binary = binary
        self.returncode = returncode
        """None if it could not be started or had to be killed."""
        self.stderr = stderr
        """The end of what it wrote there."""


class _Help(msgspec.Struct, frozen=True):
    path: str
    size: int
    mtime_ns: int
    text: str = ""
    version: str = ""

    def is_of(self, other: _Help) -> bool:
        return (self.path, self.size, self.mtime_ns) == (other.path, other.size, other.mtime_ns)


_known: dict[Path, tuple[_Help, Catalogue]] = {}
_locks: dict[Path, anyio.Lock] = {}


async def catalogue_of(
    binary: Path, *, cache_dir: Path | None, env: Mapping[str, str], timeout: float = 10.0
) -> Catalogue:
    """The options of this very file; asks it only if it changed since it was asked last."""
    async with _locks.setdefault(binary, anyio.Lock()):
        file = _file(binary)
        known = _known.get(binary)
        if known and known[0].is_of(file):
            return known[1]
        found = _load(cache_dir, file)
        if found is None:
            found = await _ask(file, env, timeout)
            _save(cache_dir, found)
        catalogue = parse_help(found.text, version=found.version)
        _known[binary] = found, catalogue
        return catalogue


def _file(binary: Path) -> _Help:
    try:
        status = binary.stat()
    except OSError as exc:
        raise HelpFailed(binary, None, "", reason=f"could not be started: {exc.strerror}") from exc
    return _Help(str(binary), status.st_size, status.st_mtime_ns)


async def _ask(file: _Help, env: Mapping[str, str], timeout: float) -> _Help:
    binary = Path(file.path)
    text, _ = await _output(binary, "--help", env=env, timeout=timeout)
    try:
        version = _version("\n".join(await _output(binary, "--version", env=env, timeout=timeout)))
    except HelpFailed:
        version = ""
    return msgspec.structs.replace(file, text=text, version=version)


def _version(text: str) -> str:
    lines = (line.strip() for line in text.splitlines())
    return next((line.removeprefix("version:").strip() for line in lines if line.startswith("version:")), "")


async def _output(binary: Path, option: str, *, env: Mapping[str, str], timeout: float) -> tuple[str, str]:
    """What it writes to stdout and stderr, if it ends well and in time."""
    try:
        process = await anyio.open_process(
            [str(binary), option], stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=env, start_new_session=True
        )
    except OSError as exc:
        raise HelpFailed(binary, None, "", reason=f"could not be started: {exc.strerror}") from exc
    out, err = bytearray(), bytearray()
    try:
        with anyio.move_on_after(timeout):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_drain, process, process.stdout, out)
                tasks.start_soon(_drain, process, process.stderr, err)
            await process.wait()
        returncode = process.returncode
    finally:
        await _end(process)
    tail = err.decode(errors="replace").strip()[-_TAIL:]
    if max(len(out), len(err)) > _MAX_OUTPUT:
        raise HelpFailed(binary, None, tail, reason=f"wrote more than {_MAX_OUTPUT} bytes")
    if returncode is None:
        raise HelpFailed(binary, None, tail, reason=f"did not end within {timeout:g} seconds")
    if returncode:
        raise HelpFailed(binary, returncode, tail)
    return out.decode(errors="replace"), err.decode(errors="replace")


async def _drain(process: Process, stream: ByteReceiveStream | None, into: bytearray) -> None:
    assert stream is not None
    async for chunk in stream:
        into += chunk
        if len(into) > _MAX_OUTPUT:
            _kill(process)
            return


async def _end(process: Process) -> None:
    if process.returncode is None:
        _kill(process)
    with anyio.move_on_after(1, shield=True):
        await process.aclose()


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _load(cache_dir: Path | None, file: _Help) -> _Help | None:
    if cache_dir is None:
        return None
    try:
        found = msgspec.json.decode(_cache_file(cache_dir, file).read_bytes(), type=_Help)
    except (OSError, ValueError):
        return None
    return found if found.is_of(file) else None


def _save(cache_dir: Path | None, file: _Help) -> None:
    if cache_dir is None:
        return
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        target = _cache_file(cache_dir, file)
        unfinished = target.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(msgspec.json.encode(file))
        unfinished.replace(target)
    except (OSError, UnicodeError) as exc:  # a file name need not be text
        logger.warning("cannot keep the help of %r in %s: %s", file.path, cache_dir, exc)


def _cache_file(cache_dir: Path, file: _Help) -> Path:
    return cache_dir / f"help-{hashlib.sha256(os.fsencode(file.path)).hexdigest()[:16]}.json"
