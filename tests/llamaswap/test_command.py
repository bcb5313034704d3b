"""The command line (spec 3.1), and what of the config (spec 3.2 to 3.4) shows from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor import __version__
from tests.conftest import eventually
from tests.llamaswap.children import free_ports
from tests.llamaswap.conftest import Swap, run_command, running_command, sent, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = 'models: {m: {cmd: "<child>"}}'


def put(path: Path, text: str, *, start_port: int = 1) -> Path:
    path.write_text(written(text, path.parent, start_port))
    return path


# 3.1


@pytest.mark.parametrize(
    "arguments",
    [
        ("-config", "<path>"),
        ("--config", "<path>"),
        ("-config=<path>",),
        ("--config=<path>",),
    ],
    ids="_".join,
)
def test_flags(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """3.1: a flag has one dash or two, and its value after a space or `=`."""
    path = put(tmp_path / "config.yaml", GOOD, start_port=free_ports(1))
    with running_command(tmp_path, *(word.replace("<path>", str(path)) for word in arguments)) as swap:
        assert swap.ask("m").status_code == 200


@pytest.mark.parametrize("flag", ["-watch-config", "--watch-config"])
def test_watch_config(tmp_path: Path, flag: str) -> None:
    """3.1: -watch-config is a flag."""
    path = put(tmp_path / "config.yml", GOOD, start_port=free_ports(1))
    with running_command(tmp_path, "-config", path, flag) as swap:
        assert swap.get("/health").text == "OK"


@pytest.mark.parametrize("flag", ["-version", "--version"])
def test_version(tmp_path: Path, flag: str) -> None:
    """3.1: -version prints one line and leaves with 0."""
    done = run_command(tmp_path, flag)

    assert done.returncode == 0
    assert __version__ in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("arguments", [["-nonsense"], ["-config"], ["--listen"]])
def test_wrong_flag(tmp_path: Path, arguments: list[str]) -> None:
    """3.1: a flag that there is not, or one without its value, is exit code 2."""
    done = run_command(tmp_path, *arguments)

    assert done.returncode == 2
    assert done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [", "line"),
        ("models: {m: {cmd: x, ttl: -2}}", "models.m.ttl"),
        ("models: {m: {name: x}}", "cmd"),
        ("models: {m: {cmd: ''}}", "cmd"),
        ("models: {m: {cmd: 'x ${nobody}'}}", "nobody"),
        ("models: {m: {cmd: 'x ${env.TEST_NOBODY_SET_IT}'}}", "TEST_NOBODY_SET_IT"),
        ("models: {m: {cmd: x, proxy: 'http://localhost:${PORT}'}}", "PORT"),
        ("models: {a: {cmd: 'x ${PORT}', aliases: [n]}, b: {cmd: 'x ${PORT}', aliases: [n]}}", "n"),
        ("apiKeys: ['']\n" + GOOD, "apiKeys"),
        ("logToStdout: loud\n" + GOOD, "logToStdout"),
        ("groups: {g: {members: [nobody]}}\n" + GOOD, "nobody"),
        ("selectors: {s: {strategy: pin, targets: [nobody]}}\n" + GOOD, "nobody"),
    ],
)
def test_wrong_config(tmp_path: Path, text: str, said: str) -> None:
    """3.1 to 3.4: a config with a mistake ends the command, and stderr says which (llama-swap's exit code is 1)."""
    done = run_command(tmp_path, "-config", put(tmp_path / "config.yaml", text), "-listen", "127.0.0.1:0")

    assert done.returncode in {1, 2}
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_config(tmp_path: Path) -> None:
    """3.1: neither is there a service without its file."""
    done = run_command(tmp_path, "-config", tmp_path / "missing.yaml")

    assert done.returncode in {1, 2}
    assert "missing.yaml" in done.stderr


def test_unknown_keys(start_swap: Callable[..., Swap]) -> None:
    """3.1, on purpose not silent: a key that nobody knows is named, and the service starts."""
    swap = start_swap('healthCheckTimout: 20\nmodels: {m: {cmd: "<child>", tttl: 1}}')

    assert swap.ask("m").status_code == 200
    for name in ("healthCheckTimout", "tttl"):
        assert name in swap.stderr() + swap.stdout()


# -config-dir


def test_config_dir(tmp_path: Path) -> None:
    """3.1: the files of -config-dir add to -config, in the order of their names, each with its models."""
    port = free_ports()
    folder = tmp_path / "more"
    folder.mkdir()
    put(tmp_path / "config.yaml", 'macros: {word: one}\nmodels: {a: {cmd: "<child>"}}', start_port=port)
    (folder / "1.yml").write_text(
        written(f'startPort: {port}\nmodels: {{b: {{cmd: "<child> ${{word}}"}}}}', tmp_path, 0)
    )
    (folder / "2.yaml").write_text("macros:\nhooks: {on_startup: {preload: [b]}}")
    (folder / "ignored.txt").write_text("models: nonsense")
    with running_command(tmp_path, "-config", tmp_path / "config.yaml", "-config-dir", folder) as swap:
        eventually(lambda: swap.running() == {"b": "ready"})

        assert swap.starts("b")[0]["argv"][-1] == "one"
        assert swap.ask("a").status_code == 200


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "yaml"),
        ({"a.yaml": "models: {m: {cmd: x}}", "b.yaml": "models: {m: {cmd: y}}"}, "m"),
        ({"a.yaml": "startPort: 1\nmodels: {m: {cmd: x}}", "b.yaml": "startPort: 2"}, "startPort"),
    ],
    ids=["empty", "twice", "conflict"],
)
def test_wrong_config_dir(tmp_path: Path, files: dict[str, str], said: str) -> None:
    """3.1: an empty folder, a model in two files and values that differ are refused."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = run_command(tmp_path, "-config-dir", tmp_path, "-listen", "127.0.0.1:0")

    assert done.returncode in {1, 2}
    assert said in done.stderr


# Macros, ports and aliases.


def test_macros(start_swap: Callable[..., Swap]) -> None:
    """3.4: macros of the file and of the model, macros of macros, and the model's id are replaced in commands."""
    swap = start_swap(
        """
macros:
  inner: deep
  outer: "${inner} er"
  number: 7
  whose: the file's
models:
  author/m:
    macros: {whose: own, me: "${MODEL_ID}"}
    cmd: |
      <child> --x "${outer}" ${number}${number} ${me}
      # ${nobody}
      --whose=${whose}
    filters: {setParams: {n: "${number}", s: "a${number}"}}
    metadata: {n: "${number}", id: "${MODEL_ID}"}
"""
    )
    body = sent(swap.ask("author/m"))
    argv = swap.starts("author/m")[0]["argv"]
    (entry,) = swap.get("/v1/models").json()["data"]

    assert argv[argv.index("--x") + 1 :] == ["deep er", "77", "author/m", "--whose=own"]
    assert (body["n"], body["s"]) == (7, "a7")
    assert entry["meta"]["llamaswap"].items() >= {"n": 7, "id": "author/m"}.items()


