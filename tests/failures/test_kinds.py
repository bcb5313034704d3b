"""Every kind of failure that can be provoked without special hardware, with the real llama-server, over HTTP.

The numbers are the rows of spec llama-server.md, section 3. Where a look at the config already finds the cause, the
same mistake is made once more behind `cmd`, so that the child's own words are understood as well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import SECOND_BUILD, RunningService, eventually, running_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import httpx

BY_STRINGS_ONLY = {
    32: "needs a GPU whose memory is full",
    57: "behind the look at the file, only setpriv's words are left: test_strings",
    60: "signals nobody sent: test_strings",
}
"""Kinds that only their words provoke, or that other modules do."""

NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups" if os.geteuid() == 0 else ""
"""Root reads every file and knows no limits."""


@dataclass(frozen=True)
class Row:
    """One broken model, and what the service must say of it. Braces are filled by `toml_of`."""

    id: str
    code: str
    status: int = 500
    said: str = ""
    """What stands in the evidence; nothing where the child was never asked."""
    options: str = ""
    """The model's TOML."""
    argv: str | None = None
    """The arguments of a raw llama-server instead."""
    wrap: str = ""
    program: str = "{binary}"
    build: str = ""
    """The only build that does so."""
    has_model: bool = True


def options(name: str, code: str, toml: str, **more: Any) -> Row:
    return Row(f"{name}-options", code, options=toml, **more)


def raw(name: str, code: str, argv: str, said: str = "", **more: Any) -> Row:
    return Row(f"{name}-raw", code, said=said, argv=argv, **more)


