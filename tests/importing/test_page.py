"""The file that an import writes, as its owner sees it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.importing.page import Entry, Page, Raw, Section, item

LONG = {"agent": {"temperature": 0.7, "top_k": 20}, "chat room": {"temperature": 1.0, "chat_template_kwargs": {"a": 1}}}


def rendered(**values: object) -> str:
    return Page(sections=[Section.of(("models", "a b"), values)]).render()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", '"plain"'),
        ('{"a": 1}', "'{\"a\": 1}'"),
        (r"blk\.1\.ffn=CPU", r"'blk\.1\.ffn=CPU'"),
        ("it's \\", '"it\'s \\\\"'),
        ("tab\t\\", '"tab\\t\\\\"'),
        ({"temp": 0.7, "top k": 20}, '{ temp = 0.7, "top k" = 20 }'),
        ({}, "{}"),
        (["a", 1, True], '["a", 1, true]'),
    ],
)
def test_values_as_they_would_be_typed(value: object, text: str) -> None:
    """Room within braces, and no backslashes where single quotes do."""
    assert item(value).as_string() == text


def test_long_values() -> None:
    """A long list is on several lines, a long table is one of its own, below the keys of its model."""
    text = rendered(set_params_by_name=LONG, targets=["model-of-some-length"] * 6, ttl="5m")

    assert text == (
        '[models."a b"]\n'
        "targets = [\n" + '    "model-of-some-length",\n' * 6 + "]\n"
        'ttl = "5m"\n'
        '\n[models."a b".set_params_by_name]\n'
        "agent = { temperature = 0.7, top_k = 20 }\n"
        '"chat room" = { temperature = 1.0, chat_template_kwargs = { a = 1 } }\n'
    )
    assert tomllib.loads(text)["models"]["a b"]["set_params_by_name"] == LONG


def test_comments() -> None:
    """Above, beside and below what they speak of; indented as they were, and rulers whole."""
    section = Section.of(("models", "m"), {"ttl": 5, "cmd": Raw("one\ntwo\n"), "set_params_by_name": LONG})
    section.above += ["######", "  - yaml:"]
    section.beside, section.below = ["big"], ["the end"]
    section.entries["ttl"].above.append("")
    section.entries["ttl"].beside += ["a", "b"]
    section.entries["cmd"].beside.append("beside lines")
    section.entries["set_params_by_name"].above.append("names")
    section.entries["set_params_by_name"].beside.append("two")

    assert Page(above=["head"], sections=[section], below=["tail"]).render() == (
        "# head\n\n"
        "#######\n#   - yaml:\n"
        "[models.m]  # big\n"
        "#\nttl = 5  # a; b\n"
        "# beside lines\ncmd = '''\none\ntwo\n'''\n"
        "\n# names\n[models.m.set_params_by_name]  # two\n"
        "agent = { temperature = 0.7, top_k = 20 }\n"
        '"chat room" = { temperature = 1.0, chat_template_kwargs = { a = 1 } }\n'
        "# the end\n\n"
        "# tail\n"
    )


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
PLAIN = st.one_of(TEXT, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False))
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
NOTE = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=9)


@given(st.dictionaries(TEXT, VALUES, max_size=4), st.lists(NOTE, max_size=3))
def test_whatever_is_written_is_read(values: dict[str, Any], notes: list[str]) -> None:
    """Values come back as they were, whatever is noted around them."""
    entries = {key: Entry(value, above=list(notes), beside=list(notes)) for key, value in values.items()}
    section = Section(("models", "m"), entries, above=list(notes), beside=list(notes), below=list(notes))

    assert tomllib.loads(Page(sections=[section]).render()) == {"models": {"m": values}}
