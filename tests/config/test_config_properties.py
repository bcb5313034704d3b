"""What holds for every config: it reads as it was written, and junk is only ever invalid."""

from __future__ import annotations

import tomllib
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.config.editor import render, set_model
from supervisor.config.problems import ConfigInvalid
from supervisor.config.schema import MODEL, PEER, PROFILE, SELECTOR, SERVER, VARIANT
from supervisor.config.toml import parse
from supervisor.config.values import Model, Option

CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
TEXT = st.text(CHARACTERS, max_size=20).filter(lambda text: "${env:" not in text)
NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12)
SCALARS = st.one_of(
    TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
OPTION_NAMES = st.from_regex(r"[a-z]{1,6}(-[a-z]{1,6}){0,2}", fullmatch=True).filter(
    lambda name: name.replace("-", "_") not in MODEL
)
OPTIONS = st.dictionaries(OPTION_NAMES, st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=4)
ENVIRONMENTS = st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), TEXT, max_size=3)
MODELS = st.dictionaries(
    NAMES,
    st.fixed_dictionaries(
        {},
        optional={
            "sampling": OPTIONS.map(lambda table: {key: value for key, value in table.items() if key != "model"}),
            "env": ENVIRONMENTS,
            "name": TEXT,
            "description": TEXT,
            "pinned": st.booleans(),
            "concurrency": st.integers(1, 100),
            "ttl": st.integers(1, 10**6),
        },
    ),
    max_size=4,
)
JUNK_VALUES = st.recursive(
    st.one_of(TEXT, st.text(CHARACTERS), SCALARS, st.floats(), st.dates(), st.just("${env:A}"), st.just("x ${PORT}")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(CHARACTERS, max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
OWN_KEYS = st.sampled_from([*SERVER, *MODEL, *VARIANT, *PEER, *SELECTOR, *PROFILE, "ctx-size", "default-model"])
JUNK_TABLES = st.dictionaries(st.one_of(OWN_KEYS, NAMES), JUNK_VALUES, max_size=5)
JUNK = st.fixed_dictionaries(
    {},
    optional={
        "server": JUNK_TABLES,
        "defaults": JUNK_TABLES,
        "peers": st.dictionaries(NAMES, JUNK_TABLES, max_size=2),
        "selectors": st.dictionaries(NAMES, JUNK_TABLES, max_size=2),
        "profiles": st.dictionaries(NAMES, JUNK_TABLES, max_size=2),
        "models": st.dictionaries(
            NAMES,
            st.tuples(JUNK_TABLES, st.dictionaries(NAMES, JUNK_TABLES, max_size=2)).map(
                lambda parts: {**parts[0], "variants": parts[1]}
            ),
            max_size=3,
        ),
    },
)


def frozen(table: dict[str, object]) -> dict[str, object]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def is_answered(text: str) -> bool:
    """Whether a text is a config that equals itself, or has problems that each say where and what."""
    try:
        return parse(text, base=Path("/"), environ={"A": "1"}) == parse(text, base=Path("/"), environ={"A": "1"})
    except ConfigInvalid as invalid:
        return bool(invalid.problems) and all(problem.path and problem.expected for problem in invalid.problems)


@given(MODELS, OPTIONS)
def test_a_config_reads_as_it_was_written(models: dict[str, dict[str, object]], options: dict[str, Option]) -> None:
    """Whatever a person may write in an editor arrives in the values, unchanged."""
    text = render({"models": {name: {**options, **table} for name, table in models.items()}})

    config = parse(text, base=Path("/"), environ={})

    assert list(config.models) == list(models)
    for name, table in models.items():
        read = config.models[name]
        sampling = table.get("sampling", {})
        assert isinstance(sampling, dict)
        assert read.options == frozen(dict(options))
        assert read.sampling == frozen(sampling)
        for key in ("env", "name", "description", "pinned", "concurrency", "ttl"):
            assert getattr(read, key) == table.get(key, getattr(Model(name), key))


@given(JUNK)
@example({"models": {"a": {"variants": {"b": {"sampling": {"samplers": 1}}}}}})
def test_junk_is_invalid_and_nothing_else(junk: dict[str, object]) -> None:
    """Any tables of any values are a config or a `ConfigInvalid` that says why."""
    assert is_answered(render(junk))


@given(st.text())
def test_any_text_is_invalid_and_nothing_else(text: str) -> None:
    """A file of any text is a config or a `ConfigInvalid`."""
    assert is_answered(text)


@given(MODELS, NAMES, OPTIONS)
def test_editing_one_model_leaves_the_others(
    models: dict[str, dict[str, object]], name: str, options: dict[str, Option]
) -> None:
    """What an edit does not mention is the same afterwards."""
    before = render({"models": models})

    after = tomllib.loads(set_model(before, name, options))

    expected = tomllib.loads(before).get("models", {})
    expected[name] = {**expected.get(name, {}), **options}
    assert after.get("models", {}) == expected
