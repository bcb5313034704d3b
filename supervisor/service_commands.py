"""`llama-supervise service`: the service as a unit of systemd, written, enabled and taken away again."""

from __future__ import annotations

import grp
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import console, service_unit
from supervisor.llama.command import PATHS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.config.values import Config

    Sources = Mapping[str, Path]
    """The options that name the config, and what they name."""

RUNNING = Path("/run/systemd/system")
"""Is there where systemd is the first process (sd_booted(3))."""
SYSTEM_UNITS = Path("/etc/systemd/system")


class ServiceCommands:
    """The commands for the unit of the system, or for that of one user."""

    def __init__(self, *, is_user: bool, units: Path | None = None, running: Path = RUNNING) -> None:
        self._is_user = is_user
        self._file = (units or (_user_units() if is_user else SYSTEM_UNITS)) / service_unit.NAME
        self._running = running
        self._systemctl = ["systemctl", "--user"] if is_user else ["systemctl"]

    def install(self, config: Config, sources: Sources, *, dry_run: bool) -> int:
        """Write the unit for the config of these sources, enable and start it; `dry_run` prints it only."""
        text = self._unit(sources)
        if not self._is_user:
            self._warn_of_homes(config, sources)
        if dry_run:
            sys.stdout.write(text)
            return 0
        if not self._may_write():
            return 1
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(text)
        except OSError as exc:
            console.complain(f"cannot write {self._file}: {exc.strerror}", self._hint_of_rights())
            return 1
        console.say(f"wrote {self._file}")
        if not all(map(self._does, (["daemon-reload"], ["enable", service_unit.NAME], ["restart", service_unit.NAME]))):
            return 1
        self._say_what_next()
        return 0

    def uninstall(self, *, dry_run: bool) -> int:
        """Stop and disable the unit, and remove its file; what the service has stored stays."""
        if not self._file.exists():
            console.complain(f"there is no {self._file}", "" if self._is_user else "`--user` takes away yours")
            return 1
        stop = ["disable", "--now", service_unit.NAME]
        if dry_run:
            console.say(f"would run `{shlex.join([*self._systemctl, *stop])}` and remove {self._file}")
            return 0
        if not self._may_write() or not self._does(stop):
            return 1
        try:
            self._file.unlink()
        except OSError as exc:
            console.complain(f"cannot remove {self._file}: {exc.strerror}", self._hint_of_rights())
            return 1
        console.say(f"removed {self._file}")
        if not self._does(["daemon-reload"]):
            return 1
        kept = "~/.local/state, ~/.cache" if self._is_user else "/var/lib, /var/cache"
        console.say(f"what it has stored stays: llama-supervise in {kept}")
        return 0

    # How.

    def _unit(self, sources: Sources) -> str:
        template = (service_unit.USER if self._is_user else service_unit.SYSTEM).read_text()
        return service_unit.rendered(
            template,
            [*_program(), *(word for option, path in sources.items() for word in (option, str(path.absolute())))],
            groups=[group for group in service_unit.groups_in(template) if _exists(group)],
            has_modprobe=Path(service_unit.MODPROBE).exists(),
        )

    def _may_write(self) -> bool:
        if not self._running.is_dir():
            console.complain("systemd does not run here", "`--dry-run` prints the unit for a machine where it does")
            return False
        try:
            is_foreign = self._file.exists() and service_unit.MARK not in self._file.read_text()
        except OSError as exc:
            console.complain(f"cannot read {self._file}: {exc.strerror}", self._hint_of_rights())
            return False
        if is_foreign:
            console.complain(f"{self._file} was not written by this command", "move it away first")
        return not is_foreign

    def _does(self, arguments: list[str]) -> bool:
        command = [*self._systemctl, *arguments]
        try:
            code = subprocess.run(command, check=False).returncode
        except OSError as exc:
            console.complain(f"`{shlex.join(command)}` cannot be run: {exc.strerror}")
            return False
        if code:
            console.complain(f"`{shlex.join(command)}` ended with {code}", f"`{self._journal()}` may say why")
            return False
        console.say(f"did `{shlex.join(command)}`")
        return True

    def _say_what_next(self) -> None:
        console.say(f"look at it: `{shlex.join([*self._systemctl, 'status', 'llama-supervise'])}`")
        console.say(f"its log: `{self._journal()}`")
        if self._is_user:
            console.say("to let it run while you are logged out: `loginctl enable-linger`")

    def _journal(self) -> str:
        return f"journalctl {'--user ' if self._is_user else ''}-u llama-supervise -e"

    def _hint_of_rights(self) -> str:
        return "" if self._is_user else "run it as root, or with `--user` for a service of yours"

    def _warn_of_homes(self, config: Config, sources: Sources) -> None:
        """Files in a home directory are what most services of the system fail for."""
        files = [*_files(config), *(path.absolute() for path in sources.values()), Path(_program()[0])]
        for file in service_unit.out_of_reach(files):
            console.caution(
                f"{file} is in a home directory, which the service's own user may not be able to enter",
                "move it (models: /srv/models), use `--user`, or set `User=` and `DynamicUser=no` in a drop-in",
            )


def _user_units() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "systemd" / "user"


def _program() -> list[str]:
    """How this program is started again."""
    ours = Path(sys.argv[0])
    if ours.name == "llama-supervise" and ours.is_file():
        return [str(ours.absolute())]
    return [sys.executable, "-m", "supervisor.cli"]


def _exists(group: str) -> bool:
    try:
        grp.getgrnam(group)
    except KeyError:
        return False
    return True


def _files(config: Config) -> Iterator[Path]:
    """The files that the models of a config name."""
    for model in config.models.values():
        named = [model.binary, *(value for key, value in model.options.items() if key in PATHS)]
        for path in named:
            if isinstance(path, str):
                yield config.base / Path(path).expanduser()
