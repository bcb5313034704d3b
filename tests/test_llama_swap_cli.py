"""The command as a llama-swap user runs it: its options, its config files, HTTPS and what is loaded from the start."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from supervisor import __version__
from supervisor.command_line import parsed, with_command, with_two_dashes
from supervisor.config.secrets import redacted_yaml
from supervisor.told_config import config_of
from tests.conftest import DEADLINE, alive, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).parent / "llama-supervise"
CHILD = f"{sys.executable} -S {Path(__file__).parent / 'runtime' / 'server_child.py'} --port ${{PORT}}"
CONFIG = f"models:\n  a:\n    cmd: {CHILD}\n    aliases: [uno]\n    proxy: http://127.0.0.1:${{PORT}}\n"
HI = [{"role": "user", "content": "hi"}]


def run(*arguments: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env={**os.environ, **env})


@contextlib.contextmanager
def serving(directory: Path, *arguments: object) -> Iterator[tuple[str, Path]]:
    """The service, its URL and its stderr; on leaving, it has ended well and its children with it."""
    runtime = directory / "run"
    runtime.mkdir()
    with (directory / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=directory,
            env={**os.environ, "RUNTIME_DIRECTORY": str(runtime)},
        )
    assert process.stdout is not None
    try:
        url = next((line.split()[-1] for line in process.stdout if line.startswith("listening on")), None)
        assert url is not None, (directory / "stderr").read_text()
        yield url, directory / "stderr"
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.terminate()
        assert process.wait(DEADLINE) == 0
        process.stdout.close()
        assert [pid for pid in map(int, children) if alive(pid)] == []
    assert "Traceback" not in (directory / "stderr").read_text()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [openssl, *command.split(), "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem", folder / "key.pem"


# Options.


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["-config", "x.yaml", "-listen", ":80"], ["serve", "--config", "x.yaml", "--listen", ":80"]),
        (["--config=x.yaml", "-listen=:80"], ["serve", "--config=x.yaml", "--listen=:80"]),
        (["-config-dir=d", "ps"], ["ps", "--config-dir=d"]),
        (["-config-dir", "check", "check"], ["check", "--config-dir", "check"]),
        (["-watch-config"], ["serve", "--watch-config"]),
        (["-watch-config=true"], ["serve", "--watch-config"]),
        (["-watch-config=false"], ["serve"]),
        (["-c", "-config"], ["serve", "-c", "-config"]),
        (["-version=true"], ["-version"]),
    ],
)
def test_options_have_one_dash_or_two(given: list[str], meant: list[str]) -> None:
    """As with Go's flags, and a value may stand behind `=`."""
    assert with_command(with_two_dashes(given)) == meant


def test_version_is_said_as_llama_swap_says_it(tmp_path: Path) -> None:
    """Scripts look for its form; ours stays with two dashes."""
    theirs, ours = run("-version", cwd=tmp_path), run("--version", cwd=tmp_path)

    assert theirs.returncode == ours.returncode == 0
    assert re.fullmatch(rf"version: {re.escape(__version__)} \(.+\), built at .+\n", theirs.stdout)
    assert ours.stdout == f"llama-supervise {__version__}\n"


@pytest.mark.parametrize("option", ["-tls-cert-file", "--tls-key-file"])
def test_a_certificate_and_its_key_come_together(tmp_path: Path, option: str) -> None:
    """One of the two is an error that names the other."""
    (tmp_path / "config.yaml").write_text(CONFIG)

    found = run("-config", "config.yaml", option, "x.pem", cwd=tmp_path)

    assert found.returncode == 2
    assert "tls-cert-file" in found.stderr
    assert "tls-key-file" in found.stderr


def test_every_problem_of_a_config_is_listed(tmp_path: Path) -> None:
    """A bad file is exit code 2, and so is a bad option."""
    (tmp_path / "config.yaml").write_text("startPort: none\nmodels:\n  a: {cmd: x, ttl: -2}\n")

    for arguments in (("-config", "config.yaml"), ("check", "-config", "config.yaml")):
        found = run(*arguments, cwd=tmp_path)
        assert found.returncode == 2
        assert "startPort" in found.stderr
        assert "models.a.ttl" in found.stderr
        assert "`config.yaml` cannot be used" in found.stderr
    assert run("-confi-dir", "x", cwd=tmp_path).returncode == 2


