"""Another config while the service runs, with real llama-servers: no request is lost, nothing is half done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conftest import DEADLINE, RunningService, alive, eventually
from tests.proxy.conftest import fake_cmd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

COMMAND = Path(sys.executable).parent / "llama-supervise"
REQUESTS = 1000
RELOADS = 20
CLIENTS = 16

# Under load.


def test_a_thousand_requests_across_twenty_reloads(start: Callable[..., RunningService], tiny: Path) -> None:
    """Each is answered: by models that stay, go on as others or start anew; one that comes and goes is 404 at times.

    The files are saved, the service is told by a signal or by a request, and each third config is no good.
    """
    service = start(config(tiny, 0))
    answered: Counter[tuple[str, int]] = Counter()
    steps = threading.Condition()

    def ask(number: int) -> None:
        model = ("stays", "updated", "restarted", "guest")[number % 4]
        status = http.post("/completion", json={"model": model, "prompt": "hi", "n_predict": 1}).status_code
        with steps:
            answered[model, status] += 1
            steps.notify_all()

    with service.http as http, ThreadPoolExecutor(CLIENTS) as clients:
        asking = [clients.submit(ask, number) for number in range(REQUESTS)]
        for turn in range(1, RELOADS + 1):
            with steps:
                assert steps.wait_for(lambda turn=turn: answered.total() >= turn * REQUESTS // (RELOADS + 1), DEADLINE)
            if turn % 3 == 0:
                write(service, "[models.stays]\nmodel = 1\nttl = 'never' again")
                assert reload(service).status_code == 422
            write(service, config(tiny, turn))
            if turn % 2:
                service.process.send_signal(signal.SIGHUP)
            else:
                assert reload(service).status_code == 200
        for each in asking:
            each.result()
    stays = service.pid("stays")

    assert answered.total() == REQUESTS
    assert {model: status for model, status in answered if model != "guest"} == dict.fromkeys(
        ("stays", "updated", "restarted"), 200
    )
    assert {status for model, status in answered if model == "guest"} <= {200, 404}
    assert stays in service.children()
    assert "Traceback" not in log(service)
    assert log(service).count("~ restarted: starts anew") >= 5


def test_answers_under_way_are_not_cut(start: Callable[..., RunningService], tiny: Path) -> None:
    """Not those of a model that starts anew, nor of one that is gone; who comes later gets the new one, or 404."""
    service = start(config(tiny, 1))
    for model in ("restarted", "guest", "stays"):
        service.chat(model)
    before = {model: service.pid(model) for model in ("restarted", "guest", "stays")}
    for pid in before.values():
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor() as threads:
        streams = {model: threads.submit(service.chat, model, stream=True) for model in before}
        eventually(lambda: all(service.model(model)["state"] == "busy" for model in before))
        write(service, config(tiny, 2))
        plan = reload(service).json()
        assert service.model("guest")["state"] == service.model("restarted")["state"] == "draining"
        later = threads.submit(service.chat, "restarted")
        assert service.chat("guest").status_code == 404
        for pid in before.values():
            os.kill(pid, signal.SIGCONT)
        texts = {model: stream.result().text for model, stream in streams.items()}

        assert later.result().status_code == 200
    assert plan["models"]["removed"] == ["guest"]
    assert plan["models"]["restarted"] == {"restarted": ["ctx-size"]}
    assert all(text.endswith("data: [DONE]\n\n") for text in texts.values())
    eventually(lambda: not alive(before["restarted"]) and not alive(before["guest"]))
    assert service.pid("stays") == before["stays"]
    assert service.pid("restarted") != before["restarted"]
    assert "guest" not in [row["id"] for row in service.status()["models"]]  # type: ignore[attr-defined]


def test_what_needs_no_other_process_starts_none(start: Callable[..., RunningService], tiny: Path) -> None:
    """Names, words and limits are others at once, for the process that runs."""
    service = start(text(tiny))
    service.chat("m")
    pid = service.pid("m")
    write(service, text(tiny, 'description = "new"\naliases = ["nick"]\nttl = "1h"\nvariants.v.description = "v"'))
    answer = reload(service)
    with service.http as http:
        entry = next(model for model in http.get("/v1/models").json()["data"] if model["id"] == "m")

    assert answer.json()["models"]["updated"].keys() == {"m"}
    assert entry["description"] == "new"
    assert [service.chat(name).status_code for name in ("nick", "v")] == [200, 200]
    assert service.pid("m") == pid
    assert service.model("m")["process"]["unload_in_seconds"] > 3000  # type: ignore[index]


# What is no good.


def test_a_bad_config_changes_nothing_and_says_why(start: Callable[..., RunningService], tiny: Path) -> None:
    """To who asked, to the log and to pages; streams of all kinds stay open through that and a good one."""
    service = start(text(tiny))
    service.chat("m")
    pid = service.pid("m")
    with service.http as http, http.stream("GET", "/api/events") as events, http.stream("GET", "/logs/stream") as logs:
        messages, printed = decoded(events), logs.iter_lines()
        write(service, "[server]\nmax_loaded = 'many'\n[models.m]\nttl = 'soon'\n")
        error = reload(service)
        told = next(data for kind, data in messages if kind == "configReloaded")
        assert service.chat("m").status_code == 200
        write(service, text(tiny, 'name = "Em"'))
        plan = reload(service).json()
        done = next(data for kind, data in messages if kind == "configReloaded")
        status = next(data for kind, data in messages if kind == "modelStatus" and data[0]["name"] == "Em")

        assert next(line for line in printed if "has been reloaded" in line)
    assert error.status_code == 422
    assert error.json()["error"]["code"] == "config_invalid"
    problems = error.json()["error"]["problems"]
    assert [problem.partition(":")[0] for problem in problems] == ["server.max_loaded", "models.m.ttl"]
    assert told["problems"] == problems
    assert all(problem in log(service) for problem in problems)
    assert done == plan
    assert status[0]["state"] == "ready"
    assert service.pid("m") == pid


def test_a_model_that_is_broken_now_breaks_no_other(start: Callable[..., RunningService], tiny: Path) -> None:
    """As at the start: the config holds, and that model says what is wrong with it; mending it is a reload too."""
    service = start(config(tiny, 1))
    write(service, config(tiny, 1).replace(f'"{tiny}/tiny-b.gguf"', '"nowhere.gguf"'))

    assert list(reload(service).json()["models"]["restarted"]) == ["restarted"]
    failed = service.chat("restarted")
    assert failed.json()["error"]["code"] == "model_file_missing"
    assert service.chat("stays").status_code == 200
    write(service, config(tiny, 1))
    reload(service)
    assert service.chat("restarted").status_code == 200


def test_a_process_is_not_given_up_for_one_that_cannot_start(start: Callable[..., RunningService], tiny: Path) -> None:
    """It goes on as it is, with what needs no other process; the plan says why, until the config is mended."""
    service = start(text(tiny))
    service.chat("m")
    pid = service.pid("m")
    broken = text(tiny, 'description = "new"\nctx-sizes = 512').replace("tiny-a.gguf", "nowhere.gguf")
    write(service, broken + f'[models.fresh]\nmodel = "{tiny}/nowhere.gguf"\n')
    foretold = plan(service)
    done = reload(service).json()

    assert foretold.returncode == 3
    kept, fresh = foretold.stdout.replace("\n", " ").split("? ")[1:]
    assert kept.startswith("m: goes on as it is, for with another model, ctx-sizes it cannot start: ")
    assert fresh.startswith("fresh: cannot start: ")
    assert "nowhere.gguf" in kept
    assert "did you mean `ctx-size`?" in kept
    assert (done["models"]["kept"], done["models"]["restarted"]) == ({"m": ["model", "ctx-sizes"]}, {})
    assert done["models"]["broken"].keys() == {"m", "fresh"}
    assert described_of(service, "m") == "new"
    assert service.chat("m").status_code == 200
    assert service.pid("m") == pid
    assert "WARNING supervisor.config: config: ? m: goes on as it is" in log(service)
    write(service, text(tiny).replace("ctx-size = 256", "ctx-size = 512"))
    assert reload(service).json()["models"]["restarted"].keys() == {"m"}
    assert service.chat("m").status_code == 200
    assert service.pid("m") != pid


# Who triggers.


def test_two_signals_at_once(start: Callable[..., RunningService], tiny: Path) -> None:
    """What was written before the last of them holds in the end, however soon it came after the first."""
    service = start(text(tiny))
    for number in range(20):
        service.process.send_signal(signal.SIGHUP)
        write(service, text(tiny, f'description = "{number}"'))
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda number=number: described(service) == str(number))


def test_a_watched_file(tmp_path: Path, tiny: Path) -> None:
    """Saving it is enough, and a config that is no good for a while does no harm."""
    (tmp_path / "models.toml").write_text(text(tiny))
    with serving(tmp_path, "--watch-config", "--listen", "127.0.0.1:0") as service:
        for number, name in enumerate(("one", "two")):
            (tmp_path / "models.toml").write_text("broken = = broken")
            eventually(lambda number=number: log(service).count("not been reloaded") == number + 1)
            (tmp_path / "new").write_text(text(tiny, f'description = "{name}"'))
            (tmp_path / "new").replace(tmp_path / "models.toml")
            eventually(lambda name=name: described(service) == name)


# What is planned.


def test_the_plan_is_what_the_reload_does(start: Callable[..., RunningService], tiny: Path) -> None:
    """`llama-supervise plan` prints it without doing it, and its exit code says whether there is anything to do."""
    service = start(config(tiny, 1))
    nothing = plan(service)
    write(service, config(tiny, 2).replace("max_loaded = 4", "max_loaded = 3"))
    shown, as_json = plan(service), plan(service, "--json")
    done = reload(service).json()

    assert (nothing.returncode, nothing.stdout) == (0, "nothing would change\n")
    assert (shown.returncode, as_json.returncode, plan(service).returncode) == (3, 3, 0)
    assert shown.stdout.splitlines() == [
        "- guest: takes no more requests, and ends after those it has",
        "~ restarted: starts anew, after the requests it has (ctx-size)",
        "= updated: goes on with another ttl, description",
        "* at once: server.max_loaded",
    ]
    assert json.loads(as_json.stdout) == done
    assert service.model("restarted")["state"] == "cold"


def test_a_plan_of_what_is_no_good(start: Callable[..., RunningService], tiny: Path) -> None:
    """Exit code 2 and every problem, as `check` has it."""
    service = start(text(tiny))
    write(service, "[models.m]\nttl = 'soon'\nconcurrency = 0\n")
    told = plan(service)

    assert told.returncode == 2
    assert told.stdout == ""
    assert "models.m.ttl: expected" in told.stderr
    assert "models.m.concurrency: expected" in told.stderr


def test_another_address_needs_a_restart(tmp_path: Path, tiny: Path) -> None:
    """It is said each time until there is one; all the rest holds, at the address where the service is."""
    (tmp_path / "models.toml").write_text(text(tiny, listen="127.0.0.1:0"))
    with serving(tmp_path) as service:
        write(service, text(tiny, 'description = "new"', listen="127.0.0.1:1"))
        answer = reload(service).json()

        assert answer["needs_restart"] == ["server.listen"]
        assert described(service) == "new"
        assert plan(service).stdout == "! needs a restart of the service: server.listen\n"
    assert "needs a restart of the service: server.listen" in (tmp_path / "service.log").read_text()


# What else holds at once.


def test_keys_hold_at_once(start: Callable[..., RunningService]) -> None:
    """For requests, and for what a child that runs already gets to see of them."""
    service = start(fake())
    with service.http as http:
        seen = echo(http, "sk-first", "sk-second")
        assert "sk-first" in seen
        write(service, fake('api_keys = ["sk-first", "sk-second"]'))
        assert reload(service).json()["settings"] == ["server.api_keys"]

        assert http.post("/v1/chat/completions", json={"model": "m"}).status_code == 401
        assert "sk-" not in echo(http, "sk-first", "sk-second")
        write(service, fake())
        assert reload(service, key="sk-second").status_code == 200
        assert echo(http, "sk-first", "sk-second") == seen


def test_who_may_reload_and_what_is_told_of_it(start: Callable[..., RunningService]) -> None:
    """Only a key with `admin` may; the audit says what it has changed, and new secrets are as secret as the first."""
    keys = "".join(f'[keys.{each}]\nkey = "sk-of-{each}"\nscopes = ["{each}"]\n' for each in ("manage", "admin"))
    service = start(fake() + keys)
    write(service, fake('max_loaded = 2\nlog_level = "debug"') + keys + '[keys.fresh]\nkey = "sk-fresh-7c1d"\n')

    assert reload(service).status_code == 401
    assert reload(service, key="sk-of-manage").status_code == 403
    assert reload(service, key="sk-of-admin").status_code == 200
    with service.http as http:
        http.post("/models/load", json={"model": "sk-fresh-7c1d"}, headers={"authorization": "Bearer sk-of-admin"})
        log = http.get("/logs", headers={"authorization": "Bearer sk-of-admin"}).text
    changed = "with the key admin: POST /api/reload * at once: server.max_loaded, server.log_level, keys.fresh: done"
    assert changed in log
    assert "with the key manage: POST /api/reload: refused (403)" in log
    assert "POST /models/load [redacted]: failed (404)" in log
    assert "sk-fresh" not in log


def test_limits_hold_at_once(start: Callable[..., RunningService]) -> None:
    """Here the size of a body, and paths that load nothing."""
    service = start(fake())
    with service.http as http:
        assert http.post("/v1/chat/completions", json={"model": "m"}).status_code == 200
        write(service, fake('max_body = 10\nignore_paths = ["/quiet$"]'))
        reload(service)

        assert http.post("/v1/chat/completions", json={"model": "m"}).status_code == 413
        http.post("/models/unload", json={})
        write(service, fake('ignore_paths = ["/quiet$"]', cmd="other"))
        reload(service)
        assert http.get("/upstream/m/quiet").status_code == 409


def test_what_a_model_that_is_gone_had_printed_is_gone(start: Callable[..., RunningService]) -> None:
    """Otherwise a service whose config changes often would hold more and more."""
    config = f"[models.m]\ncmd = {fake_cmd('--stderr', 'hello')}\n"
    service = start(config)
    with service.http as http:
        http.get("/props", params={"model": "m"}).raise_for_status()
        eventually(lambda: "hello" in http.get("/logs/m").text)
        write(service, config.replace("models.m", "models.other"))
        reload(service)
        assert http.get("/logs/m").status_code == 404
        write(service, config)
        reload(service)

        assert http.get("/logs/m").text == ""


def test_how_long_the_service_drains_holds_at_once(start: Callable[..., RunningService], tiny: Path) -> None:
    """At its own end too; and how much it logs."""
    service = start(text(tiny, "context-shift = true"))
    write(service, text(tiny, "context-shift = true", server='drain_timeout = "100ms"\nlog_level = "debug"'))
    reload(service)
    service.chat("m")
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50_000, "stream": True}
    with service.http as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_text()
        next(pieces)
        service.process.send_signal(signal.SIGTERM)

        assert "shut down before the answer was complete" in "".join(pieces)
    assert service.process.wait(10) == 0
    assert "DEBUG" in log(service)


def test_only_who_may_manage_may_reload(start: Callable[..., RunningService], tiny: Path) -> None:
    """Nor does anybody else learn what the files say."""
    service = start(text(tiny))
    with service.http as http:
        answers = [
            http.request(method, "/api/reload", headers={"forwarded": "for=1.2.3.4"}) for method in ("GET", "POST")
        ]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert "reading the config again" not in log(service)


# What the tests above use.


def config(tiny: Path, turn: int) -> str:
    """A model that stays as it is, one that goes on as another, one that needs another process, one that is away."""
    guest = f'[models.guest]\nmodel = "{tiny}/tiny-a.gguf"\n' if turn % 2 else ""
    return f"""
        [server]
        max_loaded = 4
        [defaults]
        ctx-size = 256
        fit = "off"
        threads = 1
        [models.stays]
        model = "{tiny}/tiny-a.gguf"
        [models.updated]
        model = "{tiny}/tiny-a.gguf"
        ttl = "{10 + turn}m"
        description = "turn {turn}"
        [models.restarted]
        model = "{tiny}/tiny-b.gguf"
        ctx-size = {256 * (1 + turn % 2)}
        {guest}
    """


def text(tiny: Path, more: str = "", *, listen: str = "127.0.0.1:8080", server: str = "") -> str:
    """One model."""
    return f"""