MODEL = "-m {tiny}/tiny-a.gguf"
FAILS = (
    options("1-model_missing", "model_file_missing", 'model = "/nope/x.gguf"'),
    raw("1-model_missing", "model_file_missing", "-m /nope/x.gguf", "(No such file or directory)"),
    raw(
        "2-model_unreadable",
        "model_file_unreadable",
        "-m {shared}/locked.gguf",
        "(Permission denied)",
        wrap=NOBODY,
    ),
    raw(
        "3-too_many_files",
        "too_many_open_files",
        MODEL,
        "Too many open files",
        status=503,
        wrap="prlimit --nofile=4",
    ),
    options("4-html", "model_file_not_gguf", 'model = "{tiny}/broken-not-gguf.gguf"'),
    raw("4-html", "model_file_not_gguf", "-m {tiny}/broken-not-gguf.gguf", "'<!DO'"),
    options("4-git_lfs", "model_file_not_gguf", 'model = "{broken}/pointer.gguf"'),
    raw("4-git_lfs", "model_file_not_gguf", "-m {broken}/pointer.gguf", "'vers'"),
    options("5-empty", "model_file_truncated", 'model = "{tiny}/broken-empty.gguf"'),
    raw("5-empty", "model_file_truncated", "-m {tiny}/broken-empty.gguf", "failed to read magic"),
    options("5-directory", "model_file_missing", 'model = "{tiny}"'),
    raw("5-directory", "model_file_truncated", "-m {tiny}", "failed to read magic"),
    options("6-header", "model_file_truncated", 'model = "{broken}/cut-in-header.gguf"'),
    raw("6-header", "model_file_truncated", "-m {broken}/cut-in-header.gguf", "failed to read header"),
    options("6-metadata", "model_file_truncated", 'model = "{broken}/cut-in-metadata.gguf"'),
    raw("6-metadata", "model_file_truncated", "-m {broken}/cut-in-metadata.gguf", "failed to read key-value pairs"),
    options("7-data", "model_file_truncated", 'model = "{tiny}/broken-truncated-data.gguf"'),
    raw("7-data", "model_file_truncated", "-m {tiny}/broken-truncated-data.gguf", "is not within the file bounds"),
    options("8-arch", "unknown_architecture", 'model = "{tiny}/broken-unknown-arch.gguf"', said="superllama9000"),
    raw("8-arch", "unknown_architecture", "-m {tiny}/broken-unknown-arch.gguf", "superllama9000"),
    options(
        "9-tensor_missing",
        "model_file_invalid",
        'model = "{tiny}/broken-missing-tensor.gguf"',
        said="tensor 'blk.1.ffn_up.weight' not found",
    ),
    raw("9-tensor_shape", "model_file_invalid", "-m {broken}/shape.gguf", "has wrong shape; expected"),
    raw("9-tensor_count", "model_file_invalid", "-m {broken}/count.gguf", "wrong number of tensors; expected 21"),
    options("10-projector", "not_a_main_model", 'model = "{tiny}/tiny-mmproj.gguf"'),
    raw("10-projector", "not_a_main_model", "-m {tiny}/tiny-mmproj.gguf", "CLIP cannot be used as main model"),
    options("10-adapter", "not_a_main_model", 'model = "{broken}/lora-other-shape.gguf"'),
    raw("10-adapter", "model_file_invalid", "-m {broken}/lora-other-shape.gguf", "llama.context_length"),
    options("11-second_part", "split_invalid", 'model = "{tiny}/tiny-split-00002-of-00002.gguf"'),
    raw("11-second_part", "split_invalid", "-m {tiny}/tiny-split-00002-of-00002.gguf", "illegal split file idx: 1"),
    options("11-part_missing", "model_file_missing", 'model = "{broken}/alone-00001-of-00002.gguf"'),
    raw("11-part_missing", "split_invalid", "-m {broken}/alone-00001-of-00002.gguf", "failed to load GGUF split"),
    raw("11-part_renamed", "split_invalid", "-m {broken}/renamed.gguf", "invalid split file name"),
    options("12-unknown_flag", "unknown_flag", 'frobnicate = "yes"'),
    raw("12-unknown_flag", "unknown_flag", f"{MODEL} --frobnicate", "error: invalid argument: --frobnicate"),
    options("13-removed_flag", "removed_flag", "draft-max = 4"),
    raw("13-removed_flag", "removed_flag", f"{MODEL} --draft-max 4", "the argument has been removed"),
    options("14-number", "bad_flag_value", 'ctx-size = "abc"'),
    raw("14-number", "bad_flag_value", f"{MODEL} -c abc", 'handling argument "-c": stoi'),
    options("14-word", "bad_flag_value", 'flash-attn = "maybe"'),
    raw("14-word", "bad_flag_value", f"{MODEL} -fa maybe", "unknown value for --flash-attn"),
    options("14-cache_type", "bad_flag_value", 'cache-type-k = "q3_0"'),
    raw("14-cache_type", "bad_flag_value", f"{MODEL} -ctk q3_0", "Unsupported cache type: q3_0"),
    options("15-no_value", "missing_flag_value", "ctx-size = true"),
    raw("15-no_value", "missing_flag_value", f"{MODEL} -c", "expected value for argument"),
    options(
        "16-environment",
        "bad_environment",
        'env = {{ LLAMA_ARG_CTX_SIZE = "abc" }}',
        said='environment variable "LLAMA_ARG_CTX_SIZE": stoi',
    ),
    options("18-config_value", "user_config_invalid", 'env.XDG_CONFIG_HOME = "{broken}/config-value"', said="stoi"),
    options(
        "18-config_syntax",
        "user_config_invalid",
        'env.XDG_CONFIG_HOME = "{broken}/config-syntax"',
        said="failed to parse server config file",
    ),
    raw(
        "19-port_taken",
        "listen_address_taken",
        f"{MODEL} --alias ${{PORT}} --port {{taken}}",
        "couldn't bind HTTP server socket, hostname: 127.0.0.1",
        status=503,
    ),
    raw("19-not_local", "listen_address_taken", f"{MODEL} --host 192.0.2.1", "hostname: 192.0.2.1, port", status=503),
    raw("19-no_name", "listen_address_taken", f"{MODEL} --host a..b", "hostname: a..b, port", status=503),
    raw("20-stale_socket", "listen_address_taken", f"{MODEL} --host {{broken}}/stale.sock", "stale.sock", status=503),
    options("21-mmproj_missing", "mmproj_missing", 'mmproj = "/nope/mm.gguf"'),
    raw("21-mmproj_missing", "mmproj_failed", f"{MODEL} --mmproj /nope/mm.gguf", "/nope/mm.gguf"),
    options("22-mmproj_is_text", "mmproj_not_a_projector", 'mmproj = "{tiny}/tiny-b.gguf"'),
    raw("22-mmproj_is_text", "mmproj_failed", f"{MODEL} --mmproj {{tiny}}/tiny-b.gguf", "tiny-b.gguf"),
    options("23-mmproj_mismatch", "mmproj_mismatch", 'mmproj = "{broken}/mmproj-wide.gguf"'),
    raw(
        "23-mmproj_mismatch",
        "mmproj_mismatch",
        f"{MODEL} --mmproj {{broken}}/mmproj-wide.gguf",
        "(n_embd = 64) and mmproj (n_embd = 128)",
    ),
    options("24-lora_missing", "file_missing", 'lora = "/nope/l.gguf"'),
    raw("24-lora_missing", "lora_failed", f"{MODEL} --lora /nope/l.gguf", "/nope/l.gguf"),
    options("25-lora_is_model", "lora_failed", 'lora = "{tiny}/tiny-b.gguf"'),
    raw("25-lora_is_model", "lora_failed", f"{MODEL} --lora {{tiny}}/tiny-b.gguf", "to be 'adapter'"),
    options(
        "25-lora_arch",
        "lora_failed",
        'lora = "{broken}/lora-other-arch.gguf"',
        said="model arch and LoRA arch mismatch",
    ),
    options("25-lora_shape", "lora_failed", 'lora = "{broken}/lora-other-shape.gguf"', said="has incorrect shape"),
    options("26-draft_missing", "file_missing", 'spec-draft-model = "/nope/d.gguf"'),
    # On a busy machine the wheel's build loses its last line now and then; then the file is all that is known.
    raw("26-draft_missing", "draft_model_failed|model_file_missing", f"{MODEL} -md /nope/d.gguf", "/nope/d.gguf"),
    options("29-mtp", "no_mtp_layers", 'spec-type = "draft-mtp"', said="doesn't contain MTP layers"),
    raw(
        "30-kv_too_large",
        "out_of_memory",
        f"{MODEL} -fit off -c 4000000",
        "alloc",  # it was insufficient to allocate, or std::bad_alloc, whichever thread comes first
        status=503,
        wrap="prlimit --as=600000000",
    ),
    raw(
        "31-address_space",
        "out_of_memory",
        f"{MODEL} -fit off -c 262144 -b 262144 -ub 262144",
        "mem",  # which of its words comes through differs from run to run
        status=503,
        wrap="prlimit --as=600000000",
    ),
    options("33-negative_context", "bad_flag_value", "ctx-size = -5", said="n_outputs >= 1"),
    options("33-no_slots", "bad_flag_value", "parallel = 0", said="invalid value for n_parallel"),
    options("33-many_slots", "bad_flag_value", "parallel = 300", said="n_seq_max must be <= 256"),
    options(
        "35-quantised_v",
        "kv_cache_type_unusable",
        'flash-attn = "off"\ncache-type-v = "q8_0"',
        said="quantized V cache requires flash_attn",
    ),
    options("36-head_size", "kv_cache_type_unusable", 'cache-type-k = "q8_0"', said="does not divide n_embd_head_k=16"),
    options("37-template", "chat_template_invalid", 'model = "{broken}/template.gguf"', said="chat template"),
    options(
        "38-template_option",
        "chat_template_invalid",
        'chat-template = "nonsense"\njinja = false',
        said="the supplied chat template is not supported: nonsense",
    ),
    options(
        "38-template_file",
        "chat_template_invalid",
        'chat-template-file = "{broken}/bad.jinja"',
        said="chat template",  # which of its lines comes first differs from run to run
    ),
    *(
        row
        for name in ("chat-template-file", "grammar-file", "api-key-file")
        for row in (
            options(f"39-{name}", "file_missing", f'{name} = "/nope"'),
            raw(f"39-{name}", "argument_file_missing", f"{MODEL} --{name} /nope", "failed to open file '/nope'"),
        )
    ),
    options("40-grammar", "grammar_invalid", 'grammar = "root ::= ((("', said="error parsing grammar: expecting ')'"),
    options("40-grammar_file", "grammar_invalid", 'grammar-file = "{broken}/bad.gbnf"', said="error parsing grammar"),
    options("41-json_schema", "bad_json", 'json-schema = "{{bad"', said="json.exception.parse_error"),
    options("41-kwargs", "bad_json", 'chat-template-kwargs = "{{bad"', said="json.exception.parse_error"),
    options(
        "42-ssl",
        "ssl_not_built_in",
        'ssl-key-file = "{broken}/hello.gguf"\nssl-cert-file = "{broken}/hello.gguf"',
        said="built without SSL support",
    ),
    options("43-device", "device_missing", 'device = "CUDA9"', said="invalid device: CUDA9"),
    options("44-gpu_required", "gpu_required", "require_gpu = true"),
    options("45-split_mode", "device_missing", 'split-mode = "tensor"', said="LLAMA_SPLIT_MODE_TENSOR needs >= 1"),
    options(
        "46-rpc", "rpc_unreachable", 'rpc = "127.0.0.1:9"', said="Failed to connect to", status=503, build="second"
    ),
    options(
        "47-hf_repo",
        "download_failed",
        'hf-repo = "nobody/nothing"\noffline = true',
        said="exactly one out metadata, path_model, and file must be defined",
        status=503,
        has_model=False,
    ),
    options("49-buffer_type", "bad_flag_value", 'override-tensor = "x=NOPE"', said="unknown buffer type"),
    options("50-path", "file_missing", 'path = "/nope"'),
    raw("50-path", "argument_file_missing", f"{MODEL} --path /nope", "static assets path not found: /nope"),
    options("50-slots", "file_missing", 'slot-save-path = "/nope"'),
    raw("50-slots", "argument_file_missing", f"{MODEL} --slot-save-path /nope", "not a directory: /nope"),
    raw(
        "52-threads",
        "too_many_processes",
        "-m {shared}/model.gguf",
        "Resource temporarily unavailable",
        status=503,
        wrap=f"{NOBODY} prlimit --nproc=1",
    ),
    options(
        "53-library_missing",
        "shared_library_missing",
        'binary = "{broken}/llama-server-bare"',
        said="libllama-server-impl.so",
        build="wheel",
    ),
    raw(
        "53-library_missing",
        "shared_library_missing",
        MODEL,
        "libllama-server-impl.so",
        program="{broken}/llama-server-bare",
        build="wheel",
    ),
    raw("53-library_damaged", "binary_truncated", MODEL, "file too short", wrap="env LD_LIBRARY_PATH={broken}/libs"),
    options("55-not_executable", "binary_not_executable", 'binary = "{broken}/llama-server-plain"'),
    raw("55-not_executable", "binary_not_executable", MODEL, program="{broken}/llama-server-plain"),
    raw(
        "55-interpreter_not_executable",
        "binary_not_executable",
        MODEL,
        "Permission denied",
        program="{broken}/llama-server-locked",
    ),
    options("55-directory", "binary_is_directory", 'binary = "{broken}/llama-server-folder"'),
    raw("55-directory", "binary_is_directory", MODEL, program="{broken}/llama-server-folder"),
    options("56-missing", "binary_not_found", 'binary = "/nope/llama-server"', said="/nope/llama-server"),
    raw("56-missing", "binary_not_found", MODEL, program="/nope/llama-server"),
    raw("56-not_on_path", "binary_not_found", MODEL, program="llama-server-that-is-nowhere"),
    options("56-dangling_link", "binary_not_found", 'binary = "{broken}/llama-server-dangling"'),
    options("56-interpreter", "binary_interpreter_missing", 'binary = "{broken}/llama-server-script"'),
    raw("56-interpreter", "binary_interpreter_missing", MODEL, program="{broken}/llama-server-script"),
    raw(
        "56-interpreter_of_interpreter",
        "binary_not_found",
        MODEL,
        "No such file or directory",
        program="{broken}/llama-server-nested",
    ),
    *(
        options(f"57-{name}", "binary_wrong_architecture", f'binary = "{{broken}}/llama-server-{name}"')
        for name in ("arm", "macos", "windows", "text")
    ),
    raw("57-arm", "binary_wrong_architecture", MODEL, program="{broken}/llama-server-arm"),
    options("59-cut", "binary_truncated", 'binary = "{broken}/llama-server-cut"'),
    options("59-empty", "binary_truncated", 'binary = "{broken}/llama-server-empty"'),
    options("62-no_model", "no_model_given", "", has_model=False),
    raw("62-preset_missing", "no_model_given", "--models-preset /nope.ini", "preset file does not exist: /nope.ini"),
)

