"""Names that lead elsewhere: one set of rules, whether the file is llama-swap's or ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.config import toml
from supervisor.config.problems import ConfigInvalid
from supervisor.config.values import Filters, Peer, Profile, Selector, Strategy, Timeouts
from tests.config import swap_files

if TYPE_CHECKING:
    from supervisor.config.values import Config

YAML_MODELS = """
models:
  a: {cmd: 's ${PORT}', aliases: [a1]}
  b: {cmd: 's ${PORT}'}
  c: {cmd: 's ${PORT}'}
peers:
  p: {proxy: 'http://p', models: [x, b, n/y, x]}
  q: {proxy: 'http://q', models: [z]}
groups: {g: {swap: false, members: [a, b]}}
"""
TOML_MODELS = """
models = { a.aliases = ["a1"], b.model = "b", c.model = "c" }
peers.p = { proxy = "http://p", models = ["x", "b", "n/y", "x"] }
peers.q = { proxy = "http://q", models = ["z"] }
"""


def read(text: str, form: str) -> Config:
    """A flow mapping of YAML, or the same as TOML, beside the models above."""
    if form == "yaml":
        return swap_files.config(text + YAML_MODELS)
    return toml.parse(as_toml(text) + TOML_MODELS, base=Path("/"), environ={})


def as_toml(text: str) -> str:
    key, _, table = text.partition(": ")
    return f"{key} = {table.replace(': ', ' = ')}\n"


def problems(text: str, form: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as raised:
        read(text, form)
    return [str(problem).replace(" (line 1)", "") for problem in raised.value.problems]


both = pytest.mark.parametrize("form", ["yaml", "toml"])


@both
@pytest.mark.parametrize("target", ["a", "a1", "p/x", "p/n/y", "x", "z", ""])
def test_a_profile_may_pin_anything_that_has_a_name(form: str, target: str) -> None:
    """Models, aliases and peers' models; nothing at all switches a name off."""
    found = read(f'profiles: {{ f: {{ description: "d", pins: {{ llm: "{target}" }} }} }}', form)

    assert found.profiles == {"f": Profile({"llm": target or None}, "d")}


@both
def test_a_profile_may_pin_a_selector(form: str) -> None:
    """A selector has a name like a model."""
    if form == "yaml":
        found = swap_files.config(
            "selectors: {s: {strategy: pin, targets: [a]}}\nprofiles: {f: {pins: {x: s, y: ~}}}" + YAML_MODELS
        )
    else:
        text = 'selectors.s = { strategy = "pin", targets = ["a"] }\nprofiles.f.pins = { x = "s", y = "" }'
        found = toml.parse(text + TOML_MODELS, base=Path("/"), environ={})

    assert found.profiles == {"f": Profile({"x": "s", "y": None})}


@both
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('profiles: { f: { pins: { x: "aa" } } }', "profiles.f.pins.x: expected the name of a model or a selector"),
        (
            'profiles: { f: { pins: { "p/x": "a" } } }',
            'profiles.f.pins."p/x": expected a name that no peer\'s model has',
        ),
        ('profiles: { f: { pins: { " ": "a" } } }', 'profiles.f.pins." ": expected a name that is not empty'),
        ('profiles: { f: { description: "d" } }', "profiles.f: expected the key `pins`"),
        ("profiles: { f: { pins: { } } }", "profiles.f.pins: expected "),
        ('selectors: { a: { strategy: "pin", targets: ["b"] } }', "selectors.a: expected a name that nothing else has"),
        (
            'selectors: { a1: { strategy: "pin", targets: ["b"] } }',
            "selectors.a1: expected a name that nothing else has",
        ),
        ('selectors: { "p/x": { strategy: "pin", targets: ["b"] } }', 'selectors."p/x": expected a name that nothing'),
        ('selectors: { s: { strategy: "pin", targets: ["s"] } }', "selectors.s.targets[0]: expected a model, for"),
        ('selectors: { s: { strategy: "pin", targets: ["nope"] } }', "selectors.s.targets[0]: expected the name of a"),
        (
            'selectors: { s: { strategy: "warm", targets: ["a", "z"] } }',
            "selectors.s.targets[1]: expected a model of ours",
        ),
        ('selectors: { s: { strategy: "pin" } }', "selectors.s: expected the key `targets`"),
        ('selectors: { s: { targets: ["a"] } }', "selectors.s: expected the key `strategy`"),
        ('selectors: { s: { strategy: "pin", targets: [ ] } }', "selectors.s.targets: expected "),
        ('selectors: { s: { strategy: "best", targets: ["a"] } }', "selectors.s.strategy: expected one of"),
        (
            'selectors: { s: { strategy: "spillover", targets: ["a", "a1"] } }',
            "selectors.s.targets[1]: expected each model",
        ),
    ],
)
def test_names_that_cannot_be(form: str, text: str, expected: str) -> None:
    """The same rule and the same place in both formats."""
    (problem,) = problems(text, form)

    assert problem.startswith(expected)


def test_a_name_that_two_peers_have_leads_nowhere() -> None:
    """Only the whole names tell them apart."""
    models = YAML_MODELS.replace("models: [z]", "models: [z, x]")

    (problem,) = swap_files.problems("profiles: {f: {pins: {a: x}}}" + models)
    assert "expected the name of a model or a selector, found `x`" in problem


@both
def test_a_selector_may_have_the_name_of_a_peers_model(form: str) -> None:
    """It comes first; the whole name leads past it."""
    assert list(read('selectors: { x: { strategy: "pin", targets: ["p/x"] } }', form).selectors) == ["x"]