def test_ports(start_swap: Callable[..., Swap]) -> None:
    """3.4: models whose command has ${PORT} get the ports from startPort on, in the order of their ids."""
    swap = start_swap("""
models:
  c: {cmd: "<child>"}
  b: {cmd: "sleep 1000", proxy: "http://127.0.0.1:1"}
  a: {cmd: "<child>"}
  B: {cmd: "<child> --again ${PORT}"}
""")
    for model in ("a", "B", "c"):
        swap.ask(model).raise_for_status()
    ports = {model: swap.starts(model)[0]["port"] - swap.start_port for model in ("a", "B", "c")}

    assert ports == {"B": 0, "a": 1, "c": 2}
    assert swap.starts("B")[0]["argv"][-2:] == ["--again", str(swap.start_port)]


def test_anchors(start_swap: Callable[..., Swap]) -> None:
    """3.1: YAML's anchors and merge keys work."""
    swap = start_swap("""
x-common: &common
  ttl: 77
  cmd: <child>
models:
  a: {<<: *common, name: A}
  b: {<<: *common, ttl: 78}
""")
    for model, ttl in (("a", 77), ("b", 78)):
        swap.ask(model).raise_for_status()

        assert swap.get("/running").json()["running"][0]["ttl"] == ttl


def test_relative_paths(start_swap: Callable[..., Swap]) -> None:
    """2.2: a command with a relative path starts from the directory that the service was started in."""
    swap = start_swap('models: {m: {cmd: "./program --port ${PORT}", checkEndpoint: /never}, n: {cmd: "<child>"}}')
    script = swap.directory / "program"
    script.write_text("#!/bin/sh\ntouch was-here\nexit 1\n")
    script.chmod(0o755)
    response = swap.ask("m")

    assert response.status_code in {500, 503}
    assert (swap.directory / "was-here").exists()