WARNS = (
    options("17-environment", "environment_overridden", 'env.LLAMA_ARG_CTX_SIZE = "512"\nctx-size = 256'),
    options(
        "27-other_vocabulary",
        "draft_unused",
        'spec-draft-model = "{broken}/vocabulary.gguf"\nspec-type = "draft-simple"',
    ),
    options("28-no_spec_type", "draft_unused", 'spec-draft-model = "{tiny}/tiny-b.gguf"'),
    options("34-context", "context_capped", "ctx-size = 9999"),
    options("44-no_gpu", "no_usable_gpu", "n-gpu-layers = 99"),
    options("46-rpc_skipped", "rpc_unreachable", 'rpc = "127.0.0.1:9"', build="wheel"),
    options("48-sampler", "unknown_sampler", 'samplers = "foo;top_k"'),
    raw(
        "51-mlock",
        "mlock_refused",
        "-m {shared}/model.gguf -c 256 --load-mode mlock",
        wrap=f"{NOBODY} prlimit --memlock=4096",
    ),
    options("54-preload", "preload_ignored", 'env.LD_PRELOAD = "{broken}/preload.so"'),
)

SEPARATE = {58, 61, 63}
"""Kinds with a test of their own below."""


@dataclass(frozen=True)
class Kinds:
    """A service with all the broken models of one build."""

    build: str
    binary: Path
    service: RunningService


