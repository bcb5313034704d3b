"""How processes start (spec 2.2), crash (2.5), and are loaded in advance (2.10)."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import eventually
from tests.llamaswap.children import running_server
from tests.llamaswap.conftest import Swap, running_swap, seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONFIG = """
models:
  m:
    cmd: <child>
  # each crashes once only: after three crashes in a minute we wait before the next start
  crashing: {cmd: "<child>"}
  leaving: {cmd: "<child>"}
  answering: {cmd: "<child>"}
  argv:
    cmd: |
      # the whole line is a comment; ${env.TEST_OUTER} too
      <child> --plain \\
        # so is this one
        'single $HOME "quotes"' "double \\"quoted\\" 'text'" back\\ slash
      a#b ; | > out.txt && $HOME *.py ~ `id`
      ""
  env:
    cmd: <child>
    env: [TEST_A=1, "TEST_B=two words", "TEST_C=a=b", TEST_OUTER=inner]
  slow:
    cmd: <child> --health 503
  odd:
    cmd: <child> --health 204 --health-path /v1/ready
    checkEndpoint: /v1/ready
  hanging:
    cmd: <child> --hang-probes 1
  unchecked:
    cmd: <child> --health 503
    checkEndpoint: none
  mended:
    cmd: <child> --exit-with 1 --stderr "not yet" --until <dir>/mended
"""


@pytest.fixture(scope="module")
def swap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    directory = tmp_path_factory.mktemp("lifecycle")
    with running_swap(directory, CONFIG, env={"TEST_OUTER": "outer", "TEST_KEPT": "kept"}) as swap:
        yield swap


def started(swap: Swap, model: str) -> dict[str, Any]:
    """How a model's newest process was started."""
    return swap.starts(model)[-1]


def listens(swap: Swap, model: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return bool(swap.child(model).about())
    return False


# Starting.


def test_command_line(swap: Swap) -> None:
    """2.2: a command is split as a shell splits it, without being one: comments and line ends are no words."""
    swap.ask("argv").raise_for_status()
    argv = started(swap, "argv")["argv"]

    assert argv[argv.index("--plain") + 1 :] == [
        'single $HOME "quotes"',
        "double \"quoted\" 'text'",
        "back slash",
        *shlex.split("a#b ';' '|' '>' out.txt '&&' '$HOME' '*.py' '~' '`id`'"),
        "",
    ]
    assert not (swap.directory / "out.txt").exists()


def test_environment(swap: Swap) -> None:
    """2.2: the child has our environment and, on top of it, what `env` says."""
    swap.ask("env").raise_for_status()

    assert (
        started(swap, "env")["env"].items()
        >= {
            "TEST_A": "1",
            "TEST_B": "two words",
            "TEST_C": "a=b",
            "TEST_OUTER": "inner",
            "TEST_KEPT": "kept",
        }.items()
    )


def test_process_group(swap: Swap) -> None:
    """2.2: a child has a process group of its own, and our working directory."""
    swap.ask("m").raise_for_status()

    assert started(swap, "m")["pgid"] == started(swap, "m")["pid"]
    assert started(swap, "m")["cwd"] == str(swap.directory)


def test_one_start_for_all(swap: Swap) -> None:
    """2.6: requests that come while a model starts wait for that start."""
    swap.get("/unload")
    before = len(swap.starts("slow"))
    waiting = [swap.later(swap.ask, "slow") for _ in range(3)]
    eventually(lambda: listens(swap, "slow"))
    swap.child("slow").set_health(200)

    assert [each.result().status_code for each in waiting] == [200] * 3
    assert len(swap.starts("slow")) == before + 1


def test_health_is_200(swap: Swap) -> None:
    """2.2: only a 200 of `checkEndpoint` is healthy; the probes carry no key."""
    waiting = swap.later(swap.ask, "odd", headers={"authorization": "Bearer x"})
    eventually(lambda: listens(swap, "odd") and len(swap.child("odd").about()["probes"]) > 2)
    assert swap.running() == {"odd": "starting"}
    assert not waiting.done()
    swap.child("odd").set_health(200)
    probes = swap.child("odd").about()["probes"]

    assert waiting.result().status_code == 200
    assert not any(name.lower() in {"authorization", "x-api-key"} for probe in probes for name, _ in probe)


def test_hanging_probe(swap: Swap) -> None:
    """2.2, on purpose: a probe that is never answered is given up, and the next one counts."""
    assert swap.ask("hanging").status_code == 200


def test_no_health_check(swap: Swap) -> None:
    """2.2: with `checkEndpoint: none` nobody is asked; until the server listens, requests fail with a 502."""
    eventually(lambda: swap.ask("unchecked").status_code == 200)

    assert swap.child("unchecked").about()["probes"] == []
    assert swap.running() == {"unchecked": "ready"}


def test_proxy_elsewhere(start_swap: Callable[..., Swap]) -> None:
    """3.3: `proxy` may name any server; `cmd` then needs no port."""
    with running_server("--health-path", "/deep/health") as server:
        swap = start_swap(f'models: {{m: {{cmd: sleep 1000, proxy: "{server.url}/deep"}}}}')

        assert seen(swap.ask("m", name="elsewhere"))["target"] == "/deep/v1/chat/completions"
        assert server.facts("elsewhere")["ended"] == 1
        assert swap.get("/running").json()["running"][0]["proxy"] == f"{server.url}/deep"


def test_failure_is_not_final(swap: Swap) -> None:
    """2.1: a failed start is no state: once the reason is gone, requests start the model."""
    assert swap.ask("mended").status_code in {500, 503}
    assert swap.running() == {}
    (swap.directory / "mended").touch()

    eventually(lambda: swap.ask("mended").status_code == 200)


# Crashing.


def test_crash(swap: Swap) -> None:
    """2.5: a process that ends by itself is noticed and logged; the next request starts another."""
    swap.ask("crashing").raise_for_status()
    pid = swap.child_pid("crashing")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: swap.running() == {})

    eventually(lambda: re.search(r"\[WARN\].*crashing", swap.get("/logs").text))
    assert swap.ask("crashing").status_code == 200
    assert swap.child_pid("crashing") != pid