def test_a_folder_needs_files_of_llama_swap(tmp_path: Path) -> None:
    """An empty one is an error, and so is one beside models.toml."""
    (tmp_path / "d").mkdir()
    (tmp_path / "models.toml").write_text("")

    empty = run("-config-dir", "d", cwd=tmp_path)
    mixed = run("-config-dir", "d", "-c", "models.toml", cwd=tmp_path)

    assert empty.returncode == mixed.returncode == 2
    assert "`d` cannot be used" in empty.stderr
    assert "--config-dir" in mixed.stderr


@pytest.mark.parametrize(
    ("arguments", "port"),
    [([], 8080), (["-tls-cert-file", "c", "-tls-key-file", "k"], 8443), (["-listen", ":1"], 1)],
)
def test_where_it_listens(tmp_path: Path, arguments: list[str], port: int) -> None:
    """On every interface, on 8080, with a certificate on 8443 (spec: llama-swap.md, 3.1)."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    options = parsed(["-config", str(path), *arguments])

    server = config_of(options).server
    assert (server.host, server.port) == ("", port)


# Commands.


def test_check_prints_warnings_and_models(tmp_path: Path) -> None:
    """What is odd is said with its place, what was expected and a hint; it is no error."""
    (tmp_path / "config.yaml").write_text(f"{CONFIG}    healthCheckTimeout: 20\n")

    found = run("check", "-config", "config.yaml", cwd=tmp_path)
    as_json = json.loads(run("check", "--json", "-config", "config.yaml", cwd=tmp_path).stdout)

    assert found.returncode == 0
    assert found.stdout.startswith("a\t")
    assert "warning: models.a.healthCheckTimeout (line 6" in found.stderr
    assert "found `20`\nhint: " in found.stderr
    assert as_json["config"][0]["path"] == "models.a.healthCheckTimeout"


def test_a_key_that_is_missing_may_be_misspelled(tmp_path: Path) -> None:
    """What is odd is said beside what is wrong."""
    (tmp_path / "config.yaml").write_text("models:\n  a:\n    cdm: x\n")

    found = run("check", "-config", "config.yaml", cwd=tmp_path)

    assert found.returncode == 2
    assert "error: models.a (line 2): expected the key `cmd`" in found.stderr
    assert "models.a.cdm (line 3)" in found.stderr
    assert "did you mean `cmd`?" in found.stderr


def test_a_bad_address_is_a_problem_of_its_option(tmp_path: Path) -> None:
    """It is named as one of the config's would be."""
    (tmp_path / "config.yaml").write_text(CONFIG)

    found = run("-config", "config.yaml", "-listen", "here", cwd=tmp_path)

    assert found.returncode == 2
    assert "--listen: expected an address" in found.stderr


@pytest.mark.parametrize("name", ["a", "uno"])
def test_command_prints_what_will_run(tmp_path: Path, name: str) -> None:
    """The macros and the port are in it."""
    (tmp_path / "config.yaml").write_text(CONFIG)

    found = run("command", name, "-config", "config.yaml", cwd=tmp_path)

    assert found.returncode == 0
    assert found.stdout == CHILD.replace("${PORT}", "5800") + "\n"


