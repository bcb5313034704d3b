"""The commands as a person or a script runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.command_line import with_command
from supervisor.service_client import keeps_secret, service_client
from tests.conftest import RunningService, alive, eventually, running_service

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).parent / "llama-supervise"


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[RunningService]:
    config = f"""
    [server]
    max_loaded = 2
    [defaults]
    ctx-size = 256
    fit = "off"
    [models.one]
    model = "{tiny}/tiny-a.gguf"
    aliases = ["uno"]
    ttl = "1h"
    [models.two]
    model = "{tiny}/tiny-b.gguf"
    pinned = true
    [models.broken]
    model = "{tiny}/broken-unknown-arch.gguf"
    """
    with running_service(tmp_path_factory.mktemp("cli"), config) as running:
        yield running


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ([], ["serve"]),
        (["-c", "x.toml"], ["serve", "-c", "x.toml"]),
        (["-config", "x.toml", "-listen", ":8080"], ["serve", "-config", "x.toml", "-listen", ":8080"]),
        (["ps"], ["ps"]),
        (["-c", "x.toml", "ps", "--json"], ["ps", "-c", "x.toml", "--json"]),
        (["-c", "check"], ["serve", "-c", "check"]),
        (["why", "check"], ["why", "check"]),
        (["--version"], ["--version"]),
    ],
)
def test_serve_is_implied(given: list[str], meant: list[str]) -> None:
    """Without a command's name it serves; options may stand before the name."""
    assert with_command(given) == meant


def test_check_is_quiet_about_good_models(tmp_path: Path, tiny: Path) -> None:
    """A sound config is one line per model and exit code 0."""
    (tmp_path / "models.toml").write_text(f'[models.good]\nmodel = "{tiny}/tiny-a.gguf"\n')

    found = run("check", "-c", tmp_path / "models.toml")

    assert found.returncode == 0
    assert found.stdout.split("\t")[0] == "good"
    assert found.stdout.rstrip().endswith("ok")
    assert len(found.stdout.splitlines()) == 1


def test_check_names_every_problem_without_starting_anything(tmp_path: Path, tiny: Path) -> None:
    """Each model's problem is named with its place and a hint, and the exit code is 2."""
    (tmp_path / "models.toml").write_text(
        f"""
        [models.typo]
        model = "{tiny}/tiny-a.gguf"
        ctx-sise = 512
        [models.ours]
        model = "{tiny}/tiny-a.gguf"
        alias_es = ["x"]
        [models.gone]
        model = "{tiny}/tiny-z.gguf"
        """
    )

    found = run("check", "-c", tmp_path / "models.toml")

    assert found.returncode == 2
    assert "models.typo: " in found.stderr
    assert "`ctx-size`" in found.stderr
    assert "did you mean our own key `aliases`?" in found.stderr
    assert "tiny-a.gguf" in found.stderr.partition("models.gone")[2]


def test_check_has_json_for_scripts(tmp_path: Path, tiny: Path) -> None:
    """`--json` gives each model's problems with cause and hint."""
    (tmp_path / "models.toml").write_text(f'[models.cut]\nmodel = "{tiny}/broken-truncated-data.gguf"\n')

    found = run("check", "--json", "-c", tmp_path / "models.toml")

    problem = json.loads(found.stdout)["models"]["cut"][0]
    assert problem["cause"] == "model_file_truncated"
    assert problem["hint"]


def test_a_bad_file_is_refused_with_all_its_problems(tmp_path: Path) -> None:
    """A config that cannot be read is exit code 2, and nothing is served."""
    (tmp_path / "models.toml").write_text('[server]\nlisten = 3\nmax_loded = 2\n[models.a]\nttl = "soon"\n')

    found = run("-c", tmp_path / "models.toml")

    assert found.returncode == 2
    for place in ("server.listen", "server.max_loded", "models.a.ttl"):
        assert place in found.stderr
    assert "max_loaded" in found.stderr


def test_command_prints_what_will_run(tmp_path: Path, tiny: Path) -> None:
    """The argv has the binary's absolute path, absolute files, sampling and a socket."""
    (tmp_path / "model.gguf").symlink_to(tiny / "tiny-a.gguf")
    (tmp_path / "models.toml").write_text(
        '[models.a]\nmodel = "model.gguf"\nctx-size = 512\nsampling = { temp = 0.5, top-k = 7 }\n'
    )

    found = run("command", "a", "-c", tmp_path / "models.toml")

    assert found.returncode == 0
    binary, *argv = found.stdout.split()
    assert Path(binary).is_absolute()
    for expected in (f"--model {tmp_path}/model.gguf", "--ctx-size 512", "--temp 0.5", "--top-k 7", "--host /"):
        assert expected in " ".join(argv)


