"""The words of failures that need hardware or bad luck, from a script that says them; and what follows from an end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from supervisor.llama.causes import CATALOGUE, CAUSES
from supervisor.llama.diagnosis import End, diagnose
from supervisor.llama.warnings import SIGNS, warning_in
from tests.conftest import RunningService, eventually, running_service
from tests.failures.samples import QUIET, SAMPLES, WARNINGS, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

LEVEL = re.compile(r"[\d.]+ [WE] ")
SAY_AND_DIE = Path(__file__).with_name("say_and_die.py")


def child(name: str, *arguments: object, toml: str = "") -> str:
    """The config of a model that is this script."""
    command = [sys.executable, "-I", "-S", str(SAY_AND_DIE), "--port", "${PORT}", *map(str, arguments)]
    return f"[models.{json.dumps(name)}]\ncmd = {json.dumps(command)}\n{toml}\n"


def of(sample: Sample) -> list[object]:
    """The script's arguments for a sample."""
    end = ["--exit", sample.end] if isinstance(sample.end, int) else ["--signal", sample.end]
    return [*(f"--say={line}" for line in sample.lines), *end]


def ended(sample: Sample, phase: str = "loading") -> End:
    return End(phase, sample.lines, sample.returncode)


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def failure_of(answer: httpx.Response) -> dict[str, Any]:
    failure: dict[str, Any] = answer.json()["error"]["failure"]
    return failure


def spawns(service: RunningService, marker: str) -> int:
    """How many children with this word in their command were started."""
    lines = (service.directory / "service.log").read_text().splitlines()
    return sum("spawned pid" in line and marker in line for line in lines)


# What the words mean.


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_last_words_have_a_meaning(sample: Sample) -> None:
    """Each is told with its own facts, a hint and whether trying again makes sense."""
    found = diagnose(ended(sample))

    assert (found.cause, found.permanent) == (sample.code, sample.permanent)
    assert sample.message in found.message
    assert found.hint
    assert not set("{}") & set(found.message + found.hint)
    assert "``" not in found.message + found.hint
    assert "()" not in found.message


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_only_some_words_explain_the_end_of_a_serving_child(sample: Sample) -> None:
    """What it said of its start, or of one request, has not killed a child that served."""
    found = diagnose(ended(sample, "serving"))

    assert (found.cause == sample.code) is sample.also_serving
    if not sample.also_serving:
        assert found.cause in {"unknown", "killed_by_signal"}


def test_every_pattern_has_a_sample() -> None:
    """Each pattern of the catalogue is matched by some line."""
    lines = [line for sample in SAMPLES for line in sample.lines]
    patterns = [pattern for cause in CATALOGUE for pattern in cause.patterns]

    assert [each.pattern for each in patterns if not any(map(each.search, lines))] == []


def test_every_sign_has_a_sample() -> None:
    """Each sign of a warning is matched by some line."""
    assert [sign for sign in SIGNS if not any(sign.pattern.search(line) for _, line, _ in WARNINGS)] == []


@pytest.mark.parametrize(("code", "line", "part"), WARNINGS)
def test_a_warning_is_heard(code: str, line: str, part: str) -> None:
    """Each line becomes its warning with its own facts."""
    warning = warning_in(line)

    assert warning is not None
    assert warning.code == code
    assert part in warning.message
    assert warning.hint


@pytest.mark.parametrize("line", QUIET)
def test_a_healthy_child_is_not_accused(line: str) -> None:
    """Everyday lines are neither a cause nor a warning."""
    assert warning_in(line) is None
    assert diagnose(End("serving", (line,), 1)).cause == "unknown"
    assert diagnose(End("loading", (line,), 1)).cause == "unknown"


@pytest.mark.parametrize(
    ("was_out_of_memory", "code", "hint"),
    [(True, "oom_killed", "ctx-size"), (False, "killed_by_signal", "not at work"), (None, "killed_by_signal", "dmesg")],
)
@pytest.mark.parametrize("phase", ["loading", "serving"])
def test_a_kill_is_told_by_what_the_kernel_counts(
    was_out_of_memory: bool | None, code: str, hint: str, phase: str
) -> None:
    """SIGKILL is the OOM killer's, somebody else's, or nobody can know."""
    found = diagnose(End(phase, (), -signal.SIGKILL, was_out_of_memory=was_out_of_memory))

    assert found.cause == code
    assert hint in found.hint
    assert not found.permanent