def test_the_commands_speak_with_a_service_of_a_folder(tmp_path: Path) -> None:
    """Several files are one config; `load`, `ps`, `logs`, `why` and `unload` work as ever."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.yaml").write_text(CONFIG)
    (tmp_path / "d" / "2.yml").write_text(CONFIG.replace(" a:", " b:").replace("uno", "due"))

    with serving(tmp_path, "-config-dir", "d", "-listen", "127.0.0.1:0") as (url, _):
        options = ("-config-dir", "d", "--url", url)
        assert "b is ready" in run("load", "due", *options, cwd=tmp_path).stdout
        assert "b\tready" in run("ps", *options, cwd=tmp_path).stdout
        assert run("logs", "b", *options, cwd=tmp_path).returncode == 0
        assert "b has not failed" in run("why", "b", *options, cwd=tmp_path).stdout
        assert run("unload", "b", *options, cwd=tmp_path).returncode == 0


# Serving.


def test_the_service_warns_of_what_is_open(tmp_path: Path) -> None:
    """In one line: no keys beyond this machine."""
    (tmp_path / "config.yaml").write_text(CONFIG)

    with serving(tmp_path, "-config", "config.yaml", "-listen", ":0", "-watch-config") as (_, errors):
        warnings = [line for line in errors.read_text().splitlines() if line.startswith("warning: ")]

    assert len(warnings) == 1
    assert "API keys" in warnings[0]


def test_with_keys_or_on_this_machine_there_is_no_warning(tmp_path: Path) -> None:
    """It would only teach people not to read them."""
    (tmp_path / "config.yaml").write_text(f"apiKeys: [sk-abcdef]\n{CONFIG}")

    with serving(tmp_path, "-config", "config.yaml", "-listen", ":0") as (_, errors):
        assert "warning" not in errors.read_text()


def test_https_is_served(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """The URL says so, the certificate is the one given, and keep-alive, bodies and websockets' port are the same."""
    cert, key = certificate
    (tmp_path / "config.yaml").write_text(CONFIG)
    options = ("-config", "config.yaml", "-listen", "127.0.0.1:0", "-tls-cert-file", cert, "-tls-key-file", key)

    with serving(tmp_path, *options) as (url, _):
        with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=cert), trust_env=False) as client:
            answers = [client.get("/v1/models"), client.get("/upstream/a/health", timeout=DEADLINE)]
        with pytest.raises(httpx.HTTPError):
            httpx.get(url.replace("https", "http"), trust_env=False)

    assert url.startswith("https://127.0.0.1:")
    assert [answer.status_code for answer in answers] == [200, 200]