@pytest.fixture(scope="module", params=["wheel", "second"])
def kinds(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    places: dict[str, object],
    wheel_binary: Path,
) -> Iterator[Kinds]:
    if request.param == "second" and not SECOND_BUILD.exists():
        pytest.skip("no second build here")
    binary = SECOND_BUILD if request.param == "second" else wheel_binary
    config = "\n".join(toml_of(row, {**places, "binary": binary}) for row in (*FAILS, *WARNS))
    with running_service(tmp_path_factory.mktemp("kinds"), config) as service:
        yield Kinds(request.param, binary, service)


def toml_of(row: Row, places: Mapping[str, object]) -> str:
    lines = [f'[models."{row.id}"]']
    if row.argv is not None:
        # Behind `env`, for a llama-server itself is looked at before it is started, and could not say why it ends.
        program = "env {binary}" if row.program == "{binary}" and not row.wrap else row.program
        command = f"{row.wrap} {program} --port ${{PORT}} {row.argv}".strip()
        return "\n".join([*lines, f"cmd = {json.dumps(command.format_map(places))}"])
    settings = row.options.format_map(places)
    keys = {line.partition(" = ")[0] for line in settings.splitlines()}
    lines += [f'binary = "{places["binary"]}"'] if "binary" not in keys else []
    lines += [f'model = "{places["tiny"]}/tiny-a.gguf"'] if row.has_model and "model" not in keys else []
    return "\n".join([*lines, settings])


