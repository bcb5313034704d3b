"""What holds for every llama-swap file: its import says the same, field by field and option by option."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.config import toml
from supervisor.config.llama_swap.comments import comments_of
from supervisor.config.llama_swap.reader import parse
from supervisor.importing import preset, proof
from supervisor.importing.llama_swap import draft
from supervisor.importing.source import Source
from supervisor.importing.wrapped import unwrapped
from supervisor.llama.command import Surroundings, llama_command, raw_command
from supervisor.llama.endpoint import UnixEndpoint
from supervisor.llama.help_text import parse_help

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.config.values import Config
    from supervisor.llama.help_text import Catalogue

ENVIRON = {"DIR": "/models", "COUNT": "7", "ODD": 'a "b" \\ c', "API_KEY": "sk-0123456789"}
AROUND = Surroundings(Path("/base"), Path("/home/me"), {}, Path("/private"))
SERVER = "/opt/llama-server"
NOTE = re.compile(r"note-\d+-?")

OPTIONS = st.sampled_from(
    [
        *("-c 512", "--ctx-size 1024", "-ngl 99", "--temp 0.70", "--temp 1e-1", "--top_k 20", "-fa on", "--no-warmup"),
        *(
            "--jinja",
            "--no-webui",
            "--seed 5800",
            "--seed ${COUNT}",
            "-ot exps=CPU",
            "--lora a --lora b",
            "-np ${env.COUNT}",
        ),
        *(
            "--alias 1.10",
            "--alias 'a b'",
            "--mmproj ${env.DIR}/mm",
            "--api-key ${env.API_KEY}",
            "--chat-template-kwargs '{\"a\": 1}'",
        ),
        *("--dry-sequence-breaker a", "--dry-sequence-breaker b", "--logit-bias 15+1", "--logit-bias 16-1", "--lora c"),
        *(
            "${shared}",
            "${whole} --keep 1",
            "--bogus",
            "-ctk q8_0",
            "--samplers 'top_k;top_p'",
            "--host ::1",
            "--port 8080",
        ),
    ]
)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Co"]), max_size=8)
VALUE = st.one_of(st.integers(-5, 5), st.booleans(), TEXT.map(lambda text: text.replace("$", "")), st.floats(0, 2))
SETTINGS = st.dictionaries(st.sampled_from(["temperature", "a.b", "c", "x y"]), VALUE, max_size=3)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "ttl": st.integers(-1, 5000),
    "name": TEXT.map(lambda text: text.replace("$", "")),
    "description": st.sampled_from(["", "${MODEL_ID}", "on ${PORT}", "${env.ODD}", "# no comment", "'''"]),
    "unlisted": st.booleans(),
    "aliases": st.just(["${MODEL_ID}-2", "${MODEL_ID}:x"]),
    "concurrencyLimit": st.integers(0, 20),
    "sendLoadingState": st.booleans(),
    "unloadTimeout": st.integers(0, 40),
    "checkEndpoint": st.sampled_from(["/health", "none", "ready", "/x"]),
    "useModelName": st.sampled_from(["", "other", "${MODEL_ID}-q4"]),
    "env": st.lists(st.sampled_from(["A=1", "B=${env.ODD}", "C=${PORT}", "HF_TOKEN=x", "D=$${env:DIR}"]), max_size=3),
    "metadata": st.dictionaries(TEXT.filter(lambda text: "$" not in text), VALUE, max_size=2),
    "filters": st.fixed_dictionaries(
        {},
        optional={
            "stripParams": st.sampled_from(["top_k", "c, temperature"]),
            "setParams": SETTINGS,
            "setParamsByID": st.dictionaries(st.sampled_from(["${MODEL_ID}:x", "${MODEL_ID}"]), SETTINGS, max_size=2),
        },
    ),
    "timeouts": st.fixed_dictionaries(
        {}, optional={"connect": st.integers(0, 99), "responseHeader": st.integers(0, 99)}
    ),
    "capabilities": st.fixed_dictionaries({}, optional={"in": st.just(["text"]), "context": st.integers(0, 99)}),
    "compat": st.just({"ignoreWebsockets": True}),
    "cmdStop": st.sampled_from(["docker stop x-${PORT}", "kill ${PID}"]),
    "proxy": st.sampled_from(["http://127.0.0.1:${PORT}", "http://localhost:${PORT}", "http://box:${PORT}/v"]),
}


ELSEWHERE: dict[str, Any] = {
    "peers": {"far": {"proxy": "http://far:8${COUNT}", "models": ["x", "y/z"], "apiKey": "${env.API_KEY}"}},
    "selectors": {"pool": {"strategy": "spillover", "targets": ["x", "y/z"], "settings": {"spillover": 2}}},
    "profiles": {"p": {"description": "${env.ODD}", "pins": {"gpt": "pool", "none": None}}},
}
"""What is not of this machine."""


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    is_llama = draw(st.booleans())
    fields = {key: draw(FIELDS[key]) for key in draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=4))}
    if is_llama:
        words = ["--port ${PORT}", "-m ${env.DIR}/x.gguf", *draw(st.lists(OPTIONS, max_size=5))]
        fields.pop("cmdStop", None)
        wrapper = draw(st.sampled_from(["", "", "env X=1 ", "/usr/bin/env A=2 'Y=${env.ODD}' "]))
        return {"cmd": wrapper + " ".join([SERVER, *words]), **fields}
    return {"cmd": draw(st.sampled_from(["docker run -p ${PORT}:1 i", "sh -c 'exec x --port ${PORT}'\n"])), **fields}


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(["a", "b/c", "d.e:f", "g h"]), min_size=1, max_size=3, unique=True))
    top = st.fixed_dictionaries(
        {},
        optional={
            "globalTTL": st.integers(0, 900),
            "healthCheckTimeout": st.integers(0, 900),
            "unloadTimeout": st.integers(0, 60),
            "logLevel": st.sampled_from(["debug", "warn"]),
            "apiKeys": st.just(["${env.API_KEY}", "sk-other"]),
            "includeAliasesInList": st.booleans(),
            "captureBuffer": st.integers(0, 9),
            "metricsMaxInMemory": st.integers(0, 5000),
            "performance": st.fixed_dictionaries(
                {}, optional={"disabled": st.booleans(), "every": st.sampled_from(["5s", "1m30s", "7500ms"])}
            ),
            "store": st.just({"path": "/var/lib/${shared}.db"}),
            "upstream": st.just({"ignorePaths": ["\\\\.(css|js)$", "^/a'b"]}),
            "ui": st.just({"activity": {"session_id": ["X-Mine"]}}),
        },
    )
    macros = {
        **{"COUNT": draw(st.integers(1, 9)), "shared": "-t 2 --mirostat ${COUNT}", "startPort": 1},
        **{
            "inner": "-b 64 # no comment" if draw(st.booleans()) else "-b 64",
            "whole": "${shared}\n# one\n${inner}\n-ub 32",
        },
    }
    short = {f"v{place}": name for place, name in enumerate(names)}
    together: list[dict[str, Any]] = [
        {},
        {"groups": {"one": {"members": names[:1], "swap": False, "persistent": True}}},
        {"matrix": {"vars": short, "sets": {"all": " & ".join(short), "some": f"({' | '.join(short)})"}}},
        {"matrix": {"vars": short, "sets": {"all": " & ".join(short)}, "evict_costs": {"v0": 30}}},
    ]
    others = {**(ELSEWHERE if draw(st.booleans()) else {}), **draw(st.sampled_from(together))}
    return {**draw(top), **others, "macros": macros, "models": {name: draw(models()) for name in names}}


@pytest.fixture(scope="session")
def known(wheel_binary: Path) -> Callable[[], Catalogue]:
    """What the binary takes; behind a call, for hypothesis prints arguments."""
    catalogue = parse_help(subprocess.run([wheel_binary, "--help"], capture_output=True, text=True, check=True).stdout)
    return lambda: catalogue


@given(files())
@settings(max_examples=100)
def test_an_import_says_what_its_source_says(known: Callable[[], Catalogue], file: dict[str, Any]) -> None:
    """Nothing is lost without a note, and every command is the same."""
    text, catalogue = yaml.safe_dump(file, allow_unicode=True), known()
    config = unwrapped(parse(text, base=AROUND.base, environ=ENVIRON))
    llama = {name for name, model in config.models.items() if model.cmd[0] == SERVER}
    source = Source("config.yaml", text, config, ENVIRON, catalogues=dict.fromkeys(llama, catalogue))
    drafted = draft(source)
    made = toml.parse(drafted.page.render(), base=AROUND.base, environ=ENVIRON)

    assert [str(note) for note in proof.lost(config, made)] == []
    for name in config.models:
        assert is_same(config, made, name, catalogue), drafted.page.render()


def is_same(config: Config, made: Config, name: str, catalogue: Catalogue) -> bool:
    before, after = config.models[name], made.models[name]
    port = before.port or 1
    program = Path(SERVER) if before.cmd[0] == SERVER else None
    first = raw_command(before, AROUND, port=port, program=program)
    if after.cmd:
        return proof.of_commands(name, first, raw_command(after, AROUND, port=port, program=program)).is_same
    binary, endpoint = Path(after.binary or ""), UnixEndpoint(Path("/private/0.sock"))
    second = llama_command(after, AROUND, binary=binary, catalogue=catalogue, endpoint=endpoint)
    verdict = proof.of_options(name, first.argv, second, catalogue=catalogue, base=AROUND.base, env=first.env)
    return (verdict + proof.of_environments(name, first, second)).is_same


@given(files(), st.lists(st.tuples(st.integers(0, 60), TEXT), max_size=8))
@settings(max_examples=60)
def test_comments_anywhere_are_found_and_kept(file: dict[str, Any], notes: list[tuple[int, str]]) -> None:
    """A line of comment put between any two lines of the file's structure is on the page."""
    lines = yaml.safe_dump(file, allow_unicode=True, width=10_000).splitlines()
    places = [at for at, line in enumerate(lines) if line and not line[0].isspace()]
    for number, (place, text) in enumerate(notes):
        at = places[place % len(places)]
        lines.insert(at, f"# note-{number}- {text}")
        places = [each + (each >= at) for each in places]
    source_text = "\n".join(lines) + "\n"
    config = unwrapped(parse(source_text, base=AROUND.base, environ=ENVIRON))

    assert len(comments_of(source_text)) == len(notes)
    page = draft(Source("config.yaml", source_text, config, ENVIRON)).page.render()
    for number, _ in enumerate(notes):
        assert f"note-{number}-" in page