def test_quiet_exit(swap: Swap) -> None:
    """2.5: so is one that leaves with exit code 0."""
    swap.ask("leaving").raise_for_status()
    swap.child("leaving").end()
    eventually(lambda: swap.running() == {})

    assert swap.ask("leaving").status_code == 200


def test_crash_in_flight(swap: Swap) -> None:
    """2.5, on purpose not empty: requests in flight learn that the process is gone."""
    swap.ask("answering").raise_for_status()
    held = swap.hold("answering", "in flight")
    os.kill(swap.child_pid("answering"), signal.SIGKILL)

    assert held.result().status_code == 502
    assert "SIGKILL" in held.result().text


def test_crash_while_starting(swap: Swap) -> None:
    """1.3: a process that ends before it is healthy ends the wait for it."""
    waiting = swap.later(swap.ask, "slow")
    eventually(lambda: listens(swap, "slow"))
    os.kill(swap.child_pid("slow"), signal.SIGKILL)

    assert waiting.result().status_code in {500, 503}


# Loading in advance.


def test_preload(start_swap: Callable[..., Swap]) -> None:
    """2.10: models to preload are loaded without a request, by alias too, in order; unknown ones are named."""
    text = """
hooks: {on_startup: {preload: [other, first, nonsense]}}
models:
  a: {cmd: "<child>", aliases: [first]}
  b: {cmd: "<child>", aliases: [other]}
  c: {cmd: "<child>"}
routing: {router: {settings: {groups: {all: {swap: false, members: [a, b, c]}}}}}
"""
    swap = start_swap(text)
    eventually(lambda: swap.running() == {"a": "ready", "b": "ready"})

    assert [entry["model"] for entry in swap.journal() if entry["event"] == "start"] == ["b", "a"]
    assert "nonsense" in swap.stderr() + swap.stdout()


def test_preload_of_what_cannot_coexist(start_swap: Callable[..., Swap]) -> None:
    """2.10: by default each one makes room for the next, so the last one stays."""
    models = 'models: {a: {cmd: "<child>"}, b: {cmd: "<child>"}}'
    swap = start_swap(f"hooks: {{on_startup: {{preload: [b, a]}}}}\n{models}")
    eventually(lambda: swap.running() == {"a": "ready"})

    assert [entry["model"] for entry in swap.journal() if entry["event"] == "start"] == ["b", "a"]


def test_preload_of_a_broken_model(start_swap: Callable[..., Swap]) -> None:
    """2.10: one that cannot start does not keep the others from it."""
    models = """models: {a: {cmd: "<child> --exit-with 1 --stderr 'cannot'"}, b: {cmd: "<child>"}}"""
    swap = start_swap(f"hooks: {{on_startup: {{preload: [a, b]}}}}\n{models}")

    eventually(lambda: swap.running() == {"b": "ready"})


def test_environment_of_the_config(tmp_path: Path) -> None:
    """3.4: `${env.NAME}` is replaced wherever it stands."""
    text = 'models: {m: {cmd: "<child> --said ${env.TEST_WORD}", aliases: ["${env.TEST_NAME}"]}}'
    with running_swap(tmp_path / "swap", text, env={"TEST_WORD": "word", "TEST_NAME": "nick"}) as swap:
        swap.ask("nick").raise_for_status()

        assert started(swap, "m")["argv"][-2:] == ["--said", "word"]
