"""The service as a unit of systemd: its text, what systemd's own tools say of it, and what puts it there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.service_commands import ServiceCommands
from supervisor.service_unit import NAME, SYSTEM, USER, groups_in, out_of_reach, quoted, rendered
from tests.conftest import ROOT, running_service

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = Path(sys.executable).parent / "llama-supervise"
FILE = ROOT / "scripts" / "llama-supervise.service"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["systemd-analyze", *map(str, arguments)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "SYSTEMD_COLORS": "0"}
    return subprocess.run(words, capture_output=True, text=True, env=environ, timeout=60)


# The text.


def test_the_file_to_copy_is_that_of_the_package() -> None:
    """Who copies scripts/llama-supervise.service gets what `service install` starts from."""
    assert FILE.read_text() == SYSTEM.read_text()


def test_rendered() -> None:
    """A unit runs the command of this machine, and asks for nothing that is not there."""
    unit = rendered(SYSTEM.read_text(), ["/opt/l s", "-c", "/etc/50%.toml"], groups=["video"], has_modprobe=False)

    assert 'ExecStart="/opt/l s" -c "/etc/50%%.toml"\n' in unit
    assert "SupplementaryGroups=video\n" in unit
    assert "ExecStartPre" not in unit
    assert rendered(SYSTEM.read_text(), ["x"], groups=[], has_modprobe=True).count("SupplementaryGroups=") == 0


@pytest.mark.parametrize(
    ("word", "shown"),
    [("/a/b-c.toml", "/a/b-c.toml"), ("a b", '"a b"'), ("$HOME", '"$$HOME"'), ('"\\', '"\\"\\\\"'), ("", '""')],
)
def test_words(word: str, shown: str) -> None:
    """A word stays one word, and nothing in it is replaced."""
    assert quoted(word) == shown


def test_out_of_reach() -> None:
    """Only what is below a home directory is suspicious."""
    paths = map(Path, ["/home/me/m.gguf", "/srv/m.gguf", "/root/x", "/homes/x", "/home/me/m.gguf"])

    assert list(map(str, out_of_reach(paths))) == ["/home/me/m.gguf", "/root/x"]


@needs_systemd
@pytest.mark.parametrize("is_user", [False, True], ids=["system", "user"])
def test_systemd_takes_the_units(tmp_path: Path, *, is_user: bool) -> None:
    """`systemd-analyze verify` has nothing to say, of the files as they are and of what `install` makes of them."""
    template = USER if is_user else SYSTEM
    made = rendered(template.read_text(), [str(COMMAND), "-c", "/etc/a b.toml"], groups=["video"], has_modprobe=True)
    for text in (template.read_text(), made):
        unit = tmp_path / NAME
        unit.write_text(text)
        verified = analyze("verify", *(["--user"] if is_user else []), unit, folder=tmp_path)

        assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


@needs_systemd
def test_the_exposure(tmp_path: Path) -> None:
    """The service's exposure is what the file says it is, and at most 4.0."""
    said = re.search(r"says ([\d.]+) \(", FILE.read_text())
    found = re.search(r"level for \S+: ([\d.]+)", analyze("security", "--offline=true", FILE, folder=tmp_path).stdout)

    assert said is not None
    assert found is not None
    assert float(found[1]) <= 4.0
    version = analyze("--version", folder=tmp_path).stdout.split()[1]
    assert float(found[1]) == float(said[1]) or version != "252"


def test_the_time_to_stop() -> None:
    """The unit gives the time that the defaults of a config may take."""
    from supervisor.config.values import Server

    seconds = re.search(r"^TimeoutStopSec=(\d+)$", SYSTEM.read_text(), re.MULTILINE)

    assert seconds is not None
    assert int(seconds[1]) >= Server().drain_timeout + Server().stop_timeout + 15


@needs_systemd
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_system_call_is_denied(tmp_path: Path, tiny: Path) -> None:
    """What we and a llama-server ask the kernel for, from start to stop, passes the unit's filter."""
    trace = tmp_path / "trace"
    wrapper = ["strace", "--follow-forks", "--seccomp-bpf", "-o", str(trace)]
    config = f'[defaults]\nctx-size = 256\n[models.one]\nmodel = "{tiny}/tiny-a.gguf"\n'
    with running_service(tmp_path / "service", config, wrapper=wrapper) as service:
        assert service.chat("one").status_code == 200
        (traced,) = service.children()
        os.kill(traced, 15)
        service.process.wait(60)
    used = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))

    assert "execve" in used
    assert used - permitted(tmp_path) - _AS_ROOT_ONLY == set()


_AS_ROOT_ONLY = {"fchown"} if os.geteuid() == 0 else set()
"""SQLite asks who it is, and gives a new file its owner only as root, which the unit's user is not."""


def permitted(folder: Path) -> set[str]:
    """The system calls that the unit's filter lets through."""
    calls: set[str] = set()
    for word in re.findall(r"^SystemCallFilter=(.*)$", FILE.read_text(), re.MULTILINE):
        named = expanded(word.lstrip("~"), folder)
        calls = calls - named if word.startswith("~") else calls | named
    return calls


def expanded(name: str, folder: Path) -> set[str]:
    if not name.startswith("@"):
        return {name}
    lines = analyze("syscall-filter", name, folder=folder).stdout.splitlines()[1:]
    names = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return set().union(*(expanded(each, folder) for each in names))