def test_load_ps_unload(service: RunningService) -> None:
    """Load waits until the model is ready, ps shows its process, unload waits until it is gone."""
    loaded = run("load", "uno", "--url", service.url)
    assert loaded.returncode == 0
    assert "one is ready" in loaded.stdout

    pid = service.pid("one")
    rows = run("ps", "--url", service.url).stdout.splitlines()
    assert any(row.startswith("one\tready") and str(pid) in row and "unix:" in row for row in rows)
    told = json.loads(run("ps", "--json", "--url", service.url).stdout)
    assert next(model for model in told["models"] if model["id"] == "one")["process"]["memory_bytes"] > 1_000_000

    assert run("unload", "one", "--url", service.url).returncode == 0
    assert not alive(pid)


def test_a_failed_load_prints_the_report(service: RunningService) -> None:
    """Loading a model that cannot start ends with its reason and exit code 1; `why` tells it again."""
    loaded = run("load", "broken", "--url", service.url)
    why = run("why", "broken", "--url", service.url)

    for told in (loaded, why):
        assert "does not know the architecture `superllama9000`" in told.stdout
        assert "hint: " in told.stdout
    assert loaded.returncode == 1
    assert json.loads(run("why", "broken", "--json", "--url", service.url).stdout)["cause"] == "unknown_architecture"


def test_why_of_a_sound_model_says_so(service: RunningService) -> None:
    """A model that has not failed has nothing to explain."""
    assert "two has not failed" in run("why", "two", "--url", service.url).stdout


def test_logs_are_printed_and_followed(service: RunningService) -> None:
    """`logs` prints what there is; `logs -f` goes on until it is stopped."""
    service.chat("two")
    assert "loading model" in run("logs", "two", "--url", service.url).stdout

    with subprocess.Popen(
        [COMMAND, "logs", "-f", "two", "--url", service.url], stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert any("loading model" in line for line in follower.stdout)
        service.chat("two")
        assert follower.poll() is None
        follower.terminate()
    eventually(lambda: follower.poll() is not None)


@pytest.mark.parametrize("arguments", [("load", "nobody"), ("why", "nobody"), ("logs", "nobody"), ("unload", "nobody")])
def test_an_unknown_model_is_an_error(service: RunningService, arguments: tuple[str, ...]) -> None:
    """A misspelt model is named, with exit code 1."""
    found = run(*arguments, "--url", service.url)

    assert found.returncode == 1
    assert "nobody" in found.stderr


def test_no_service_is_a_clear_error() -> None:
    """Asking a service that does not run says where it was looked for."""
    found = run("ps", "--url", "http://127.0.0.1:9")

    assert found.returncode == 1
    assert "http://127.0.0.1:9" in found.stderr


def test_a_given_address_needs_no_config(service: RunningService, tmp_path: Path) -> None:
    """One that cannot be read matters only where it has to say where the service is."""
    (tmp_path / "models.toml").write_text("[server]\nlisten = 3\n")

    for config in (tmp_path / "models.toml", tmp_path / "gone.toml"):
        assert run("ps", "--url", service.url, "-c", config).returncode == 0
        assert run("ps", "-c", config).returncode == 2


@pytest.mark.parametrize(
    ("url", "does"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.3.2.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost:8080", True),
        ("https://example.org", True),
        ("http://192.0.2.7:8080", False),
        ("http://[2001:db8::7]:8080", False),
        ("http://example.org", False),
    ],
)
def test_keys_are_only_sent_where_nobody_listens(url: str, does: bool) -> None:
    """To this machine, or through HTTPS."""
    assert keeps_secret(url) is does


@pytest.mark.parametrize(("url", "is_sent"), [("http://127.0.0.1:1", True), ("http://192.0.2.1:1", False)])
def test_a_key_is_not_sent_in_plain_text_over_a_network(url: str, is_sent: bool) -> None:
    """Whichever command asks: they all use this client."""
    with service_client(url, key="k", timeout=1) as client:
        assert (client.headers.get("authorization") == "Bearer k") is is_sent
