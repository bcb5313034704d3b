"""`llama-supervise import` with files as people have them: the same command lines and answers, every comment kept."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import DEADLINE, eventually, running_service
from tests.importing.files import PRESETS, SECRETS, SWAP_FILES, Place, comments_in, place
from tests.llamaswap.conftest import running_command

if TYPE_CHECKING:
    from collections.abc import Iterator

STAY_COMMANDS = {
    **{"containers": {"Qwen/Qwen3-8B", "whisper", "fixed"}, "peers": {"draft"}},
    **{"homelab": {"night", "old-laptop"}},
}
"""Models that no keys can say; those in `peers` give an option twice, which builds read differently."""
VARYING = ("id", "created", "timings", "usage", "system_fingerprint", "created_at", "completed_at")


@dataclass(frozen=True)
class Imported(Place):
    """A source that has been imported into `models.toml` beside it."""

    done: subprocess.CompletedProcess[str]
    text: str

    @property
    def models(self) -> dict[str, Any]:
        found: dict[str, Any] = tomllib.loads(self.text)["models"]
        return found


def imported(here: Place) -> Imported:
    done = here.run("import", here.source, "-o", "models.toml")
    assert done.returncode == 0, done.stderr
    return Imported(here.folder, here.source, here.env, done, (here.folder / "models.toml").read_text("utf-8"))


@pytest.fixture(scope="module", params=SWAP_FILES)
def swap(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: Path, wheel_binary: Path
) -> Imported:
    folder = tmp_path_factory.mktemp(request.param)
    return imported(place(folder, f"llama_swap/{request.param}.yaml", tiny=tiny, binary=wheel_binary))


@pytest.fixture(scope="module", params=PRESETS)
def preset(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: Path, wheel_binary: Path
) -> Imported:
    folder = tmp_path_factory.mktemp(request.param)
    return imported(place(folder, f"presets/{request.param}.ini", tiny=tiny, binary=wheel_binary))


def test_a_llama_swap_file_becomes_the_same_command_lines(swap: Imported) -> None:
    """It says so itself, and llama-servers have become keys."""
    assert "every command line is the same" in swap.done.stderr
    assert {name for name, model in swap.models.items() if "cmd" in model} == STAY_COMMANDS.get(swap.source.stem, set())


def test_both_commands_are_printed_alike(swap: Imported) -> None:
    """`llama-supervise command` says the same options for one model of both files."""
    name = next(iter(swap.models))
    before, after = (swap.run("command", "-c", path, name) for path in (swap.source, "models.toml"))

    assert (before.returncode, after.returncode) == (0, 0), after.stderr
    if "cmd" not in swap.models[name]:
        assert said(after.stdout) - {("--alias", name)} == said(before.stdout)


def test_every_comment_of_a_llama_swap_file_is_kept(swap: Imported) -> None:
    """None is lost, and none is there twice."""
    expected, found = comments_in(swap.source.read_text("utf-8")), "\n".join(comments_in(swap.text))

    assert expected
    assert {comment: found.count(comment) for comment in expected} == dict.fromkeys(expected, 1)


def test_secrets_stay_references_and_are_never_printed(swap: Imported) -> None:
    """What came from the environment comes from there still; what stands in the file is not told on stderr."""
    for value in SECRETS.values():
        assert value not in swap.text
        assert value not in swap.done.stderr
    assert "sk-guest" not in swap.done.stderr


def test_both_configs_answer_alike(swap: Imported) -> None:
    """Every local model says the same to the same question, whichever file the service was started with."""
    names = [name for name in swap.models if name != "draft"]  # whose adapters are not there

    with running_command(swap.folder, "-config", swap.source, env=swap.env) as service:
        before = answers(service.url, names)
    with running_service(swap.folder / "toml", swap.text, env=swap.env) as service_of_ours:
        after = answers(service_of_ours.url, names)
    told = {name for name, model in swap.models.items() if "cmd" not in model}
    assert after == {
        name: (status, named(body, name) if name in told else body) for name, (status, body) in before.items()
    }
    assert {status for status, _ in before.values()} == {200}


def named(body: dict[str, Any], name: str) -> dict[str, Any]:
    """An answer that names the model; a llama-server that was told no name says its file."""
    return {**body, "model": name} if str(body.get("model")).endswith(".gguf") else body


def answers(url: str, names: list[str]) -> dict[str, tuple[int, Any]]:
    """What each model says, without what differs from one answer to the next."""
    headers = {"authorization": f"Bearer {SECRETS['HOUSE_KEY']}", "x-api-key": SECRETS["CHILD_KEY"]}
    with httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False, headers=headers) as http:
        return {name: answer(http, name) for name in names}


def answer(http: httpx.Client, name: str) -> tuple[int, Any]:
    if name == "embedder":
        response = http.post("/v1/embeddings", json={"model": name, "input": "hello"})
    else:
        message = {"role": "user", "content": "hello"}
        asked = {"model": name, "messages": [message], "max_tokens": 4, "temperature": 0, "seed": 1}
        response = http.post("/v1/chat/completions", json=asked)
    body = response.json()
    if name == "embedder" and response.status_code == 200:
        body["data"] = [[round(number, 3) for number in row["embedding"]] for row in body["data"]]
    return response.status_code, {key: value for key, value in body.items() if key not in VARYING}


def test_a_preset_becomes_what_the_router_starts(preset: Imported, binary: Path) -> None:
    """Each model's child gets the options that llama-server's own router would give it, and no others."""
    assert "every command line is the same" in preset.done.stderr
    routed = {
        name: words
        for name, words in launched(binary, "--models-preset", preset.source).items()
        if "--model" in words  # else it is none
    }
    assert set(preset.models) == set(routed)
    for name, words in routed.items():
        ours = preset.run("command", "-c", "models.toml", name)
        assert ours.returncode == 0, ours.stderr
        assert said(ours.stdout) == said(shlex.join(words)), name


def test_every_comment_of_a_preset_is_kept(preset: Imported) -> None:
    """None is lost."""
    expected = comments_in(preset.source.read_text("utf-8"))

    assert expected
    assert {comment for comment in expected if comment not in preset.text} == set()


def test_what_a_router_loads_at_its_start(tmp_path: Path, tiny: Path) -> None:
    """Is loaded at the start here too; a version is no model, and its comments are the file's."""
    (tmp_path / "presets.ini").write_text(
        "# of the format\nversion = 1  ; the only one\n"
        "[*]\n; all but one\nload-on-startup = true\n"
        f"[first]\nmodel = {tiny}/tiny-a.gguf\n"
        f"[second]\nmodel = {tiny}/tiny-b.gguf\nload-on-startup = on ; it is asked first\n"
        f"[third]\nmodel = {tiny}/tiny-b.gguf\n; too large\nload-on-startup = off\n"
    )
    done = Place(tmp_path, tmp_path / "presets.ini", {}).run("import", "presets.ini")

    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    made = tomllib.loads(done.stdout)
    assert made["server"]["preload"] == ["first", "second"]
    assert list(made["models"]) == ["first", "second", "third"]
    lines = done.stdout.splitlines()
    assert lines[:2] == ["# of the format", "# the only one"]
    assert lines[lines.index('preload = ["first", "second"]') - 2 :][:2] == ["# all but one", "# it is asked first"]


