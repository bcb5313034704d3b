"""A whole command that starts a llama-server is looked at as if its options stood in the config."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.config.values import Model, Transport
from supervisor.llama.arguments import argument_problems, options_of, read_arguments
from supervisor.llama.command import Surroundings
from supervisor.llama.help_text import parse_help
from supervisor.llama.preflight import Inspector

if TYPE_CHECKING:
    from supervisor.llama.preflight import Inspection

pytestmark = pytest.mark.anyio

HELP = """
-h,    --help                           print usage and exit
-m,    --model FNAME                    model path to load
-c,    --ctx-size N                     size of the prompt context (default: 0)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use ('on', 'off', or 'auto', default: 'auto')
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-lm,   --load-mode {none,mmap,dio,auto} how to load
--lora FNAME                            path to LoRA adapter (use comma-separated values to load multiple adapters)
--control-vector-layer-range START END  layer range to apply the control vector(s) to
--jinja, --no-jinja                     whether to use jinja template engine for chat
--ui, --no-ui                           whether to serve the page
--draft-max N                           the argument has been removed. use --spec-draft-n-max
--spec-draft-n-max N                    how many tokens to draft
--api-key KEY                           API key to use
--host HOST                             ip address to listen
--port PORT                             port to listen
"""
CATALOGUE = parse_help(HELP)


def problems(line: str) -> list[tuple[str, str, str]]:
    found = argument_problems(CATALOGUE, read_arguments(CATALOGUE, line.split()))
    return [(problem.cause, problem.message, problem.hint) for problem in found]


def around(base: Path, **environ: str) -> Surroundings:
    return Surroundings(base, Path("/nonexistent"), {**os.environ, **environ}, base)


def help_of(binary: Path) -> str:
    return subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout


async def inspected(base: Path, *words: object, **fields: object) -> Inspection:
    model = Model(id="m", cmd=tuple(map(str, words)), transport=Transport.TCP, **fields)  # type: ignore[arg-type]
    return await Inspector(around(base), cache_dir=None).examine(model)


def causes(inspection: Inspection) -> list[str]:
    return [problem.cause for problem in inspection.problems]


# What a line says.


@pytest.mark.parametrize(
    "line",
    [
        "-m a.gguf --ctx_size 4096 --port ${PORT} --host 127.0.0.1",
        "--model a.gguf -c -1 -fa on --no-jinja",
        "-m a.gguf --control-vector-layer-range 1 2 -ngl 99",
        "-m a.gguf --api-key anything -c ${PORT}",
        "--help",
        "",
    ],
)
def test_what_the_binary_takes_is_let_through(line: str) -> None:
    """Short and long names, underscores, several values, and what is not known yet."""
    assert problems(line) == []


@pytest.mark.parametrize(
    ("line", "cause", "named", "hint"),
    [
        ("--ctx-sise 512 -m a", "unknown_flag", "no option `--ctx-sise`", "`--ctx-size`"),
        ("--ngl 99", "unknown_flag", "no option `--ngl`", "write `-ngl`"),
        ("--no-mmap", "unknown_flag", "no option `--no-mmap`", "write `--load-mode none` instead"),
        ("--no-webui", "unknown_flag", "no option `--no-webui`", "write `--no-ui` instead"),
        ("--draft-max 16", "removed_flag", "`--draft-max` was removed", "`--spec-draft-n-max`"),
        ("--model=a.gguf", "unknown_flag", "`--model` takes its value as a word", "write `--model VALUE`"),
        ("--api-key=sk-123", "unknown_flag", "`--api-key` takes its value", "write `--api-key VALUE`"),
        ("-m a.gguf && echo", "unknown_flag", "the word `&&` after `-m`", "sh -c"),
        ("-m my model.gguf", "unknown_flag", "the word `model.gguf` after `-m`", "quotes"),
        ("--api-key sk-1 sk-2", "unknown_flag", "a word after `--api-key`", "quotes"),
        ("-fa --jinja", "bad_flag_value", "`-fa` must be one of", "write `-fa on`"),
        ("-m a.gguf -c", "missing_flag_value", "`-c` needs a value", ""),
        ("-c many", "bad_flag_value", "`-c` must be a number", ""),
    ],
)
def test_what_it_refuses_is_named_as_it_is_written(line: str, cause: str, named: str, hint: str) -> None:
    """Once, with what to write instead on a command line."""
    ((found, message, advice),) = problems(line)

    assert found == cause
    assert named in message
    assert hint in advice
    assert "sk-" not in message + advice


def test_a_number_it_misreads_is_no_reason_not_to_start() -> None:
    """It has run like this so far."""
    (problem,) = argument_problems(CATALOGUE, read_arguments(CATALOGUE, ["-c", "16k"]))

    assert problem.is_misread
    assert "write `-c 16384`" in problem.hint


def test_files_are_found_where_the_command_runs(tmp_path: Path) -> None:
    """The last one counts, adapters add up, and a name with a macro in it is not known yet."""
    words = ["-m", "no.gguf", "--model", "a,b.gguf", "--lora", "x,y", "--lora", "/z", "-lm", "dio"]

    options = options_of(read_arguments(CATALOGUE, words), around(tmp_path))
    unknown = options_of(read_arguments(CATALOGUE, ["-m", "${HOME}/a.gguf"]), around(tmp_path))

    assert options["model"] == f"{tmp_path}/a,b.gguf"
    assert options["lora"] == (f"{tmp_path}/x", f"{tmp_path}/y", "/z")
    assert options["load-mode"] == "dio"
    assert not unknown["model"]


def test_every_option_of_a_real_binary_is_read_back(binary: Path) -> None:
    """No option takes more or fewer words than the binary thinks."""
    catalogue = parse_help(help_of(binary))
    words = [
        word for flag in catalogue.flags if not flag.removed for word in (flag.spellings[0], *["${X}"] * flag.arity)
    ]

    assert list(argument_problems(catalogue, read_arguments(catalogue, words))) == []


# What a look finds.


async def test_a_sound_command_is_known(binary: Path, tiny: Path, tmp_path: Path) -> None:
    """Binary, options and model, as of any other model."""
    words = ("-m", tiny / "tiny-a.gguf", "--port", "${PORT}", "-c", "512", "--jinja", "--alias", "x")

    found = await inspected(tmp_path, binary, *words)

    assert (causes(found), found.warnings) == ([], ())
    assert found.binary == binary
    assert found.catalogue is not None
    assert found.header is not None
    assert found.size == (tiny / "tiny-a.gguf").stat().st_size


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--ctx-sise", "512"), "unknown_flag"),
        (("--flash-attn", "maybe"), "bad_flag_value"),
        (("--json-schema", "{"), "bad_json"),
        (("--chat-template-file", "gone.jinja"), "file_missing"),
        (("--mmproj", "gone.gguf"), "mmproj_missing"),
        (("-md", "gone.gguf"), "file_missing"),
        (("--model", "~/gone.gguf"), "model_file_missing"),
    ],
)
async def test_what_would_fail_is_told_before(
    binary: Path, tiny: Path, tmp_path: Path, options: tuple[str, ...], cause: str
) -> None:
    """Without any request."""
    found = await inspected(tmp_path, binary, "-m", tiny / "tiny-a.gguf", "--port", "${PORT}", *options)

    assert causes(found) == [cause]
    assert found.problems[0].hint or cause == "file_missing"
    if "~" in options[1]:
        assert "no shell" in found.problems[0].hint


async def test_an_option_that_is_gone_is_told(binary: Path, tiny: Path, tmp_path: Path) -> None:
    """To those whose build has lost it, and to nobody else."""
    lost = "--no-mmap" not in help_of(binary)

    found = await inspected(tmp_path, binary, "-m", tiny / "tiny-a.gguf", "--no-mmap")

    assert causes(found) == (["unknown_flag"] if lost else [])
    assert not lost or "`--load-mode none`" in found.problems[0].hint


async def test_a_broken_file_is_told(wheel_binary: Path, tiny: Path, tmp_path: Path) -> None:
    """What its header tells."""
    found = await inspected(tmp_path, wheel_binary, "--model", tiny / "broken-truncated-data.gguf")

    assert causes(found) == ["model_file_truncated"]


@pytest.mark.parametrize(
    "words",
    [
        ("--models-dir", "/srv", "--port", "${PORT}"),
        ("-m", "later.gguf", "--model-url", "https://example.org/m.gguf"),
        ("-m", "${LATER}/a.gguf"),
        ("--log-file", "new.log"),
        ("-hf", "someone/something"),
    ],
)
async def test_what_may_be_missing_is_not_accused(wheel_binary: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    """A router, downloads, names that are not known, and files that it writes."""
    assert causes(await inspected(tmp_path, wheel_binary, *words)) == []


async def test_other_programs_are_left_alone(tmp_path: Path) -> None:
    """A wrapper by that name takes what it likes."""
    wrapper = tmp_path / "llama-server"
    wrapper.write_text("#!/bin/sh\n")
    wrapper.chmod(0o755)

    found = await inspected(tmp_path, wrapper, "--anything", "-m", "gone.gguf")

    assert (found.problems, found.catalogue) == ((), None)


async def test_its_warnings_are_in_the_words_of_a_command(wheel_binary: Path, tiny: Path, tmp_path: Path) -> None:
    """What to write instead can be pasted."""
    model = tiny / "tiny-a.gguf"

    found = await inspected(tmp_path, wheel_binary, "-m", model, "-md", model)

    assert [warning.code for warning in found.warnings] == ["draft_unused"]
    assert "`--spec-type draft-simple`" in found.warnings[0].hint


@pytest.mark.parametrize("program", ["/nonexistent/stop", "no-such-stop"])
async def test_a_stop_command_that_is_not_there_is_a_warning(tmp_path: Path, program: str) -> None:
    """The model runs all the same."""
    found = await inspected(tmp_path, "/bin/sh", "-c", "x", cmd_stop=(program, "${PID}"))

    (warning,) = found.warnings
    assert (found.problems, warning.code) == ((), "stop_command_missing")
    assert program in warning.message
    assert (await inspected(tmp_path, "/bin/sh", cmd_stop=("sh", "-c", "x"))).warnings == ()


def test_a_file_that_comes_later_changes_the_fingerprint(wheel_binary: Path, tmp_path: Path) -> None:
    """So that the model is looked at again."""
    inspector = Inspector(around(tmp_path), cache_dir=None)
    model = Model(id="m", cmd=(str(wheel_binary), "-m", "a.gguf", "--mmproj", "b.gguf"))

    seen = [inspector.fingerprint(model)]
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"x")
        seen.append(inspector.fingerprint(model))

    assert len(set(seen)) == 3
