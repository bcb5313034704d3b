"""What helps somebody else to understand a machine's trouble, as one Markdown text without secrets."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec.json

from supervisor import __version__
from supervisor.config.secrets import Redactor, redacted_toml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from supervisor.config.values import Config
    from supervisor.llama.preflight import Inspection

LIBRARIES = ("uvicorn", "starlette", "httptools", "uvloop", "anyio", "httpx", "msgspec", "rich", "tomlkit")
LOG_LINES = 100
TIMEOUT = 10.0


def bundle(config: Config, path: Path, *, inspections: Mapping[str, Inspection], url: str) -> str:
    """The whole report."""
    status = _asked(url, "/status")
    parts = [
        "# llama-supervise doctor\n",
        *_section("Versions", "\n".join(_versions())),
        *_section("Binaries", "\n\n".join(_binaries(inspections))),
        *_section("Check", "\n".join(_problems(inspections)) or "no problem found"),
        *_section(f"Config {path.name}", redacted_toml(path.read_text())),
        *_section("Service", _pretty(status) if status else f"no service answers at {url}"),
        *(part for name in _failing(status) for part in _section(f"Log of {name}", _tail(url, name))),
    ]
    return Redactor.of(config)("\n".join(parts))


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


def _asked(url: str, path: str) -> dict[str, Any] | None:
    try:
        answer = httpx.get(url + path, timeout=TIMEOUT, trust_env=False)
        status: dict[str, Any] = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as exc:
        print(f"{url}{path}: {exc}", file=sys.stderr)  # noqa: T201 - the report says so too
        return None
    return status


def _failing(status: dict[str, Any] | None) -> list[str]:
    return list(status["failures"]) if status else []


def _tail(url: str, name: str) -> str:
    try:
        lines = httpx.get(f"{url}/logs/{name}", timeout=TIMEOUT, trust_env=False).text.splitlines()
    except httpx.HTTPError as exc:
        return str(exc)
    return "\n".join(lines[-LOG_LINES:])


def _pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode()