def test_what_starts_a_llama_server_in_its_own_way(tmp_path: Path, tiny: Path, wheel_binary: Path) -> None:
    """Stays a command, and the import says why."""
    serve = f"{wheel_binary} --port ${{PORT}} -m {tiny}/tiny-a.gguf"
    (tmp_path / "config.yaml").write_text(
        f"models:\n  a: {{cmd: 'nice -n 5 {serve}'}}\n  b: {{cmd: 'bash -c \"exec {serve}\"'}}\n"
    )
    done = Place(tmp_path, tmp_path / "config.yaml", {}).run("import", "config.yaml")

    assert done.returncode == 0, done.stderr
    assert all("cmd" in model for model in tomllib.loads(done.stdout)["models"].values())
    assert "models.a.cmd: stays a command: it is `nice` that starts a llama-server, not we" in done.stderr
    assert "every command line is the same" in done.stderr


def test_variables_before_a_llama_server(tmp_path: Path, tiny: Path, wheel_binary: Path) -> None:
    """Stand in `env`, with those that were there; its child gets the same of both."""
    command = f"/usr/bin/env A=1 'B=a b' {wheel_binary} --port ${{PORT}} -m {tiny}/tiny-a.gguf -c 512"
    for name, line in (("one.yaml", command), ("two.yaml", command.replace("bin/env", "bin/env --unset=A"))):
        (tmp_path / name).write_text(f"models:\n  a:\n    cmd: {line}\n    env: [C=3, A=0]\n")
    done, kept = (Place(tmp_path, tmp_path / name, {}).run("import", name) for name in ("one.yaml", "two.yaml"))
    made, other = (tomllib.loads(each.stdout)["models"]["a"] for each in (done, kept))

    assert (done.returncode, kept.returncode) == (0, 0), done.stderr + kept.stderr
    assert made["env"] == {"C": "3", "A": "1", "B": "a b"}
    assert (made["binary"], made["ctx-size"]) == (str(wheel_binary), 512)
    assert (other["cmd"].split()[0], other["env"]) == ("/usr/bin/env", {"C": "3", "A": "0"})