[server]
listen = "{listen}"
{server}
[models.m]
model = "{tiny}/tiny-a.gguf"
ctx-size = 256
fit = "off"
threads = 1
{more}
"""


def fake(server: str = "", cmd: str = "m") -> str:
    """One server that tells what it got."""
    return f'[server]\n{server}\n[models.m]\ncmd = {fake_cmd()}\nenv = {{ NAME = "{cmd}" }}\n'


def echo(http: httpx.Client, key: str, other: str) -> str:
    """The headers with which a request that brings these keys reaches its child."""
    headers = {"authorization": f"Bearer {key}", "x-api-key": other, "x-request-id": "r-1"}
    answer = http.post("/v1/chat/completions", json={"model": "m"}, headers=headers)
    assert answer.status_code == 200
    return str([pair for pair in answer.json()["headers"] if pair[0] != "x-request-id"])


def write(service: RunningService, config: str) -> None:
    """As editors do: nobody sees half of it."""
    (service.directory / "new").write_text(config)
    (service.directory / "new").replace(service.directory / "models.toml")


def reload(service: RunningService, *, key: str | None = None) -> httpx.Response:
    with service.http as http:
        return http.post("/api/reload", headers={"authorization": f"Bearer {key}"} if key else {})


def described(service: RunningService) -> str:
    """What the list says of the only model."""
    with service.http as http:
        (entry,) = http.get("/v1/models").json()["data"]
    return str(entry.get("description", ""))


def described_of(service: RunningService, model: str) -> str:
    """What the list says of one of several."""
    with service.http as http:
        entries = http.get("/v1/models").json()["data"]
    return next(str(entry.get("description", "")) for entry in entries if entry["id"] == model)


def plan(service: RunningService, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "plan", "--url", service.url, *options],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=service.directory.parent,
    )


def decoded(events: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The messages of `/api/events`."""
    for line in events.iter_lines():
        if line.startswith("data:"):
            message = json.loads(line.removeprefix("data:"))
            yield message["type"], json.loads(message["data"])


def log(service: RunningService) -> str:
    return (service.directory / "service.log").read_text()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[RunningService]:
    """The service with the config in this folder, and nothing on the command line but these options."""
    (folder / "run").mkdir()
    with (folder / "service.log").open("w") as errors:
        process = subprocess.Popen(
            [COMMAND, "-c", folder / "models.toml", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "RUNTIME_DIRECTORY": str(folder / "run")},
        )
    assert process.stdout is not None
    try:
        url = next((line.split()[-1] for line in process.stdout if line.startswith("listening on")), None)
        assert url is not None, (folder / "service.log").read_text()
        yield RunningService(process, url, folder)
    finally:
        process.terminate()
        code = process.wait(DEADLINE)
        process.stdout.close()
    assert code == 0