PAIRS = st.sampled_from(
    [
        *("ctx-size = 512", "c = 1024", "LLAMA_ARG_CTX_SIZE = 2048", "LLAMA_ARG_THREADS = 2", "t = 3", "temp = 0.70"),
        *("temperature = 1", "top-k = 40", "seed = -1", "no-warmup = true", "warmup = off", "warmup = 1", "jinja = on"),
        *(
            "no-mmproj = true",
            "mmproj = mm.gguf",
            "fa = on",
            "flash-attn = auto",
            "embedding = disabled",
            "alias = x, y",
        ),
        *('chat-template-kwargs = {"a": 1}', "samplers = top_k;top_p", "override-tensor = a.*=CPU", "host = 0.0.0.0"),
        *(
            "load-on-startup = on",
            "stop-timeout = 4",
            "cache-type-k = q8_0",
            "hf-repo = org/model:Q4_K_M",
            "n-gpu-layers = 99",
        ),
    ]
)
SECTION = st.tuples(st.sampled_from(["*", "a", "Org/B:tag", "c d", "e.f"]), st.lists(PAIRS, max_size=6))


@given(st.lists(SECTION, max_size=5), st.booleans())
@settings(max_examples=150)
def test_a_preset_says_what_the_router_reads(
    known: Callable[[], Catalogue], sections: list[tuple[str, list[str]]], has_version: bool
) -> None:
    """Each model gets the options its child would have had, by whatever names; every comment is on the page."""
    catalogue, lines = known(), ["version = 1  ; note-0"] if has_version else []
    for name, pairs in sections:
        lines += [f"# note-{len(lines)}-", f"[{name}]", f"model = {name}.gguf" if name != "*" else "threads = 4"]
        for pair in pairs:
            lines += [f"; note-{len(lines)}-", pair.replace("x, y", f"{name}-x, {name}-y")]  # nobody may share one
    text = "\n".join(lines)
    drafted = preset.draft(preset.Preset("presets.ini", text, catalogue, AROUND.base))
    page = drafted.page.render()
    made = toml.parse(page, base=AROUND.base, environ={})

    assert set(made.models) == {preset.canonical(name) for name, _ in sections if name != "*"} == set(drafted.words)
    assert [note for note in NOTE.findall(text) if note not in page] == []
    for name, words in drafted.words.items():
        endpoint = UnixEndpoint(Path("/private/0.sock"))
        after = llama_command(made.models[name], AROUND, binary=Path(SERVER), catalogue=catalogue, endpoint=endpoint)
        before = (after.argv[0], *words)
        verdict = proof.of_options(name, before, after, catalogue=catalogue, base=AROUND.base, env={})
        assert verdict.is_same, (verdict, page)