def _skip_unless_here(kinds: Kinds, row: Row) -> None:
    if row.build not in {"", kinds.build}:
        pytest.skip(f"only the {row.build} build does this")
    if "44-" in row.id and _devices(kinds.binary):
        pytest.skip("there is a GPU here")


def _devices(binary: Path) -> bool:
    run = subprocess.run([binary, "--list-devices"], capture_output=True, text=True, check=False)
    return re.search(r"^\s+\w+\d+: ", run.stdout, re.MULTILINE) is not None


def _first_clear_answer(service: RunningService, model: str) -> httpx.Response:
    """The wheel's build loses its last lines in one start of a hundred (spec, section 3); the next one has them.

    A load by hand is that next one: it does not wait for the pause after a failure.
    """
    answers: list[httpx.Response] = []

    def is_clear() -> bool:
        answers.append(service.chat(model))
        if answers[-1].json()["error"]["code"] != "unknown":
            return True
        with service.http as http:
            http.post("/models/load", json={"model": model, "wait": True})
        return False

    eventually(is_clear)
    return answers[-1]


@pytest.mark.parametrize("row", FAILS, ids=lambda row: row.id)
def test_a_start_that_fails_says_why(kinds: Kinds, row: Row) -> None:
    """Status, code, hint and the child's own line are right, and only what may pass is to be tried again."""
    _skip_unless_here(kinds, row)

    answer = _first_clear_answer(kinds.service, row.id)

    error = answer.json()["error"]
    assert error["code"] in row.code.split("|"), error
    assert answer.status_code == row.status, error
    assert error["failure"]["hint"]
    assert row.said in "\n".join(error["failure"]["evidence"])
    assert error["failure"]["permanent"] is (row.status == 500)
    assert ("retry-after" in answer.headers) is (row.status == 503)
    assert answer.headers.get("x-should-retry") == ("false" if row.status == 500 else None)
    if not row.said:
        assert error["failure"]["phase"] == "preparing"