@both
def test_a_peers_model_may_have_the_name_of_a_model_of_ours(form: str) -> None:
    """Ours wins; the whole name leads to the peer's."""
    assert read('profiles: { f: { pins: { x: "p/b" } } }', form).peers["p"].models == ("x", "b", "n/y", "x")


@pytest.mark.parametrize("name", ["p/x", "p/n/y"])
def test_the_whole_names_of_peers_models_are_reserved(name: str) -> None:
    """For models and aliases, and among peers."""
    peers = "peers: {p: {proxy: 'http://p', models: [x, n/y]}}\n"
    for model in (f"{name}: {{cmd: 's ${{PORT}}'}}", f"m: {{cmd: 's ${{PORT}}', aliases: [{name}]}}"):
        (problem,) = swap_files.problems(f"{peers}models: {{{model}}}")
        assert problem.startswith("peers.p.models[")
        assert f"expected a name that nothing else has, found `{name}`" in problem


def test_two_peers_may_not_share_a_whole_name() -> None:
    """`p/q` with `x` and `p` with `q/x` would."""
    (problem,) = swap_files.problems(
        "peers: {p/q: {proxy: 'http://p', models: [x]}, p: {proxy: 'http://p', models: [q/x]}}"
    )

    assert problem.startswith("peers.p.models[0] (line 1): expected a name that nothing else has, found `p/q/x`")


def test_targets_to_spill_over_to_may_be_loaded_together() -> None:
    """Members of one group that does not swap; peers' models are always there."""
    text = "selectors: {{s: {{strategy: spillover, targets: [{}], settings: {{spillover: 2}}}}}}"

    found = swap_files.config(text.format("a1, b, z") + YAML_MODELS).selectors["s"]
    assert found == Selector(Strategy.SPILLOVER, ("a1", "b", "z"), spillover=2)
    (problem,) = swap_files.problems(text.format("a, c") + YAML_MODELS)
    assert problem.startswith("selectors.s.targets (line 1): expected models that may be loaded together")


def test_spilling_over_by_a_matrix() -> None:
    """All targets are in one combination."""
    models = YAML_MODELS.partition("groups:")[0] + "\nmatrix: {sets: {s: a & (b | c)}}"
    text = "selectors: {{s: {{strategy: spillover, targets: [{}]}}}}"

    assert swap_files.config(text.format("a, b") + models).selectors
    assert "expected models that may be loaded together" in swap_files.problems(text.format("b, c") + models)[0]


def test_lists_are_no_longer_profiles() -> None:
    """What an older llama-swap took is refused with what is to be written."""
    (problem,) = swap_files.problems("profiles: {f: [a, b]}" + YAML_MODELS)

    assert problem.startswith("profiles.f (line 1): expected a mapping with `pins`")


def test_keys_of_a_selector() -> None:
    """What is shown where models are listed."""
    text = (
        "selectors: {s: {strategy: warm, targets: [a, b], name: n, description: d, unlisted: true, metadata: {k: 1}}}"
    )

    assert swap_files.config(text + YAML_MODELS).selectors["s"] == Selector(
        Strategy.WARM, ("a", "b"), 1, "n", "d", unlisted=True, metadata={"k": 1}
    )


@pytest.mark.parametrize("line", ["settings: {spillover: 0}", "settings: 1", "targets: a", "name: []"])
def test_bad_values_of_a_selector(line: str) -> None:
    """One problem each."""
    fields = {"strategy": "spillover", "targets": "[a]"}
    key, _, value = line.partition(": ")
    text = ", ".join(f"{name}: {each}" for name, each in {**fields, key: value}.items())

    (problem,) = swap_files.problems(f"selectors: {{s: {{{text}}}}}{YAML_MODELS}")
    assert problem.startswith(f"selectors.s.{key}")


def test_keys_of_a_peer() -> None:
    """Answers of peers begin within a minute, where those of models may take for ever."""
    read = swap_files.config(
        "peers:\n  q: {proxy: 'http://q', models: [x]}\n"
        "  p:\n    proxy: https://p/base\n    models: [x]\n    apiKey: k\n    timeouts: {connect: 1, idleConn: 0}\n"
        "    filters: {stripParams: a, setParams: {b: 1}, setParamsByID: {x: {c: 2}}}\n"
    )

    assert read.peers["p"] == Peer(
        "https://p/base",
        ("x",),
        api_key="k",
        timeouts=Timeouts(connect=1.0, response_header=60.0, idle_connection=None),
        filters=Filters(strip=("a",), force={"b": 1}),
        filters_by_name={"x": Filters(strip=("a",), force={"b": 1, "c": 2})},
    )
    assert read.peers["q"] == Peer("http://q", ("x",))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("{models: [x]}", "peers.p (line 1): expected the key `proxy`"),
        ("{proxy: '', models: [x]}", "peers.p.proxy (line 1): expected a URL"),
        ("{proxy: 'ftp://h', models: [x]}", "peers.p.proxy (line 1): expected a URL"),
        ("{proxy: 'http://h:x', models: [x]}", "peers.p.proxy (line 1): expected a URL"),
        ("{proxy: 'http://h'}", "peers.p (line 1): expected the key `models`"),
        ("{proxy: 'http://h', models: []}", "peers.p.models (line 1): expected at least one entry"),
        ("{proxy: 'http://h', models: ['']}", "peers.p.models[0] (line 1): expected text that is not empty"),
        ("{proxy: 'http://h', models: [x], timeouts: {connect: -1}}", "peers.p.timeouts.connect (line 1): expected"),
    ],
)
def test_peers_that_cannot_be(fields: str, expected: str) -> None:
    """A URL and models are needed."""
    (problem,) = swap_files.problems(f"peers: {{p: {fields}}}")

    assert problem.startswith(expected)