def test_doctor_asks_a_service_with_keys_and_https(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """It knows the keys from the config."""
    (tmp_path / "config.yaml").write_text(f"apiKeys: [sk-abcdef]\n{CONFIG}")
    cert, key = certificate
    options = ("-config", "config.yaml", "-listen", "127.0.0.1:0", "-tls-cert-file", cert, "-tls-key-file", key)

    with serving(tmp_path, *options) as (url, _):
        found = run("doctor", "-config", "config.yaml", "-o", "-", "--url", url, cwd=tmp_path)

    assert "no service answers" not in found.stdout
    assert "sk-abcdef" not in found.stdout + found.stderr


def test_commands_bring_the_key_of_the_config(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """Over HTTPS too, whose certificate is that of this machine; and where there is no config, a variable has it."""
    (tmp_path / "config.yaml").write_text(f"apiKeys: [sk-abcdef]\n{CONFIG}")
    (tmp_path / "elsewhere").mkdir()
    cert, key = certificate
    options = ("-config", "config.yaml", "-listen", "127.0.0.1:0", "-tls-cert-file", cert, "-tls-key-file", key)

    with serving(tmp_path, *options) as (url, _):
        for command in (("load", "uno"), ("ps",), ("logs", "a"), ("why", "a"), ("unload", "a")):
            asked = run(*command, "-config", "config.yaml", "--url", url, cwd=tmp_path)
            assert asked.returncode == 0, asked.stderr
        without = run("ps", "--url", url, cwd=tmp_path / "elsewhere")
        wrong = run("ps", "--url", url, cwd=tmp_path / "elsewhere", LLAMA_SUPERVISE_KEY="sk-wrong")
        given = run("ps", "--url", url, cwd=tmp_path / "elsewhere", LLAMA_SUPERVISE_KEY="sk-abcdef")

    assert (without.returncode, wrong.returncode, given.returncode) == (1, 1, 0)
    assert "`LLAMA_SUPERVISE_KEY`" in without.stderr
    assert "does not know the key" in wrong.stderr
    assert "sk-" not in wrong.stderr


def test_a_certificate_that_is_none_is_named(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """With the option it came from, before anything listens."""
    cert, key = certificate
    other = tmp_path / "other.pem"
    subprocess.run(["openssl", "genrsa", "-out", other, "2048"], check=True, capture_output=True)
    locked = tmp_path / "locked.pem"
    encrypt = ["openssl", "rsa", "-aes128", "-passout", "pass:secret", "-in", key, "-out", locked]
    subprocess.run(encrypt, check=True, capture_output=True)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "junk.pem").write_text("junk")

    for given, named in (
        ((tmp_path / "gone.pem", key), "`tls_cert_file` cannot be used"),
        ((tmp_path / "junk.pem", key), "`tls_cert_file` cannot be used"),
        ((cert, tmp_path / "gone.pem"), "`tls_key_file` cannot be used"),
        ((cert, other), "`tls_key_file` cannot be used"),
        ((cert, locked), "`tls_key_file` cannot be used"),
    ):
        found = run("-config", "config.yaml", "-tls-cert-file", given[0], "-tls-key-file", given[1], cwd=tmp_path)
        assert found.returncode == 2
        assert named in found.stderr
        assert "hint: " in found.stderr
        assert "Traceback" not in found.stderr


def test_check_looks_at_the_certificate(tmp_path: Path) -> None:
    """As at everything else that would keep the service from starting."""
    (tmp_path / "models.toml").write_text('[server]\ntls_cert_file = "gone.pem"\ntls_key_file = "gone.pem"\n')

    found = run("check", cwd=tmp_path)

    assert found.returncode == 2
    assert f"{tmp_path}/gone.pem: No such file" in found.stderr


def test_models_are_loaded_from_the_start(tmp_path: Path) -> None:
    """One after the other; one that cannot start is logged and holds nothing up."""
    (tmp_path / "config.yaml").write_text(
        f"hooks:\n  on_startup:\n    preload: [bad, uno, b]\nrouting:\n  router:\n    settings:\n      groups:\n"
        f"        all: {{swap: false, members: [a, b, bad]}}\n{CONFIG}  b:\n    cmd: {CHILD}\n"
        f"  bad:\n    cmd: /nonexistent/server ${{PORT}}\n"
    )

    with (
        serving(tmp_path, "-config", "config.yaml", "-listen", "127.0.0.1:0") as (url, _),
        httpx.Client(base_url=url, trust_env=False, verify=False) as client,
    ):

        def ready() -> set[str]:
            return {row["model"] for row in client.get("/running").json()["running"] if row["state"] == "ready"}

        eventually(lambda: ready() == {"a", "b"})
        log = client.get("/logs").text

    assert "bad could not be preloaded" in log
    assert log.index("bad could not be preloaded") < log.index("a is ready") < log.index("b is ready")


def test_a_command_with_a_llama_server_is_looked_at_beforehand(tmp_path: Path, tiny: Path, binary: Path) -> None:
    """What its binary would refuse and files that are missing are told without a request; a sound one serves."""
    start = f"cmd: {binary} --port ${{PORT}} -c 256 --fit off"
    (tmp_path / "config.yaml").write_text(
        f"models:\n"
        f"  good:\n    {start} -m {tiny}/tiny-a.gguf\n"
        f"  typo:\n    {start} -m {tiny}/tiny-a.gguf --jinjaa\n"
        f"  gone:\n    {start} -m {tiny}/tiny-z.gguf\n"
        f"  stop:\n    {start} -m {tiny}/tiny-a.gguf\n    cmdStop: no-such-program ${{PID}}\n"
    )

    checked = json.loads(run("check", "--json", "-config", "config.yaml", cwd=tmp_path).stdout)
    with (
        serving(tmp_path, "-config", "config.yaml", "-listen", "127.0.0.1:0") as (url, _),
        httpx.Client(base_url=url, trust_env=False, verify=False, timeout=DEADLINE) as client,
    ):
        eventually(lambda: {"gone", "typo"} <= {line.split()[1] for line in client.get("/logs").text.splitlines()})
        answer = client.post("/v1/chat/completions", json={"model": "good", "max_tokens": 1, "messages": HI})
        refused = client.post("/v1/chat/completions", json={"model": "typo", "messages": HI})

    causes = {name: [each["cause"] for each in found] for name, found in checked["models"].items()}
    assert causes == {"good": [], "typo": ["unknown_flag"], "gone": ["model_file_missing"], "stop": []}
    assert [warning["code"] for warning in checked["warnings"]["stop"]] == ["stop_command_missing"]
    assert answer.status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "unknown_flag")
    assert "`--jinja`" in refused.json()["error"]["message"]


# What strangers may see.

LEAKS = {
    "a key": "apiKeys: [CANARY]",
    "keys below": "apiKeys:\n- CANARY\n- CANARY",
    "keys in brackets": 'apiKeys: [\n"CANARY",\nCANARY\n]\nstartPort: 1',
    "a peer's": "peers:\n  p:\n    apiKey: CANARY",
    "in braces": "peers: {p: {proxy: http://x, apiKey: CANARY, models: [a]}}",
    "an anchor": "x: &one CANARY\napiKeys: [*one]",
    "a macro": 'macros:\n  mine: CANARY\napiKeys: ["${mine}"]',
    "a macro in a command": "macros:\n  mine: CANARY\nmodels:\n  a:\n    cmd: x --api-key ${mine}",
    "a macro's name": "macros: {hf_token: CANARY}",
    "a folded macro": "macros:\n  secret: >-\n    CANARY\n    CANARY\n  other: 1",
    "a variable": "models: {a: {env: [HF_TOKEN=CANARY]}}",
    "a variable with spaces": 'models:\n  a:\n    env:\n      - DB_PASSWORD=x CANARY\n      - "MY_SECRET=x CANARY"',
    "a flag": "models:\n  a:\n    cmd: llama-server --api-key CANARY",
    "a flag and quotes": "models:\n  a:\n    cmd: |\n      x --api-key \"CANARY CANARY\" --hf-token='CANARY'",
    "a flag in JSON": 'models: {a: {cmd: "x --api-key \\"CANARY CANARY\\""}}',
    "a flag and the next line": "models:\n  a:\n    cmd: |\n      x --api-key \\\n        CANARY\n      -hft\n  CANARY",
    "a URL": "peers: {p: {proxy: 'https://user:CANARY@host/'}}",
    "a header": 'x: "Authorization: Bearer CANARY"',
    "a comment": "# apiKey: CANARY\n#   cmd: x --api-key CANARY",
    "no YAML": "apiKeys: [CANARY\n  models: {{{\n\t- HF_TOKEN=CANARY\nx: ]\npeers: apiKey: CANARY",
}


@pytest.mark.parametrize("leak", LEAKS)
def test_no_secret_of_a_config_is_shown(leak: str) -> None:
    """Whatever way it is written."""
    canary = f"canary{secrets.token_hex(8)}"

    shown = redacted_yaml(LEAKS[leak].replace("CANARY", canary))

    assert canary not in shown
    assert "[redacted]" in shown


def test_what_is_no_secret_is_shown() -> None:
    """A report from which everything is gone helps nobody."""
    text = f"startPort: 5900\nmacros:\n  ctx: 4096\n{CONFIG}    setParams: {{max_tokens: 12}}\n    ttl: 60\n"

    assert redacted_yaml(text) == text


@pytest.mark.parametrize("broken", [False, True])
def test_doctor_shows_the_config_without_secrets(tmp_path: Path, broken: bool) -> None:
    """Also one that cannot be used: then why not is in the report."""
    canary = f"canary{secrets.token_hex(8)}"
    (tmp_path / "config.yaml").write_text(f"apiKeys: [{canary}]\nstartPort: {'x' if broken else 5800}\n{CONFIG}")

    found = run("doctor", "-config", "config.yaml", "-o", "-", "--url", "http://127.0.0.1:9", cwd=tmp_path)

    assert found.returncode == 0
    assert canary not in found.stdout + found.stderr
    assert "apiKeys: [redacted]" in found.stdout
    assert "server_child.py" in found.stdout
    assert ("config: problem: startPort" in found.stdout) is broken