def test_a_comment_beside_what_models_share(tmp_path: Path, tiny: Path, wheel_binary: Path) -> None:
    """It stays with its model, and says of which key it speaks; of many models a few are named in notes."""
    serve = f"{wheel_binary} --port ${{PORT}} -m {tiny}/tiny-a.gguf -c"
    models = [f"  m{n}:\n    cmd: {serve} {512 + n}\n    ttl: 60  # short {n}\n" for n in range(8)]
    (tmp_path / "config.yaml").write_text("models:\n" + "".join(models))
    done = Place(tmp_path, tmp_path / "config.yaml", {}).run("import", "config.yaml")

    assert done.returncode == 0, done.stderr
    assert 'ttl = "1m"' in done.stdout.split("[models.m0]")[0]
    assert "\n# ttl: short 7\n[models.m7]\n" in done.stdout
    assert "warning: --alias: m0, m1, m2, m3, m4 and 3 more: children are told their name" in done.stderr


def test_captures_only_where_the_file_says_so(tmp_path: Path) -> None:
    """What others have asked is nobody's to keep by default."""
    told = []
    for name, line in (("unsaid.yaml", ""), ("said.yaml", "captureBuffer: 5\n")):
        (tmp_path / name).write_text(f"{line}models: {{a: {{cmd: 'sh -c \"sleep 1 ${{PORT}}\"'}}}}\n")
        done = Place(tmp_path, tmp_path / name, {}).run("import", name)
        assert done.returncode == 0, done.stderr
        told.append(tomllib.loads(done.stdout)["server"].get("capture_buffer"))

    assert told == [None, "5MiB"]


def test_a_preset_and_its_import_answer_alike(preset: Imported, wheel_binary: Path) -> None:
    """The router and the service say the same to the same question."""
    with router(wheel_binary, "--models-preset", preset.source) as http:
        before = {name: answer(http, name) for name in preset.models}
    with running_service(preset.folder / "toml", preset.text) as service:
        after = answers(service.url, list(preset.models))
    assert after == before
    assert {status for status, _ in before.values()} == {200}


def test_a_folder_becomes_what_the_router_starts(tmp_path: Path, tiny: Path, binary: Path) -> None:
    """Files are models, folders are one with their projector, their draft and their first part."""
    folder = tmp_path / "models"
    for name, target in {
        "small.gguf": "tiny-a.gguf",
        "mmproj-of-nobody.gguf": "tiny-mmproj.gguf",
        "mtp-alone.gguf": "tiny-a.gguf",
        "seeing/model.gguf": "tiny-a.gguf",
        "seeing/mmproj-F16.gguf": "tiny-mmproj.gguf",
        "drafted/model.gguf": "tiny-a.gguf",
        "drafted/mtp-model.gguf": "tiny-b.gguf",
        "split/tiny-split-00001-of-00002.gguf": "tiny-split-00001-of-00002.gguf",
        "split/tiny-split-00002-of-00002.gguf": "tiny-split-00002-of-00002.gguf",
        "empty/notes.txt": "tiny-a.gguf",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(tiny / target)
    here = Place(tmp_path, folder, {})
    done = here.run("import", "models", "-o", "models.toml")

    assert done.returncode == 0, done.stderr
    assert "empty/: has no model in it" in done.stderr
    routed = launched(binary, "--models-dir", folder)
    ours = set(tomllib.loads((tmp_path / "models.toml").read_text())["models"])
    assert ours == {"small", "seeing", "drafted", "split"}
    assert set(routed) - ours <= {"mtp-alone", "mmproj-of-nobody"}
    for name in ours - ({"drafted"} if "mtp-alone" in routed else set()):  # older builds take drafts for models
        command = here.run("command", "-c", "models.toml", name)
        assert said(command.stdout) == said(shlex.join(routed[name]))


def test_nothing_is_written_over(tmp_path: Path, tiny: Path, wheel_binary: Path) -> None:
    """A file that is there stays, unless it is said to be replaced."""
    here = place(tmp_path, "llama_swap/single_gpu.yaml", tiny=tiny, binary=wheel_binary)
    (tmp_path / "models.toml").write_text("# mine\n")

    refused = here.run("import", here.source, "-o", "models.toml")
    assert (refused.returncode, (tmp_path / "models.toml").read_text()) == (2, "# mine\n")
    assert "--force" in refused.stderr
    assert here.run("import", here.source, "-o", "models.toml", "--force").returncode == 0
    assert "mine" not in (tmp_path / "models.toml").read_text()


def test_relative_paths_lead_to_the_same_files(tmp_path: Path, tiny: Path, wheel_binary: Path) -> None:
    """A llama-swap file's paths start at the working directory; written elsewhere, they are still those."""
    (tmp_path / "tiny").symlink_to(tiny)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "llama-server").symlink_to(wheel_binary)
    (tmp_path / "config.yaml").write_text(
        "models:\n"
        "  native: {cmd: './bin/llama-server --port ${PORT} -m tiny/tiny-a.gguf'}\n"
        "  other: {cmd: './bin/docker run -p ${PORT}:8000'}\n"
    )
    (tmp_path / "bin" / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "docker").chmod(0o755)
    done = Place(tmp_path, tmp_path / "config.yaml", {}).run("import", "config.yaml", "-o", "elsewhere/models.toml")

    assert done.returncode == 0, done.stderr
    models = tomllib.loads((tmp_path / "elsewhere" / "models.toml").read_text())["models"]
    assert models["native"]["model"] == str(tmp_path / "tiny/tiny-a.gguf")
    assert models["native"]["binary"] == str(tmp_path / "bin/llama-server")
    assert models["other"]["cmd"].split()[0] == str(tmp_path / "bin/docker")
    assert "models.other.cmd: is run in" in done.stderr