@pytest.mark.parametrize("row", WARNS, ids=lambda row: row.id)
def test_what_runs_otherwise_than_asked_is_a_warning(kinds: Kinds, row: Row) -> None:
    """The model serves, and `/status` says what is wrong with it."""
    _skip_unless_here(kinds, row)

    answer = kinds.service.chat(row.id)

    warnings = kinds.service.model(row.id)["warnings"]
    assert answer.status_code == 200, answer.text
    assert row.code in [warning["code"] for warning in warnings]  # type: ignore[attr-defined]
    assert all(warning["message"] and warning["hint"] for warning in warnings)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "verbosity",
    [
        3,
        4,
        10,
    ],
)
def test_a_sound_model_is_never_accused(
    start: Callable[..., RunningService], binary: Path, tiny: Path, verbosity: int
) -> None:
    """However much it logs, even of requests that quote errors, there is no warning, no failure and no new child."""
    options = f'model = "{tiny}/tiny-a.gguf"\nctx-size = 512\nlog-verbosity = {verbosity}'
    service = start(f'[models.sound]\nbinary = "{binary}"\n{options}')
    assert service.chat("sound").status_code == 200
    first = service.pid("sound")

    words = "CUDA error: an illegal memory access\nFailed to connect to nowhere"
    assert service.chat("sound", messages=[{"role": "user", "content": words}]).status_code == 200
    if verbosity == 10:
        with service.http as http:  # it writes what it logs when more comes
            eventually(lambda: service.chat("sound").text and "illegal memory" in http.get("/logs/sound").text)

    assert service.model("sound")["warnings"] == []
    assert service.status()["failures"] == {}
    assert service.chat("sound").status_code == 200
    assert service.pid("sound") == first


