"""What helps somebody else to understand a machine's trouble, as one Markdown text without secrets."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec.json

from supervisor import __version__
from supervisor.access.keys import KeyRing
from supervisor.config.loader import YAML
from supervisor.config.problems import ConfigInvalid
from supervisor.config.secrets import Redactor, redacted_toml, redacted_yaml
from supervisor.record.decision_log import last_part, log_path
from supervisor.service_client import service_client

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from supervisor.config.values import Config
    from supervisor.llama.preflight import Inspection

LIBRARIES = ("uvicorn", "starlette", "httptools", "uvloop", "anyio", "httpx", "msgspec", "rich", "tomlkit")
LOG_LINES = 100
TIMEOUT = 10.0


def bundle(
    config: Config | ConfigInvalid, sources: Sequence[Path], *, inspections: Mapping[str, Inspection], url: str
) -> str:
    """The whole report; of a config that cannot be used, why not."""
    key = None if isinstance(config, ConfigInvalid) else KeyRing.of(config).own()
    service = service_client(url, key=key, timeout=TIMEOUT)
    status = _asked(service, "/status")
    parts = [
        "# llama-supervise doctor\n",
        *_section("Versions", "\n".join(_versions())),
        *_section("Binaries", "\n\n".join(_binaries(inspections))),
        *_section("Check", "\n".join((*_oddities(config), *_problems(inspections))) or "no problem found"),
        *(part for path in sources for part in _section(f"Config {path.name}", _shown(path))),
        *_section("Service", _pretty(status) if status else f"no service answers at {url}"),
        *(part for name in _failing(status) for part in _section(f"Log of {name}", _tail(service, name))),
        *(part for text in _decisions(config) for part in _section("Decisions, for `scripts/replay`", text)),
    ]
    text = "\n".join(parts)
    return text if isinstance(config, ConfigInvalid) else Redactor.of(config)(text)


def _oddities(config: Config | ConfigInvalid) -> Iterator[str]:
    """What is wrong with the file, or odd. A value that was found is left out, for it may be a secret."""
    found = config.problems if isinstance(config, ConfigInvalid) else config.warnings
    kind = "problem" if isinstance(config, ConfigInvalid) else "warning"
    for problem in found:
        yield f"config: {kind}: {replace(problem, found='', hint='')}"


def _shown(path: Path) -> str:
    """A config file without secrets, even if it is no config."""
    try:
        text = path.read_text(errors="replace")
    except OSError as exc:
        return f"{path} cannot be read: {exc.strerror}"
    return redacted_yaml(text) if path.suffix in YAML else redacted_toml(text)


def _section(title: str, text: str) -> tuple[str, str]:
    return f"\n## {title}\n", f"```\n{text.replace('```', '` ` `').rstrip()}\n```"


def _versions() -> Iterator[str]:
    yield f"llama-supervise {__version__}"
    yield f"Python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors"
    for library in LIBRARIES:
        try:
            yield f"{library} {version(library)}"
        except PackageNotFoundError:
            yield f"{library} is not installed"
    memory = Path("/proc/meminfo")
    if memory.exists():
        yield from memory.read_text().splitlines()[:3]


def _binaries(inspections: Mapping[str, Inspection]) -> Iterator[str]:
    for binary in dict.fromkeys(found.binary for found in inspections.values() if found.binary):
        known = next(found.catalogue for found in inspections.values() if found.binary == binary)
        yield f"{binary}\n{known.version if known else 'a wrapper'}\n{_devices(binary)}"


def _devices(binary: Path) -> str:
    try:
        run = subprocess.run([binary, "--list-devices"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"--list-devices: {exc}"
    return run.stdout.strip() or run.stderr.strip()


def _problems(inspections: Mapping[str, Inspection]) -> Iterator[str]:
    for name, found in inspections.items():
        for problem in found.problems:
            yield f"{name}: {problem.cause}: {problem.message}; hint: {problem.hint}"
        for warning in found.warnings:
            yield f"{name}: warning: {warning.message}; hint: {warning.hint}"


def _asked(service: httpx.Client, path: str) -> dict[str, Any] | None:
    try:
        status: dict[str, Any] = service.get(path).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as exc:
        print(f"{service.base_url}: {exc}", file=sys.stderr)  # noqa: T201 - the report says so too
        return None
    return status


def _failing(status: dict[str, Any] | None) -> list[str]:
    return list(status["failures"]) if status else []


def _tail(service: httpx.Client, name: str) -> str:
    try:
        lines = service.get(f"/logs/{name}").text.splitlines()
    except httpx.HTTPError as exc:
        return str(exc)
    return "\n".join(lines[-LOG_LINES:])


def _decisions(config: Config | ConfigInvalid) -> Iterator[str]:
    """The end of the decision log, if there is one."""
    path = None if isinstance(config, ConfigInvalid) else log_path(config)
    if path is None:
        return
    try:
        yield last_part(path)
    except OSError as exc:
        yield f"{path} cannot be read: {exc.strerror}"


def _pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode()