@pytest.mark.parametrize("code", ["load_timeout", "load_too_long", "stalled"])
def test_what_we_did_ourselves_comes_first(code: str) -> None:
    """The SIGKILL we sent is not reported as somebody's kill, nor blamed on what was said before."""
    found = diagnose(End("loading", ("CUDA error: out of memory",), -9, gave_up=code, gave_up_facts={"seconds": 2.5}))

    assert found.cause == code
    assert "2.5 s" in found.message


def test_a_signal_without_a_name_has_its_number() -> None:
    """Real-time signals have no name in Python."""
    assert "signal 40" in diagnose(End("loading", (), -40)).message


def test_every_cause_has_words() -> None:
    """Nobody is left with a code alone."""
    assert [code for code, cause in CAUSES.items() if not cause.message or not cause.hint] == []


# The same through the service.


@pytest.fixture(scope="module")
def says(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with one child for each sample."""
    config = "".join(child(f"s{number}", *of(sample)) for number, sample in enumerate(SAMPLES))
    with running_service(tmp_path_factory.mktemp("says"), config) as service:
        yield service


@pytest.mark.parametrize("number", range(len(SAMPLES)), ids=lambda number: str(SAMPLES[number]))
def test_last_words_reach_the_client(says: RunningService, number: int) -> None:
    """Status, code, exit and evidence of a real child that said so."""
    sample = SAMPLES[number]

    answer = says.chat(f"s{number}")

    failure = failure_of(answer)
    assert (code_of(answer), answer.status_code) == (sample.code, 500 if sample.permanent else 503)
    assert ("retry-after" in answer.headers) is not sample.permanent
    assert sample.message in answer.json()["error"]["message"]
    assert (failure["exit_code"], failure["signal"]) == (
        (sample.end, None) if isinstance(sample.end, int) else (None, sample.end)
    )
    assert failure["stderr_tail"] == list(sample.lines)
    if sample.code != "unknown" and failure["evidence"]:
        assert CAUSES[sample.code].patterns
    assert (failure["phase"], failure["hint"] != "") == ("loading", True)


@pytest.fixture(scope="module")
def warns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with one child for each warning."""
    lines = [line if LEVEL.match(line) else f"0.01.002.003 W {line}" for _, line, _ in WARNINGS]
    config = "".join(child(f"w{number}", "--serve", f"--say={line}") for number, line in enumerate(lines))
    with running_service(tmp_path_factory.mktemp("warns"), config) as service:
        yield service


@pytest.mark.parametrize("number", range(len(WARNINGS)), ids=lambda number: WARNINGS[number][0])
def test_a_warning_is_shown_while_it_serves(warns: RunningService, number: int) -> None:
    """`/status` carries it; the model goes on serving."""
    code, _, part = WARNINGS[number]
    name = f"w{number}"
    assert warns.chat(name, user="say").status_code == 500
    eventually(lambda: warns.model(name)["warnings"])

    (warning,) = warns.model(name)["warnings"]  # type: ignore[misc, attr-defined]

    assert warning["code"] == code
    assert part in warning["message"]
    assert warns.chat(name).status_code == 200


# What follows from an end.


@pytest.mark.parametrize(
    "line",
    [
        "0.01.002.003 E CUDA error: an illegal memory access was encountered",
        "0.01.002.003 E failed to reload model after sleeping",
    ],
)
def test_a_child_that_lost_its_device_is_replaced(start: Callable[..., RunningService], line: str) -> None:
    """It would call itself healthy and fail every request; the next one gets a fresh child."""
    service = start(child("gpu", "--serve", f"--say={line}"))
    assert service.chat("gpu").status_code == 200
    first = service.pid("gpu")

    service.chat("gpu", user="say")
    eventually(lambda: "gpu" in service.status()["failures"])  # type: ignore[operator]

    failure = service.status()["failures"]["gpu"]  # type: ignore[index]
    assert failure["cause"] in {"gpu_error", "wake_failed"}
    assert line in failure["evidence"]
    assert service.chat("gpu").status_code == 200
    assert service.pid("gpu") != first


def test_an_exhausted_device_is_not_a_reason_to_replace(start: Callable[..., RunningService]) -> None:
    """One request that was too large does not cost everybody the model."""
    service = start(child("gpu", "--serve", "--say=ggml_vulkan: Device memory allocation of size 9 failed."))
    assert service.chat("gpu", user="say").status_code == 500
    first = service.pid("gpu")

    assert service.chat("gpu").status_code == 200
    assert service.pid("gpu") == first


def test_a_wedged_child_is_replaced(start: Callable[..., RunningService]) -> None:
    """Who waits learns of the stall, the next request gets a fresh child."""
    service = start(child("wedged", "--serve", toml='stall_timeout = "400ms"'))
    assert service.chat("wedged").status_code == 200
    first = service.pid("wedged")

    answer = service.chat("wedged", user="hang")

    assert (answer.status_code, code_of(answer)) == (502, "stalled")
    assert "0.4 s" in answer.json()["error"]["message"]
    assert service.chat("wedged").status_code == 200
    assert service.pid("wedged") != first


def test_an_idle_child_is_not_stalled(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """Only who owes an answer can be late: an idle child outlives many timeouts of another one."""
    config = child("idle", "--serve", toml='stall_timeout = "50ms"') + child(
        "wedged", "--serve", toml='stall_timeout = "600ms"'
    )
    service = start(f"[server]\nmax_loaded = 2\n{config}")
    assert service.chat("idle").status_code == 200
    first = service.pid("idle")

    assert service.chat("wedged", user="hang").status_code == 502

    assert service.pid("idle") == first


def test_a_request_that_kills_its_child_gets_the_reason(start: Callable[..., RunningService]) -> None:
    """A crash while serving is a 502 with what the child said."""
    service = start(child("dies", "--serve", "--say=RPC server version mismatch", "--signal=SIGABRT"))

    answer = service.chat("dies", user="die")

    assert (answer.status_code, code_of(answer)) == (502, "rpc_unreachable")
    assert answer.json()["error"]["type"] == "model_crashed"
    assert failure_of(answer)["phase"] == "serving"
    assert failure_of(answer)["signal"] == "SIGABRT"


def test_three_crashes_in_a_minute_open_the_breaker(start: Callable[..., RunningService]) -> None:
    """The fourth request is told when to come again, and starts nothing."""
    service = start(child("crasher", "--serve", "--exit=3"))
    crashes = [service.chat("crasher", user="die") for _ in range(3)]

    refused = service.chat("crasher")

    assert [answer.status_code for answer in crashes] == [502, 502, 502]
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert failure_of(refused)["id"] == failure_of(crashes[2])["id"]
    assert spawns(service, "--exit=3") == 3
    eventually(lambda: service.chat("crasher").status_code == 200)
    assert spawns(service, "--exit=3") == 4


def test_a_failure_that_may_pass_is_remembered_for_a_while(start: Callable[..., RunningService]) -> None:
    """Within the pause the stored report answers; after it another start is tried."""
    service = start(child("short", "--say=error loading model: std::bad_alloc"))
    first = service.chat("short")

    second = service.chat("short")

    assert (first.status_code, second.status_code) == (503, 503)
    assert failure_of(second)["id"] == failure_of(first)["id"]
    assert spawns(service, "bad_alloc") == 1
    eventually(lambda: failure_of(service.chat("short"))["id"] != failure_of(first)["id"])
    assert spawns(service, "bad_alloc") == 2


def test_a_lasting_failure_waits_for_a_change(
    start: Callable[..., RunningService], binary: Path, tiny: Path, tmp_path: Path
) -> None:
    """The same file is not tried twice; a touched one is, and a mended one serves.

    How many processes a try takes is not said: one build may lose its last words, and is asked for them again.
    """
    model = tmp_path / "model.gguf"
    shutil.copy(tiny / "broken-unknown-arch.gguf", model)
    service = start(f'[models.new]\nbinary = "{binary}"\nmodel = "{model}"\nctx-size = 256')
    eventually(lambda: service.model("new")["size_bytes"])
    first = failure_of(service.chat("new"))

    assert first["cause"] == "unknown_architecture"
    tried = spawns(service, str(model))
    assert [failure_of(service.chat("new"))["id"] for _ in range(3)] == [first["id"]] * 3
    assert spawns(service, str(model)) == tried > 0

    os.utime(model, (1, 1))

    assert failure_of(service.chat("new"))["id"] != first["id"]
    assert spawns(service, str(model)) > tried

    shutil.copy(tiny / "tiny-a.gguf", model)

    assert service.chat("new").status_code == 200


def test_asking_for_a_load_tries_again(start: Callable[..., RunningService]) -> None:
    """Who loads a model by hand has changed something we cannot see."""
    service = start(child("stuck", "--say=error: invalid argument: --frobnicate"))
    first = failure_of(service.chat("stuck"))

    with service.http as http:
        http.post("/models/load", json={"model": "stuck"})
    eventually(lambda: service.status()["failures"]["stuck"]["id"] != first["id"])  # type: ignore[index]

    assert spawns(service, "frobnicate") == 2


@pytest.mark.parametrize(
    ("setting", "code"), [('load_timeout = "300ms"', "load_timeout"), ('load_limit = "300ms"', "load_too_long")]
)
def test_a_start_that_hangs_is_given_up(
    start: Callable[..., RunningService], tmp_path: Path, setting: str, code: str
) -> None:
    """Who waits is told how long it took."""
    limits = 'load_timeout = "1h"\n' if code == "load_too_long" else ""
    service = start(child("slow", f"--ready-when={tmp_path}/never", toml=limits + setting))

    answer = service.chat("slow")

    assert (answer.status_code, code_of(answer)) == (503, code)
    assert "0.3 s" in answer.json()["error"]["message"]


# Streams that wait.


def waiting(tmp_path: Path, *arguments: object, after: str = "100ms") -> str:
    """A model that becomes ready, or fails, when a file appears; streams are comforted after a while."""
    return f'[server]\ncomment_after = "{after}"\n{child("late", *arguments)}'


REQUEST = {"model": "late", "messages": [{"role": "user", "content": "hello"}], "stream": True}


def test_comments_keep_a_waiting_stream_alive(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """They come before the child's own stream, which follows unchanged."""
    ready = tmp_path / "ready"
    service = start(waiting(tmp_path, f"--ready-when={ready}"))

    with service.http as http, http.stream("POST", "/v1/chat/completions", json=REQUEST) as answer:
        lines = answer.iter_lines()
        comment = next(lines)
        ready.touch()
        rest = [line for line in lines if line and not line.startswith(":")]

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert comment == ": loading late"
    assert [line[:6] for line in rest] == ["data: ", "data: "]
    assert rest[-1] == "data: [DONE]"


def test_clients_do_not_mind_comments(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """The openai library sees only the child's chunks."""
    ready = tmp_path / "ready"
    service = start(waiting(tmp_path, f"--ready-when={ready}"))
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)

    with client, client.chat.completions.create(**REQUEST) as stream:  # type: ignore[call-overload]
        ready.touch()
        texts = [chunk.choices[0].delta.content for chunk in stream]

    assert texts == ["heard"]


def test_a_failure_after_comments_is_an_error_event(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """The status has gone out, so the stream's last event tells; the openai library raises it."""
    fail = tmp_path / "fail"
    service = start(waiting(tmp_path, f"--fail-when={fail}", "--say=error: invalid argument: --frobnicate"))

    with service.http as http, http.stream("POST", "/v1/chat/completions", json=REQUEST) as answer:
        lines = answer.iter_lines()
        comment = next(lines)
        fail.touch()
        (event,) = [line for line in lines if line.startswith("data: ")]

    assert comment.startswith(":")
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "unknown_flag"
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
    with client, pytest.raises(openai.APIError, match="frobnicate"):
        list(client.chat.completions.create(**REQUEST))  # type: ignore[call-overload]


def test_a_failure_before_comments_has_its_true_status(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """A stream that has not begun fails like any request."""
    service = start(waiting(tmp_path, "--say=error: invalid argument: --frobnicate", after="1m"))

    with service.http as http:
        answer = http.post("/v1/chat/completions", json=REQUEST)

    assert (answer.status_code, code_of(answer)) == (500, "unknown_flag")


def test_who_does_not_stream_gets_no_comments(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """A JSON answer has no place for them: its status is true however long it took."""
    ready = tmp_path / "ready"
    service = start(waiting(tmp_path, f"--ready-when={ready}", after="1ms"))
    with service.http as http, http.stream("POST", "/v1/chat/completions", json=REQUEST) as answer:
        assert next(answer.iter_lines()).startswith(":")
        ready.touch()

    answer = service.chat("late")

    assert answer.json()["choices"][0]["message"]["content"] == "heard"
