"""Log files: what is in them, how large they get, and that nothing breaks where they cannot be written."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from supervisor.record.log_files import LONGEST_NAME, MODELS, MOST_BYTES, OWN, LogFiles, file_name
from supervisor.record.rotation import append
from tests.conftest import eventually
from tests.proxy.conftest import fake_cmd, http_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from supervisor.record.scribe import Lot
    from tests.conftest import RunningService


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def lines(number: int, size: int = 10) -> bytes:
    return b"".join(b"%0*d\n" % (size - 1, each) for each in range(number))


# One file.


def test_put_aside(tmp_path: Path) -> None:
    """A full file is numbered, the oldest goes, no line is cut, and nothing is lost but what went."""
    path = tmp_path / "x.log"
    for each in lines(20).splitlines(keepends=True):
        append(path, each, size=45, count=2)

    assert contents(tmp_path) == {
        "x.log": lines(20)[160:],
        "x.log.1": lines(20)[120:160],
        "x.log.2": lines(20)[80:120],
    }


@pytest.mark.parametrize("count", [0, 1, 3])
def test_much_at_once(tmp_path: Path, count: int) -> None:
    """However much comes at once, no file is larger than it may be, and there are no more than there may be."""
    append(tmp_path / "x.log", lines(1000), size=100, count=count)

    kept = contents(tmp_path)
    assert len(kept) == count + 1
    assert all(len(each) <= 100 for each in kept.values())
    assert kept["x.log"] == lines(1000)[-100:]


def test_a_line_longer_than_a_file(tmp_path: Path) -> None:
    """Such a line is broken rather than the bound."""
    append(tmp_path / "x.log", b"x" * 250 + b"\n", size=100, count=5)

    assert sorted(map(len, contents(tmp_path).values())) == [51, 100, 100]


def test_only_for_us(tmp_path: Path) -> None:
    """What models print is nobody else's to read; a link in the place of a file is not followed."""
    append(tmp_path / "deep" / "x.log", b"line\n", size=100, count=1)
    assert stat.S_IMODE((tmp_path / "deep" / "x.log").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "y.log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        append(tmp_path / "y.log", b"line\n", size=100, count=1)

    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize(
    "model",
    ["../../etc/passwd", "/etc/passwd", ".", "..", "a/b:c", "a\nb", "a\0b", "\ud800", "x" * 5000, "é" * 200, "$(x)"],
)
def test_names_are_no_paths(tmp_path: Path, model: str) -> None:
    """The file of a model lies in the directory, whatever the model is called."""
    path = tmp_path / file_name(model)
    path.write_bytes(b"")

    assert list(tmp_path.iterdir()) == [path]
    assert len(path.name) < LONGEST_NAME + 20
    assert file_name(model) != file_name(model + "x")


# All of them.


def test_lines_of_a_model(tmp_path: Path) -> None:
    """Lines are written with their time and stream, each to the file of its own, all before the end."""
    with LogFiles(tmp_path, size=1000, count=1) as files:
        files.of("a/b")(1_700_000_000.5, "stderr", "loading é")
        files.of("c")(1_700_000_000.5, "stdout", "ready")
        files.own("our word")

    assert contents(tmp_path) == {OWN: b"our word\n"}
    models = {name: text.decode().partition(",500 ")[2] for name, text in contents(tmp_path / MODELS).items()}
    assert models == {"a%2Fb.log": "stderr: loading é\n", "c.log": "stdout: ready\n"}


def test_where_nothing_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written is said once, counted, and when writing works again that is said and told in the file."""
    folder = tmp_path / "logs"
    folder.write_text("in the way")
    now = [0.0]
    with (
        caplog.at_level("INFO", "supervisor.logs"),
        LogFiles(folder, size=1000, count=1, clock=lambda: now[0]) as files,
    ):
        files.own("lost")
        eventually(lambda: "cannot be written for now: " in caplog.text)
        files.own("lost, too")
        eventually(lambda: files._lost == {folder / OWN: 15})
        folder.unlink()
        files.own("still paused")
        eventually(lambda: files._lost == {folder / OWN: 28})
        now[0] += 60
        files.own("found")
        eventually(lambda: "can be written again" in caplog.text)

    assert caplog.text.count("cannot be written for now") == 1
    assert contents(folder) == {OWN: "\n— 28 bytes dropped —\nfound\n".encode()}


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk without room is one of those places."""
    (tmp_path / MODELS).mkdir()
    os.mknod(tmp_path / OWN, stat.S_IFCHR | 0o600, os.makedev(1, 7)) if os.geteuid() == 0 else pytest.skip("not root")
    with caplog.at_level("INFO", "supervisor.logs"), LogFiles(tmp_path, size=1000, count=1) as files:
        try:
            files.own("x")
            eventually(lambda: "cannot be written for now" in caplog.text)
        finally:
            (tmp_path / OWN).unlink()
    if "Operation not permitted" in caplog.text or "Permission denied" in caplog.text:
        pytest.skip("no devices here")

    assert "No space left on device" in caplog.text


def test_a_disk_that_hangs(tmp_path: Path) -> None:
    """Who prints never waits: what is too much is dropped and counted."""
    go = threading.Event()

    class Stuck(LogFiles):
        def _write(self, place: Path, lot: Lot[bytes]) -> None:
            go.wait()
            super()._write(place, lot)

    with Stuck(tmp_path, size=1 << 30, count=1) as files:
        for _ in range(4 * MOST_BYTES // 1000):
            files.own("x" * 999)
        assert files.waiting <= MOST_BYTES
        go.set()

    assert (tmp_path / OWN).stat().st_size < 2.5 * MOST_BYTES  # one lot on its way, one waiting
    assert "bytes dropped" in (tmp_path / OWN).read_text()


# Of a service.


def test_files_of_a_service(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """With `log_dir`, what we say and what each model prints is in files, and the files never hold a secret."""
    service = start(
        f"""
        [server]
        log_dir = "logs"
        log_file_size = "2KiB"
        log_file_count = 2
        [models."a/../b"]
        env = {{ MY_TOKEN = "canary-1234567" }}
        cmd = {fake_cmd("--stderr", "I say canary-1234567, twice")}
        """
    )
    with http_to(service.url) as http:
        http.post("/models/load", json={"model": "a/../b"}).raise_for_status()
        for _ in range(40):
            http.get("/upstream/nobody/x")
    folder = service.directory / "logs"
    eventually((folder / MODELS / "a%2F..%2Fb.log").exists)
    eventually((folder / OWN).exists)
    service.stop()

    printed = (folder / MODELS / "a%2F..%2Fb.log").read_text()
    assert "stderr: I say [redacted], twice" in printed
    assert "spawned pid" in "".join(path.read_text() for path in folder.glob(f"{OWN}*"))
    assert b"canary" not in b"".join({**contents(folder), **contents(folder / MODELS)}.values())
    assert all(path.stat().st_size <= 2048 for path in folder.rglob("*") if path.is_file())


def test_a_service_without_room_for_logs(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """A log directory that cannot be made keeps nobody from serving; the log of the service says so."""
    (tmp_path / "taken").write_text("")
    service = start(f'[server]\nlog_dir = "{tmp_path}/taken/logs"\n[models.fake]\ncmd = {fake_cmd()}')
    with http_to(service.url) as http:
        assert http.get("/props", params={"model": "fake"}).status_code == 200

    log = service.directory / "service.log"
    eventually(lambda: "cannot be written for now: Not a directory" in log.read_text())
    assert log.read_text().count("cannot be written for now") == 1