def test_every_kind_has_a_row() -> None:
    """No row of the spec is forgotten; those that cannot be provoked here are named with the reason."""
    provoked = {int(row.id.partition("-")[0]) for row in (*FAILS, *WARNS)}

    assert provoked | SEPARATE | BY_STRINGS_ONLY.keys() == set(range(1, 64))


@pytest.mark.parametrize(
    "entry",
    [
        "cmd",
        "binary",
    ],
)
def test_58_a_binary_that_is_being_written_may_pass(
    start: Callable[..., RunningService], binary: Path, tiny: Path, tmp_path: Path, entry: str
) -> None:
    """While somebody writes the program a client is told to come again; afterwards it just runs."""
    program = tmp_path / "llama-server"
    # Its libraries lie beside it.
    for other in binary.parent.iterdir():
        if other.name != "llama-server" and ".so" in other.name:
            (tmp_path / other.name).symlink_to(other)
    shutil.copy(binary, program)
    program.chmod(0o755)
    model = f"{tiny}/tiny-a.gguf"
    lines = {
        "cmd": f'cmd = "{program} --port ${{PORT}} -m {model} -c 256"',
        "binary": f'binary = "{program}"\nmodel = "{model}"\nctx-size = 256',
    }

    with program.open("r+b"):
        service = start(f"[models.written]\n{lines[entry]}")
        answer = service.chat("written")

    assert answer.json()["error"]["code"] == "binary_being_written"
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    eventually(lambda: service.chat("written").status_code == 200)


def test_61_a_model_file_cut_while_it_is_in_use_is_told(
    start: Callable[..., RunningService], binary: Path, tiny: Path, tmp_path: Path
) -> None:
    """The request that meets it learns of the SIGBUS and its usual reason."""
    model = tmp_path / "model.gguf"
    shutil.copy(tiny / "tiny-a.gguf", model)
    service = start(f'[models.cut]\nbinary = "{binary}"\nmodel = "{model}"\nctx-size = 256\nwarmup = false')
    with service.http as http:
        http.post("/models/load", json={"model": "cut"})
    eventually(lambda: service.model("cut")["state"] == "ready")

    with model.open("r+b") as file:
        file.truncate(4096)
    answer = service.chat("cut")

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (502, "bus_error")
    assert error["failure"]["signal"] == "SIGBUS"
    assert "rename" in error["failure"]["hint"]


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGQUIT", "SIGSEGV", "SIGKILL"])
def test_63_a_signal_from_outside_is_named(
    start: Callable[..., RunningService], binary: Path, tiny: Path, name: str
) -> None:
    """Who kills a serving child is not blamed on the model, and the next request gets a fresh one."""
    if signal.getsignal(signal.Signals[name]) is signal.SIG_IGN:
        pytest.skip("we were started with this signal ignored, and children inherit that")
    service = start(f'[models.shot]\nbinary = "{binary}"\nmodel = "{tiny}/tiny-a.gguf"\nctx-size = 256')
    assert service.chat("shot").status_code == 200
    first = service.pid("shot")

    os.kill(first, signal.Signals[name])
    eventually(lambda: "shot" in service.status()["failures"])  # type: ignore[operator]
    failure = service.status()["failures"]["shot"]  # type: ignore[index]

    assert (failure["cause"], failure["signal"], failure["phase"]) == ("killed_by_signal", name, "serving")
    assert not failure["permanent"]
    assert service.chat("shot").status_code == 200
    assert service.pid("shot") != first


@pytest.mark.slow
def test_30_a_context_beyond_all_memory_is_told_in_the_end(
    start: Callable[..., RunningService], binary: Path, tiny: Path
) -> None:
    """Several seconds of silence are no reason to give up."""
    command = f"prlimit --as=4000000000 {binary} --port ${{PORT}} -m {tiny}/tiny-a.gguf -c 260000000"
    service = start(f'[models.vast]\ncmd = "{command}"')

    answer = service.chat("vast")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "out_of_memory")
