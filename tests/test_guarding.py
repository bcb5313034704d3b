"""What keeps strangers out of a running service and its children, and leaves traces of who came in."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.api.test_doors import ROWS
from tests.conftest import DEADLINE, RunningService
from tests.proxy.conftest import fake_cmd, http_to

if TYPE_CHECKING:
    from collections.abc import Callable


Start = "Callable[..., RunningService]"
CHAT = "/v1/chat/completions"


def log_of(service: RunningService) -> str:
    return (service.directory / "service.log").read_text()


def audit(service: RunningService) -> list[str]:
    """The lines of the audit so far."""
    return [line for line in log_of(service).splitlines() if "supervisor.audit" in line]


# Keys stay where they belong.

CANARIES = {
    "plain": "canary-plain-8d1f",
    "variable": "canary-variable-2b7c",
    "file": "canary-file-91aa",
    "digest": "canary-digest-c0de",
    "peer": "canary-peer-77ee",
    "child": "canary-child-5a5a",
}


@pytest.fixture
def guarded(start: Callable[..., RunningService], tmp_path: Path) -> RunningService:
    """A service with a key of each kind, a model that repeats what it is sent, and one that dies."""
    (tmp_path / "key").write_text(CANARIES["file"] + "\n")
    config = f"""
        [server]
        api_keys = ["{CANARIES["plain"]}"]
        log_level = "debug"
        [keys.from-variable]
        key = "${{env:CANARY_KEY}}"
        scopes = ["inference", "admin"]
        [keys.from-file]
        file = "{tmp_path}/key"
        [keys.from-digest]
        sha256 = "{hashlib.sha256(CANARIES["digest"].encode()).hexdigest()}"
        scopes = ["inference", "manage"]
        [models.fake]
        cmd = {fake_cmd()}
        [models.dying]
        cmd = "false --port ${{PORT}} --api-key {CANARIES["child"]}"
        [peers.far]
        proxy = "http://127.0.0.1:1"
        api_key = "{CANARIES["peer"]}"
        models = ["x"]
    """
    return start(config, env={"CANARY_KEY": CANARIES["variable"]})


def forms(key: str) -> list[dict[str, str]]:
    """Every way in which a client may send a key."""
    basic = base64.b64encode(f"me:{key}".encode()).decode()
    return [{"authorization": f"Bearer {key}"}, {"x-api-key": key}, {"authorization": f"Basic {basic}"}]


def test_keys_are_shown_nowhere(guarded: RunningService) -> None:
    """No key is in a log, an error, an event, a process list or an answer of any route, and none reaches a child."""
    seen: list[str] = []
    for name in ("plain", "variable", "file", "digest"):
        for headers in forms(CANARIES[name]):
            with http_to(guarded.url) as http:
                http.headers.update(headers)
                answer = http.post(CHAT, json={"model": "fake"}, headers={"api-key": CANARIES["plain"]})
                assert answer.status_code == 200
                seen.append(answer.text)
                for path in ("/status", "/running", "/logs", "/logs/fake", "/v1/models", "/nothing"):
                    seen.append(http.get(path).text)
                for body in ({"model": "dying"}, {"model": "far/x"}, {"model": CANARIES["child"][:4]}, {}):
                    seen.append(http.post(CHAT, json=body).text)
                with contextlib.suppress(httpx.ReadTimeout), http.stream("GET", "/api/events", timeout=0.2) as events:
                    seen.extend(events.iter_text())
    with http_to(guarded.url) as http:
        http.headers.update(forms(CANARIES["plain"])[0])
        for row in ROWS:
            with contextlib.suppress(httpx.ReadTimeout), http.stream(row.method, row.path, timeout=0.2) as answer:
                seen.extend(answer.iter_text())
    for wrong in forms("canary-wrong-0000"):
        with http_to(guarded.url) as http:
            seen.append(http.get("/status", headers=wrong).text)
    processes = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in processes.splitlines() if "fake_llama" in line or "llama-supervise" in line]
    assert guarded.stop() == 0

    text = "\n".join([*seen, *ours, log_of(guarded)])
    found = [canary for canary in (*CANARIES.values(), "canary-wrong") if canary in text]
    encoded = [canary for canary in CANARIES.values() if base64.b64encode(f"me:{canary}".encode()).decode() in text]
    assert (found, encoded) == ([], [])


def test_a_bad_config_does_not_show_keys(tmp_path: Path) -> None:
    """What is wrong with a key is said without the key."""
    (tmp_path / "models.toml").write_text(
        f'[server]\napi_keys = ["{CANARIES["plain"]} x"]\n[keys.a]\nkey = "{CANARIES["file"]} y"\n'
        f'sha256 = "{CANARIES["digest"]}"\n[keys.b]\nfile = "{tmp_path}/two"\n'
    )
    (tmp_path / "two").write_text(f"{CANARIES['variable']} and another")
    for command in ("check", "doctor"):
        arguments = [Path(sys.executable).parent / "llama-supervise", "-c", tmp_path / "models.toml", command]
        options = ["-o", "-"] if command == "doctor" else []
        told = subprocess.run([*arguments, *options], capture_output=True, text=True, check=False)

        assert "keys.a" in told.stdout + told.stderr
        assert "canary" not in told.stdout + told.stderr


# The audit.


def test_every_action_leaves_a_line(start: Callable[..., RunningService]) -> None:
    """Who managed what, and how it ended, stands in the log once; looking leaves no line, and no name can forge one."""
    service = start(
        f'[keys.kim]\nkey = "k-of-kim"\nscopes = ["admin"]\n[keys.user]\nkey = "k-of-user"\n'
        f"[models.fake]\ncmd = {fake_cmd()}\n"
    )
    with http_to(service.url) as http:
        http.headers["x-request-id"] = "r-1"
        user, kim = {"x-api-key": "k-of-user"}, {"x-api-key": "k-of-kim"}
        http.post("/models/load", json={"model": "fake", "wait": True}, headers=kim)
        http.post("/models/unload", json={"model": "fake"}, headers=user)
        http.post("/models/unload", json={"model": "fake"})
        http.post("/models/load", json={"model": "no\nsuch\x1b[31m"}, headers=kim)
        http.post("/api/models/unload/fake", headers=kim)
        http.get("/unload", headers=kim)
        http.put("/api/profiles/active", json={"name": None}, headers=kim)
        http.post("/api/inflight/99/cancel", headers=kim)
        for path in ("/status", "/v1/models", "/logs", "/running"):
            http.get(path, headers=kim)
    assert service.stop() == 0

    lines = [line.partition("supervisor.audit")[2].lstrip(": ") for line in audit(service)]
    assert all(line.endswith(" (request r-1)") for line in lines)
    assert [line.partition("127.0.0.1")[2].removesuffix(" (request r-1)") for line in lines] == [
        " with the key kim: POST /models/load fake: done",
        " with the key user: POST /models/unload: refused (403)",
        ": POST /models/unload: refused (401)",
        ' with the key kim: POST /models/load "no\\nsuch\\u001b[31m": failed (404)',
        " with the key kim: POST /api/models/unload/fake fake: done",
        " with the key kim: GET /unload: done",
        " with the key kim: PUT /api/profiles/active none: done",
        " with the key kim: POST /api/inflight/99/cancel: failed (404)",
    ]


# Behind a reverse proxy, and for pages.

BOTH = f"[server]\nmax_loaded = 2\n[models.fake]\ncmd = {fake_cmd()}\n[models.ws]\ncmd = {fake_cmd('--websockets')}\n"


def test_a_prefix(start: Callable[..., RunningService]) -> None:
    """With a prefix everything is served below it too, and who is sent elsewhere stays below it."""
    service = start(BOTH.replace("[server]", '[server]\nprefix = "/llm"\ntrusted_proxies = ["127.0.0.1"]'))
    with http_to(service.url) as http:
        chat = http.post(f"/llm{CHAT}", json={"model": "fake"})
        child = http.get("/llm/upstream/fake/a%20b/c?d=e")
        assert http.get("/llm/v1/models").json()["data"][0]["id"] == "fake"
        assert http.get("/v1/models").status_code == 200
        assert http.get("/llmx/v1/models").status_code == http.get("/llm/llm/health").status_code == 404
        paths = ("/llm/upstream", "/llm/upstream/fake", "/llm/comfyui")
        assert [http.get(path).headers["location"] for path in paths] == [
            "/llm/ui/models",
            "/llm/upstream/fake/",
            "/llm/comfyui/",
        ]
        assert http.get("/upstream/fake").headers["location"] == "/upstream/fake/"
        far = {"x-forwarded-for": "127.0.0.1, 8.8.8.8"}
        assert [http.get("/llm/running", headers=each).status_code for each in ({}, far)] == [200, 403]
    with connect(f"ws{service.url[4:]}/llm/upstream/ws/x", proxy=None, open_timeout=DEADLINE) as websocket:
        websocket.send("hello")
        assert websocket.recv(DEADLINE) == "hello"

    assert chat.status_code == child.status_code == 200
    assert (chat.json()["target"], child.json()["target"]) == (CHAT, "/a%20b/c?d=e")


def test_websockets_of_other_pages(start: Callable[..., RunningService]) -> None:
    """A page of another site opens no websocket, ours does."""
    service = start(BOTH)
    url = f"ws{service.url[4:]}/upstream/ws/x"
    for options in ({"origin": "https://evil.example"}, {"additional_headers": {"Sec-Fetch-Site": "cross-site"}}):
        with pytest.raises(Exception, match="403"):
            connect(url, proxy=None, open_timeout=DEADLINE, **options)  # type: ignore[arg-type]
    with connect(url, proxy=None, open_timeout=DEADLINE, origin=service.url) as websocket:  # type: ignore[arg-type]
        websocket.send("hello")
        assert websocket.recv(DEADLINE) == "hello"


# Children.


@pytest.mark.parametrize("kind", ["ours", "cmd"])
def test_a_port_is_closed_to_others(start: Callable[..., RunningService], tiny: Path, binary: Path, kind: str) -> None:
    """A llama-server on TCP asks everybody for a key that only we know, but for its health; it is in no argv."""
    model = f"{tiny}/tiny-a.gguf"
    ours = f'binary = "{binary}"\nmodel = "{model}"\nctx-size = 256\nfit = "off"\ntransport = "tcp"\nmetrics = true\n'
    cmd = f'cmd = "{binary} -m {model} -c 256 --port ${{PORT}} --metrics"\ncheck_endpoint = "/props"\n'
    service = start(f"[models.a]\n{ours if kind == 'ours' else cmd}")
    assert service.chat("a").status_code == 200
    assert service.chat("a", stream=True).status_code == 200

    with http_to(service.model("a")["process"]["endpoint"]) as child:  # type: ignore[index]
        assert child.get("/health").status_code == 200
        assert child.get("/props").status_code == 401
        assert child.post(CHAT, json={"messages": []}, headers={"authorization": "Bearer x"}).status_code == 401
    with http_to(service.url) as http:
        assert http.get("/metrics?model=a").status_code == 200
        assert http.get("/upstream/a/props", headers={"authorization": "Bearer theirs"}).status_code == 200
        everything = http.get("/status").text + http.get("/running").text + http.get("/logs/a").text
    environment = Path(f"/proc/{service.pid('a')}/environ").read_bytes().split(b"\0")
    key = next(line for line in environment if line.startswith(b"LLAMA_API_KEY=")).partition(b"=")[2].decode()
    assert len(key) >= 32
    assert key not in Path(f"/proc/{service.pid('a')}/cmdline").read_text()
    assert key not in everything + log_of(service)


@pytest.mark.parametrize("given", ['env = { LLAMA_API_KEY = "" }', 'api-key = "theirs"'])
def test_an_owners_own_key(start: Callable[..., RunningService], tiny: Path, wheel_binary: Path, given: str) -> None:
    """Who says which keys a llama-server takes, or none, is obeyed."""
    service = start(
        f'[models.a]\nbinary = "{wheel_binary}"\nmodel = "{tiny}/tiny-a.gguf"\nctx-size = 256\nfit = "off"\n'
        f'transport = "tcp"\n{given}\n'
    )
    headers = {"authorization": "Bearer theirs"}
    with http_to(service.url) as http:
        loaded = http.post("/models/load", json={"model": "a", "wait": True})
        assert loaded.status_code == 200, loaded.text
    with http_to(service.model("a")["process"]["endpoint"]) as child:  # type: ignore[index]
        assert child.get("/props").status_code == (401 if "theirs" in given else 200)
        assert child.get("/props", headers=headers).status_code == 200


def test_sockets_are_ours_alone(start: Callable[..., RunningService], tiny: Path) -> None:
    """The sockets of children are in a directory that nobody else can enter."""
    service = start(f'[models.a]\nmodel = "{tiny}/tiny-a.gguf"\nctx-size = 256\n')
    service.chat("a")
    endpoint = str(service.model("a")["process"]["endpoint"])  # type: ignore[index]
    path = Path(endpoint.removeprefix("unix:"))

    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


# URLs that a child would fetch.


def image(url: str) -> dict[str, Any]:
    return {
        "model": "fake",
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
    }


def test_private_urls(start: Callable[..., RunningService]) -> None:
    """A request that would make a child fetch from a private network is refused, on every way to a child."""
    service = start(f"[server]\nblock_private_urls = true\nmax_body = 4000000\n[models.fake]\ncmd = {fake_cmd()}\n")
    private, public = image("http://169.254.169.254/latest"), image("http://8.8.8.8/a.png")
    padded = {**private, "padding": "x" * 2_000_000}
    with http_to(service.url) as http:
        for path in (CHAT, "/v1/messages", "/v1/responses", f"/upstream/fake{CHAT}"):
            for body in (private, padded, image("http://localhost/x"), image("http://no-such-name.invalid/x")):
                answer = http.post(path, json=body)
                assert answer.status_code == 400, (path, answer.text)
                assert "`messages[0].content[0].image_url.url`" in answer.json()["error"]["message"]
            for body in (public, image("data:image/png;base64,AAAA"), {"model": "fake", "prompt": "http://10.0.0.1"}):
                assert http.post(path, json=body).status_code == 200
        form = http.post("/v1/audio/transcriptions", data={"model": "fake"}, files={"file": b"http://10.0.0.1"})
        assert form.status_code == 200


def test_private_urls_by_default(start: Callable[..., RunningService]) -> None:
    """Without being asked, we do not come between a client and the camera in its network."""
    service = start(f"[models.fake]\ncmd = {fake_cmd()}\n")
    with http_to(service.url) as http:
        assert http.post(CHAT, json=image("http://192.168.1.9/snapshot.jpg")).status_code == 200


# Limits, and our own commands.


def test_limits_of_a_key(start: Callable[..., RunningService]) -> None:
    """Beyond its rate a key is told when to come again; others are none the worse."""
    service = start(f'[keys.a]\nkey = "a-key"\nrate = 2\n[keys.b]\nkey = "b-key"\n[models.fake]\ncmd = {fake_cmd()}\n')
    with http_to(service.url) as http:
        answers = [http.post(CHAT, json={"model": "fake"}, headers={"x-api-key": "a-key"}) for _ in range(3)]
        other = http.post(CHAT, json={"model": "fake"}, headers={"x-api-key": "b-key"})

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert other.status_code == 200


def test_our_commands_bring_a_key(start: Callable[..., RunningService]) -> None:
    """`ps` finds a key of the config that may manage."""
    service = start(
        f'[keys.user]\nkey = "u-key"\n[keys.boss]\nkey = "b-key"\nscopes = ["admin"]\n'
        f"[models.fake]\ncmd = {fake_cmd()}\n"
    )
    command = [Path(sys.executable).parent / "llama-supervise", "-c", service.directory / "models.toml"]
    told = subprocess.run([*command, "ps", "--url", service.url], capture_output=True, text=True, check=False)

    assert (told.returncode, "fake" in told.stdout) == (0, True), told.stderr


def test_a_warning_without_keys(start: Callable[..., RunningService], tmp_path: Path) -> None:
    """Who listens beyond this machine without keys is warned at the start."""
    for keys, is_warned in (("", True), ('[keys.a]\nkey = "k"\n', False)):
        config = tmp_path / "models.toml"
        config.write_text(f"{keys}[models.fake]\ncmd = {fake_cmd()}\n")
        command = [Path(sys.executable).parent / "llama-supervise", "-c", config, "--listen", "0.0.0.0:0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            next(line for line in process.stdout if line.startswith("listening on"))
            process.terminate()
            assert ("without API keys" in process.stderr.read()) is is_warned
