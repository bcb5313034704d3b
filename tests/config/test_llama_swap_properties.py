"""What holds for every llama-swap file: junk is only ever invalid, and no macro is left."""

from __future__ import annotations

from pathlib import Path

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor.config.llama_swap.document import document
from supervisor.config.llama_swap.macros import RESERVED
from supervisor.config.llama_swap.reader import parse
from supervisor.config.llama_swap.scalars import Scalar, resolved
from supervisor.config.llama_swap.schema import TABLES
from supervisor.config.place import Sheet
from supervisor.config.problems import ConfigInvalid

CHARACTERS = st.characters(codec="utf-8")
KEYS = st.sampled_from(sorted({name for table in TABLES.values() for name in table} | {"m", "n", "<<", "x-a"}))
TEXTS = st.sampled_from(
    ["m", "n", "s ${PORT}", "${a}", "${b}", "${env.A}", "m & n", "+m", "http://h:${PORT}", "p/m", "5s"]
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), TEXTS, st.text(CHARACTERS, max_size=6)
)
JUNK = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)
MODELS = st.dictionaries(st.sampled_from("mn"), st.dictionaries(KEYS, JUNK, max_size=6), max_size=2)
FILES = st.dictionaries(st.sampled_from(sorted(TABLES[""])), JUNK, max_size=6)
MACRO_NAMES = st.from_regex(r"[a-zA-Z0-9_-]{1,4}", fullmatch=True).filter(lambda name: name not in RESERVED)


def is_answered(text: str) -> bool:
    """Whether a text is a config that equals itself, or has problems that each say where and what."""
    try:
        config = parse(text, base=Path("/"), environ={"A": "1"})
        return config == parse(text, base=Path("/"), environ={"A": "1"}) and "${" not in str(
            [each.cmd for each in config.models.values()]
        )
    except ConfigInvalid as invalid:
        return bool(invalid.problems) and all(problem.path and problem.expected for problem in invalid.problems)


@given(st.text())
@example("a: &a {<<: *a}")
@example("*a")
@example("? {}\n: 1")
@example("\ue000\ue000env.A\ue001: 1")
@example("models: {m: {cmd: 's ${PORT}', proxy: 'http://[x'}}")
@example("upstream: {ignorePaths: ['a{99999999999999999999}']}")
@example("--- !!binary x")
def test_any_text_is_invalid_and_nothing_else(text: str) -> None:
    """A file of any text is a config or a `ConfigInvalid`."""
    assert is_answered(text)


@given(FILES, MODELS)
@example({"healthCheckTimeout": 10**30, "captureBuffer": 2**70}, {})
@example({"globalTTL": 1e300}, {"m": {"cmd": "s ${PORT}", "timeouts": {"connect": 10**18}}})
def test_junk_is_invalid_and_nothing_else(junk: dict[str, object], models: dict[str, object]) -> None:
    """Any mappings of any values, with the keys that there are."""
    assert is_answered(yaml.safe_dump({**junk, "models": models}))


@given(JUNK)
def test_what_a_library_writes_reads_the_same(junk: object) -> None:
    """Both parsers of the library make the same tree, and its leaves are what was written where Go agrees."""
    text = yaml.safe_dump({"a": junk})

    assert document(text, Sheet({}), loader=yaml.BaseLoader) == document(text, Sheet({}))


@given(st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none())
def test_numbers_and_truths_read_as_they_were_written(value: object) -> None:
    """As a plain scalar."""
    assert resolved(yaml.safe_dump(value).split("\n")[0]) == value


@given(
    st.dictionaries(MACRO_NAMES, st.text(st.sampled_from("abc ${}-"), max_size=8), max_size=4),
    st.text("ab${}", max_size=9),
)
def test_no_macro_is_ever_left(macros: dict[str, str], text: str) -> None:
    """A file is refused or has none."""
    names = list(macros)
    references = "".join(f"${{{name}}}" for name in names)
    body = yaml.safe_dump({"macros": macros, "models": {"m": {"cmd": "s ${PORT}", "name": text + references}}})

    try:
        name = parse(body, base=Path("/"), environ={}).models["m"].name
    except ConfigInvalid:
        return
    assert not any(f"${{{each}}}" in name for each in [*names, *RESERVED])


@given(st.text(CHARACTERS, max_size=12).filter(lambda text: not set(text) & set("\n\r\0")))
def test_a_variable_in_double_quotes_arrives_as_it_is(value: str) -> None:
    """Whatever characters it has."""
    tree = document('a: "${env.V}"', sheet := Sheet({"V": value}))

    assert not sheet.problems
    assert isinstance(tree["a"], Scalar)
    assert (tree["a"].text, tree["a"].is_plain) == (value, False)
