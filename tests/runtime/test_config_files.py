"""The files of a config, watched: each change is told once, however it is made, and nothing that is half done."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from supervisor.config.problems import ConfigInvalid
from supervisor.config.values import Config
from supervisor.runtime.config_files import ConfigFiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio


class Watched:
    """Files that are being watched, and what was read of them each time."""

    def __init__(self, *paths: Path, folder: Path | None = None) -> None:
        self.read: list[str] = []
        self.news = asyncio.Event()
        self._paths = paths
        self._folder = folder
        self.files = ConfigFiles(self._load, paths, folder)
        self.files.read()

    def _load(self) -> Config:
        folder = sorted(self._folder.iterdir()) if self._folder else []
        self.read.append("".join(path.read_text() for path in (*self._paths, *folder)))
        return Config(Path("/"))

    def changed(self) -> None:
        self.files.read()
        self.news.set()

    async def reads(self, text: str) -> None:
        """Wait until this is what was read last."""
        while self.read[-1] != text:
            await self.news.wait()
            self.news.clear()


@contextlib.asynccontextmanager
async def watching(*paths: Path, folder: Path | None = None) -> AsyncIterator[Watched]:
    watched = Watched(*paths, folder=folder)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watched.files.watch, watched.changed)
            yield watched
            tasks.cancel_scope.cancel()


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    """As vim, sed -i and most programs that save safely."""
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


def by_backup(path: Path, text: str) -> None:
    """The old one is moved away first: for a moment there is none."""
    path.replace(path.with_name("old"))
    path.write_text(text)


@pytest.mark.parametrize("save", [in_place, by_rename, by_backup])
async def test_changes_are_told_however_a_file_is_saved(tmp_path: Path, save: Callable[[Path, str], None]) -> None:
    """Again and again, for the second time is the one that a watch on the file itself misses."""
    path = tmp_path / "models.toml"
    path.write_text("first")
    async with watching(path) as watched:
        for text in ("second", "third", "fourth"):
            save(path, text)
            await watched.reads(text)

    assert watched.read == ["first", "second", "third", "fourth"]


async def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes exchanges its config maps; a change where a link leads is one too."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models.toml").write_text(name)
    (tmp_path / "data").symlink_to("one")
    here = tmp_path / "here"
    here.mkdir()
    (here / "models.toml").symlink_to(tmp_path / "data" / "models.toml")
    async with watching(here / "models.toml") as watched:
        (tmp_path / "one" / "models.toml").write_text("changed")
        await watched.reads("changed")
        (here / "next").symlink_to(tmp_path / "two" / "models.toml")
        (here / "next").replace(here / "models.toml")
        await watched.reads("two")


async def test_files_of_a_folder_come_change_and_go(tmp_path: Path) -> None:
    """Those that are no YAML are nobody's business."""
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "1.yaml").write_text("a")
    async with watching(folder=folder) as watched:
        (folder / "2.yml").write_text("b")
        await watched.reads("ab")
        (folder / "1.yaml").write_text("c")
        await watched.reads("cb")
        (folder / "1.yaml").unlink()
        await watched.reads("b")

    assert watched.read == ["a", "ab", "cb", "b"]


async def test_a_file_that_is_away_or_empty_says_nothing(tmp_path: Path) -> None:
    """It is in the middle of being written; once it is there again, it is read."""
    path = tmp_path / "models.toml"
    path.write_text("first")
    looks = asyncio.Event()
    async with watching(path) as watched:
        path.unlink()
        (tmp_path / "beside").write_text("wakes the watch")
        path.write_text("")
        os.utime(path, (1, 1))
        looks.set()
        path.write_text("second")
        await watched.reads("second")

    assert watched.read == ["first", "second"]


@pytest.mark.parametrize("is_there", [True, False])
async def test_what_is_away_is_not_told(tmp_path: Path, is_there: bool) -> None:
    """Looked at in that very moment."""
    path = tmp_path / "models.toml"
    path.write_text("first")
    watched = Watched(path)
    path.write_text("") if is_there else path.unlink()

    await watched.files._look(watched.changed)
    assert watched.read == ["first"]
    path.write_text("second")
    await watched.files._look(watched.changed)
    assert watched.read == ["first", "second"]


async def test_an_emptied_file_is_not_taken_at_its_word(tmp_path: Path) -> None:
    """A service that starts may have no models; one that runs does not lose all of its own because a disk is full."""
    path = tmp_path / "models.toml"
    path.write_text("")
    files = ConfigFiles(lambda: Config(Path("/")), [path])

    assert files.read() == Config(Path("/"))
    with pytest.raises(ConfigInvalid, match="expected a config, found `an empty file`"):
        files.read_again()
    path.write_text("[server]")
    assert files.read_again() == Config(Path("/"))


async def test_a_file_that_is_emptied_while_it_is_read(tmp_path: Path) -> None:
    """What was read of it may be nothing, too."""
    path = tmp_path / "models.toml"
    path.write_text("first")

    def load() -> Config:
        path.write_text("")
        return Config(Path("/"))

    with pytest.raises(ConfigInvalid):
        ConfigFiles(load, [path]).read_again()


async def test_what_was_read_meanwhile_is_no_news(tmp_path: Path) -> None:
    """A reload by hand and the watch do not both read the same change."""
    path = tmp_path / "models.toml"
    path.write_text("first")
    watched = Watched(path)
    path.write_text("second")
    watched.files.read()

    await watched.files._look(watched.changed)
    assert watched.read == ["first", "second"]


async def test_a_change_before_the_watch_began_is_seen(tmp_path: Path) -> None:
    """Between the start's reading and the first look nothing is lost."""
    path = tmp_path / "models.toml"
    path.write_text("first")
    watched = Watched(path)
    path.write_text("second")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watched.files.watch, watched.changed)
            await watched.reads("second")
            tasks.cancel_scope.cancel()


async def test_the_watch_ends_at_once(tmp_path: Path) -> None:
    """It waits in a thread, which must not hold the end of the service up."""
    path = tmp_path / "models.toml"
    path.write_text("first")
    began = asyncio.get_running_loop().time()
    async with watching(path) as watched:
        path.write_text("second")
        await watched.reads("second")  # it waits for more by now, or will in a moment

    assert asyncio.get_running_loop().time() - began < 3.0
