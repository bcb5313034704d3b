"""The files of a config: read as a whole, and watched for being other ones than those that were read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.to_thread

from supervisor.config.loader import YAML
from supervisor.config.problems import ConfigInvalid, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.config.values import Config

logger = logging.getLogger("supervisor.config")

QUIET_MS = 100
"""Without another change, after which a file counts as written; editors take a few milliseconds."""
LONGEST_MS = 1600
"""For which changes may go on before we look all the same."""
LOOK_MS = 5000
"""Between looks of our own: of changes on network drives and behind bind mounts the kernel tells nothing."""

State: TypeAlias = "tuple[tuple[str, tuple[int, ...] | None], ...]"


class ConfigFiles:
    """One file, or one and a folder of them; `load` makes a config of what they say."""

    def __init__(
        self,
        load: Callable[[], Config],
        files: Sequence[Path],
        folder: Path | None = None,
        *,
        are_watched: bool = False,
    ) -> None:
        self.are_watched = are_watched
        """Whether somebody wants a changed config to be read without being asked."""
        self._load = load
        self._files = tuple(files)
        self._folder = folder
        self._read: State = ()
        """The files as they were when they were read last."""
        self._told: State = ()
        """The files as they were when a change was told of last."""

    def read(self) -> Config:
        """The config as the files say it now; raises `ConfigInvalid`."""
        self._read = self._state()  # first: what changes while we read will be seen as a change
        return self._load()

    def read_again(self) -> Config:
        """The same, for a service that runs by what they said before: an emptied file is not taken at its word.

        It is one that is being written, or that a full disk has cut; to serve no model at all takes a restart.
        """
        config = self.read()
        seen = dict.fromkeys((*self._read, *self._state()))  # it may have been emptied while we read
        empty = {path for path, identity in seen if identity is None and Path(path).exists()}
        if empty:
            hint = "it may be in the middle of being written; if it is meant, restart the service"
            raise ConfigInvalid([Problem(path, "a config", "an empty file", hint) for path in sorted(empty)])
        return config

    async def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` when the files are others than those that were read last, and whole; runs until cancelled."""
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_set_at_the_end, stop)
            while True:
                await self._look(changed)
                try:
                    await self._look_on(changed, stop)
                except (OSError, RuntimeError, ExceptionGroup) as exc:  # no folder, no inotify left, a fault of its own
                    logger.warning("the config is looked at every %g s only: %s", LOOK_MS / 1000, exc)
                await anyio.sleep(LOOK_MS / 1000)

    async def _look_on(self, changed: Callable[[], None], stop: anyio.Event) -> None:
        """Whenever something happens beside one of the files, and when a look is due.

        A file that is watched itself is lost when an editor puts another in its place.
        """
        from watchfiles import awatch

        async for _ in awatch(
            *self._folders(),
            watch_filter=None,
            debounce=LONGEST_MS,
            step=QUIET_MS,
            stop_event=stop,
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
            recursive=False,
        ):
            await self._look(changed)

    async def _look(self, changed: Callable[[], None]) -> None:
        state = await anyio.to_thread.run_sync(self._state, abandon_on_cancel=True)
        if state not in (self._read, self._told) and _is_whole(state):
            self._told = state
            changed()

    def _folders(self) -> set[Path]:
        """Where the files are, and where links to them lead."""
        own = {path for file in self._files for path in (file.absolute().parent, file.resolve().parent)}
        return own | ({self._folder} if self._folder else set())

    def _state(self) -> State:
        return tuple((str(path), _identity(path)) for path in (*self._files, *_yaml_files(self._folder)))


def _yaml_files(folder: Path | None) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(YAML)) if folder else []
    except OSError:
        return []


def _identity(path: Path) -> tuple[int, ...] | None:
    """Changes with what is in the file; None if there is nothing in it, or no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns) if status.st_size else None


def _is_whole(state: State) -> bool:
    """Whether nobody is in the middle of writing: a file that is away or empty for a moment says nothing."""
    return bool(state) and all(identity is not None for _, identity in state)


async def _set_at_the_end(stop: anyio.Event) -> None:
    """The thread that waits for changes hears of a cancellation by this only."""
    try:
        await anyio.sleep_forever()
    finally:
        stop.set()