@pytest.mark.parametrize(
    ("name", "text", "said_of_it"),
    [
        ("config.txt", "", "expected a llama-swap file (.yaml), a preset of llama.cpp (.ini) or a folder"),
        ("config.yaml", "models: {a: {cm: x}}", "expected the key `cmd`"),
        ("presets.ini", "[a]\nmodel = x\ntop_k = 4\nwarmup = maybe\nwords\n", "did you mean `top-k`?"),
    ],
)
def test_a_source_that_its_own_tool_would_refuse(tmp_path: Path, name: str, text: str, said_of_it: str) -> None:
    """Exit code 2, and every problem named."""
    (tmp_path / name).write_text(text)
    done = Place(tmp_path, tmp_path / name, {}).run("import", name)

    assert (done.returncode, done.stdout) == (2, "")
    assert said_of_it in done.stderr
    if name.endswith("ini"):
        assert "3 problem(s)" in done.stderr


@contextlib.contextmanager
def router(binary: Path, *arguments: str | Path) -> Iterator[httpx.Client]:
    """llama-server's own router on a free port."""
    process = subprocess.Popen(
        [binary, *arguments, "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")},
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        url = next(line.split()[-1] for line in process.stdout if "http://127.0.0.1:" in line)
        once = httpx.Limits(max_keepalive_connections=0)  # it closes idle ones just when they are used
        with httpx.Client(base_url=url, timeout=DEADLINE, trust_env=False, limits=once) as http:
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(DEADLINE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    eventually(lambda: not members(process.pid))


def members(group: int) -> list[int]:
    """The processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = path.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def launched(binary: Path, *arguments: str | Path) -> dict[str, list[str]]:
    """What the router would start each model with."""
    with router(binary, *arguments) as http:
        return {model["id"]: model["status"]["args"] for model in http.get("/models").json()["data"]}


def said(line: str) -> set[tuple[str, ...]]:
    """The options of a command line but for those that a router or a supervisor adds, each by one of its names."""
    same = {
        **{"--temperature": "--temp", "--no-mmproj-auto": "--no-mmproj", "--embeddings": "--embedding"},
        **{"--no-webui": "--no-ui", "-m": "--model", "-fa": "--flash-attn", "-t": "--threads", "-c": "--ctx-size"},
    }
    found: list[list[str]] = []
    for word in shlex.split(line)[1:]:
        if word.startswith("-"):
            found.append([same.get(word, word)])
        else:
            found[-1].append(json.dumps(float(word)) if word.replace(".", "", 1).isdigit() else word)
    added = {"--host", "--port", "--log-colors", "--api-key"}  # a key of ours is in the environment
    return {tuple(option) for option in found if option[0] not in added}