# The commands.


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A `systemctl` that writes down what it is told, and fails if there is a file `broken`."""
    script = tmp_path / "bin" / "systemctl"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n! [ -e {tmp_path}/broken ]\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    told = tmp_path / "told"
    return lambda: told.read_text().splitlines() if told.exists() else []


@pytest.fixture
def commands(tmp_path: Path) -> ServiceCommands:
    return ServiceCommands(is_user=False, units=tmp_path / "units", running=tmp_path)


def install(commands: ServiceCommands, folder: Path, text: str = "", *, dry_run: bool = False) -> int:
    from supervisor.config.loader import load

    path = folder / "models.toml"
    path.write_text(text)
    return commands.install(load(path, environ={}), {"-c": path}, dry_run=dry_run)


def test_install(commands: ServiceCommands, tmp_path: Path, systemctl: Callable[[], list[str]]) -> None:
    """Installing writes the unit with this config, enables it and starts it anew, and may be done again."""
    for _ in range(2):
        assert install(commands, tmp_path) == 0

    unit = (tmp_path / "units" / NAME).read_text()
    assert f" -c {tmp_path}/models.toml\n" in unit
    assert systemctl() == ["daemon-reload", f"enable {NAME}", f"restart {NAME}"] * 2


def test_install_dry(
    commands: ServiceCommands, tmp_path: Path, systemctl: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--dry-run` prints the unit, and nothing else happens."""
    assert install(commands, tmp_path, dry_run=True) == 0
    assert capsys.readouterr().out.startswith("# llama-supervise as a service of the system")
    assert not (tmp_path / "units").exists()
    assert systemctl() == []


def test_install_with_files_in_a_home(
    commands: ServiceCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model in a home directory is warned of before its first start fails."""
    model = '[models.a]\nmodel = "/home/me/a.gguf"\nmmproj = "/srv/a.gguf"\n'

    assert install(commands, tmp_path, model, dry_run=True) == 0
    errors = " ".join(capsys.readouterr().err.split())
    assert "warning: /home/me/a.gguf is in a home directory" in errors
    assert "/srv" not in errors.replace("(models: /srv/models)", "")


def test_install_when_systemctl_fails(
    commands: ServiceCommands, tmp_path: Path, systemctl: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first command that fails is named, and those after it are not run."""
    (tmp_path / "broken").touch()

    assert install(commands, tmp_path) == 1
    assert "`systemctl daemon-reload` ended with 1" in capsys.readouterr().err
    assert systemctl() == ["daemon-reload"]


def test_a_unit_of_somebody_else(
    commands: ServiceCommands, tmp_path: Path, systemctl: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A unit that this command has not written is neither overwritten nor removed."""
    unit = tmp_path / "units" / NAME
    unit.parent.mkdir()
    unit.write_text("[Service]\n")

    assert install(commands, tmp_path) == 1
    assert commands.uninstall(dry_run=False) == 1
    assert "was not written by this command" in capsys.readouterr().err
    assert unit.read_text() == "[Service]\n"
    assert systemctl() == []


def test_uninstall(
    commands: ServiceCommands, tmp_path: Path, systemctl: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The unit is stopped, disabled and gone; without one, that is said."""
    install(commands, tmp_path)

    assert commands.uninstall(dry_run=True) == 0
    assert (tmp_path / "units" / NAME).exists()
    assert commands.uninstall(dry_run=False) == 0
    assert not (tmp_path / "units" / NAME).exists()
    assert systemctl()[3:] == [f"disable --now {NAME}", "daemon-reload"]
    capsys.readouterr()
    assert commands.uninstall(dry_run=False) == 1
    assert "there is no" in capsys.readouterr().err


def test_without_systemd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where systemd does not run nothing is written, and the unit can be printed all the same."""
    commands = ServiceCommands(is_user=True, units=tmp_path / "units", running=tmp_path / "none")

    assert install(commands, tmp_path) == 1
    assert "systemd does not run here" in capsys.readouterr().err
    assert not (tmp_path / "units").exists()
    assert install(commands, tmp_path, dry_run=True) == 0


def test_the_command_line(tmp_path: Path) -> None:
    """`service install --dry-run` prints a unit that starts this very program."""
    (tmp_path / "models.toml").write_text("")
    words = [COMMAND, "service", "install", "--user", "--dry-run", "-c", tmp_path / "models.toml"]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=60)

    assert shown.returncode == 0
    assert f"ExecStart={COMMAND} -c {tmp_path}/models.toml\n" in shown.stdout
    assert shown.stderr == ""


def test_health(tmp_path: Path) -> None:
    """`health` ends with 0 while the service answers, and else with 1 and the reason."""
    with running_service(tmp_path / "service", "") as service:
        asked = subprocess.run([COMMAND, "health", "--url", service.url], capture_output=True, text=True, timeout=60)

        assert (asked.returncode, asked.stdout, asked.stderr) == (0, "ok\n", "")
        missing = [COMMAND, "health", "--url", f"{service.url}/nowhere"]
        refused = subprocess.run(missing, capture_output=True, text=True, timeout=60)
        assert (refused.returncode, refused.stderr) == (
            1,
            f"error: {service.url}/nowhere/health: it answers with 404\n",
        )
    asked = subprocess.run([COMMAND, "health", "--url", service.url], capture_output=True, text=True, timeout=60)
    assert asked.returncode == 1
    assert "no answer: [Errno 111] Connection refused" in asked.stderr


def test_groups() -> None:
    """The groups are read from the unit itself."""
    assert groups_in(SYSTEM.read_text()) == ["video", "render"]
