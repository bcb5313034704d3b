"""YAML as llama-swap reads it (spec: llama-swap.md, 3.1, 3.4): types, anchors, merges, variables, and no traps."""

from __future__ import annotations

import math

import pytest
import yaml

from supervisor.config.llama_swap.document import MOST_VALUES, document
from supervisor.config.llama_swap.scalars import Scalar, resolved
from supervisor.config.place import Sheet
from supervisor.config.problems import ConfigInvalid
from tests.config.swap_files import config, model, problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("12", 12),
        ("-3", -3),
        ("1_000", 1000),
        ("0x10", 16),
        ("0b11", 3),
        ("0o17", 15),
        ("017", 15),
        ("08", 8.0),
        ("1.50", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", math.inf),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("1.2.3", "1.2.3"),
        ("0x", "0x"),
        ("9" * 200, "9" * 200),
        (str(2**70), float(2**70)),
    ],
)
def test_plain_scalars_have_the_types_of_go(text: str, value: object) -> None:
    """What is a number, a truth or nothing is so in Go's YAML too."""
    assert resolved(text) == value
    assert type(resolved(text)) is type(value)


def test_quotes_and_tags_make_text() -> None:
    """A number in quotes, or tagged as text, is text; a tag can make a number of text."""
    tree = document("{a: '1', b: !!str 1, c: !!int '1', d: 1}", Sheet({}))

    assert [leaf.value for leaf in tree.values() if isinstance(leaf, Scalar)] == ["1", "1", 1, 1]


def test_an_empty_file_is_a_config() -> None:
    """Nothing has to be said; only comments are nothing."""
    assert config("").models == config("# nothing\n---\n").models == {}


@pytest.mark.parametrize("text", ["- a", "just text", "3"])
def test_the_root_is_a_mapping(text: str) -> None:
    """A list or a scalar is no config."""
    (problem,) = problems(text)

    assert problem.startswith("config (line 1): expected a mapping")


def test_a_key_that_is_there_twice_is_refused() -> None:
    """As in Go, one of two values must not be lost; both lines are named."""
    (problem,) = problems("globalTTL: 1\nlogLevel: info\nglobalTTL: 2\n")

    assert problem == "globalTTL (line 3): expected each key once, found `globalTTL`; hint: it is on line 1 already"


def test_anchors_aliases_and_merges() -> None:
    """What is merged in is under what is there; of several the first holds."""
    read = config(
        "x-a: &a {ttl: 1, name: a, unlisted: true}\nx-b: &b {ttl: 2, description: b}\n"
        "models:\n  m:\n    <<: [*a, *b]\n    cmd: &cmd serve ${PORT}\n    name: m\n  n: {<<: *b, cmd: *cmd}\n"
    )

    one, other = read.models["m"], read.models["n"]
    assert (one.ttl, one.name, one.description, one.unlisted) == (1, "m", "b", True)
    assert (other.ttl, other.description, other.cmd) == (2, "b", ("serve", "5801"))
    assert read.warnings == ()


def test_aliases_of_aliases_are_bounded() -> None:
    """A few lines that stand for billions of values are refused before anything is made of them."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]

    (problem,) = problems("\n".join(lines))

    assert f"expected at most {MOST_VALUES} values" in problem
    assert "aliases of aliases multiply" in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [*a]", "a[0] (line 1): expected an anchor that is complete before its alias"),
        ("a: *nope", "expected"),
        ("<<: 3", '"<<" (line 1): expected a mapping, or a list of mappings'),
        ("? [a]\n: b", "expected text as a key"),
        ("a: " + "[" * 200 + "]" * 200, "mappings and lists that are less deeply nested"),
        ('name: "a\\0b"', "expected text without NUL characters"),
    ],
)
def test_what_cannot_be_read_is_a_problem(text: str, expected: str) -> None:
    """Nothing in a file is a traceback."""
    assert expected in problems(text)[0]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: [1", "line"),
        ("models:\n  m: {cmd: x\n", "line"),
        ("a: b: c", "line 1, column "),
        ("\tx: 1", "line 1, column "),
        ("a: '\x01'", "expected YAML"),
    ],
)
def test_syntax_errors_have_a_place(text: str, place: str) -> None:
    """What is no YAML is pointed at, with the reason."""
    (problem,) = problems(text)

    assert place in problem
    assert "expected YAML" in problem


def test_only_the_first_document_is_read() -> None:
    """As in Go, what follows `---` is not looked at."""
    assert config("globalTTL: 1\n---\nglobalTTL: x\n").models == {}


def test_a_variable_is_replaced_everywhere() -> None:
    """In values, in keys, in flow lists, in macros; what stands alone has the type that its text has."""
    read = config(
        "globalTTL: ${env.TTL}\napiKeys: [${env.KEY}]\nmacros: {n: '${env.NAME}'}\n"
        "models:\n  ${env.NAME}:\n    cmd: serve ${PORT} ${env.FLAGS} ${n}\n    name: ${env.NAME}\n",
        {"TTL": "60", "KEY": "k1", "NAME": "m", "FLAGS": "-a -b"},
    )

    assert read.server.api_keys == ("k1",)
    assert read.models["m"].ttl == 60
    assert read.models["m"].cmd == ("serve", "5800", "-a", "-b", "m")
    assert read.models["m"].name == "m"


def test_a_variable_that_is_not_set_is_named() -> None:
    """The message says which, and where."""
    (problem,) = problems("apiKeys:\n- '${env.NOPE}x'\n")[:1]

    assert problem == ("apiKeys[0] (line 2): expected the environment variable `NOPE` to be set, found `${env.NOPE}x`")


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
def test_a_variable_is_one_line(value: str) -> None:
    """Line breaks and NUL characters are refused; the value is not shown."""
    (problem,) = problems("logLevel: ${env.V}", {"V": value})

    assert "expected the environment variable `V` to be one line, found `${env.V}`" in problem


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ('"${env.V}"', 'a\\b"c'),
        ("${env.V}", 'a\\\\b\\"c'),
        ("'${env.V}'", 'a\\\\b\\"c'),
        ("|-\n      ${env.V}", 'a\\\\b\\"c'),
    ],
)
def test_quotes_and_backslashes_are_escaped_as_double_quotes_need_it(spelled: str, expected: str) -> None:
    """In double quotes a value arrives as it is; elsewhere the backslashes stay, which is llama-swap's way."""
    assert model(f"name: {spelled}", {"V": 'a\\b"c'}).name == expected


def test_a_quote_in_a_variable_survives_the_shell_words() -> None:
    """In a command the backslashes are what makes the quotes arrive."""
    assert model("cmd: serve ${PORT} ${env.V}", {"V": 'a\\b"c'}).cmd[2] == 'a\\b"c'


def test_a_variable_cannot_change_the_structure() -> None:
    """What looks like YAML in a value is text."""
    assert model("name: ${env.V}", {"V": "x: [y] # z"}).name == "x: [y] # z"


def test_variables_in_comments_are_ignored() -> None:
    """What a comment names need not be set."""
    text = "# ${env.NOPE}\nmodels:\n  m: # ${env.NOPE}\n    cmd: serve ${PORT} # ${env.NOPE}\n"

    assert config(text).models["m"].cmd == ("serve", "5800")


def test_secrets_of_variables_are_known_but_never_shown() -> None:
    """What a secretive variable stands for can be redacted; a problem shows the variable."""
    environ = {"HF_TOKEN": "hunter2", "N": "x"}
    (problem,) = problems(text := "globalTTL: ${env.HF_TOKEN}\nlogLevel: ${env.N}", environ)

    assert "hunter2" not in problem
    assert "${env.HF_TOKEN}" in problem
    assert config(text.replace("globalTTL", "x-ttl"), environ).secrets == {"hunter2"}


def test_errors_other_than_of_syntax_come_together() -> None:
    """One run shows everything there is to change."""
    found = problems("globalTTL: -1\nstartPort: 0\nmodels: {m: {cmd: ''}, n: {ttl: x}}")

    assert [problem.split(" ")[0] for problem in found] == [
        "globalTTL",
        "startPort",
        "models.m.cmd",
        "models.n.ttl",
        "models.n",
    ]


def test_files_are_named_in_messages_where_there_are_several() -> None:
    """A place is a file and a line."""
    sheet = Sheet({})
    with pytest.raises(ConfigInvalid, match=r"b.yaml line \d, column \d: expected YAML"):
        document("a: [", sheet, source="b.yaml")
    document("a: 1\na: 2", sheet, source="b.yaml")

    assert str(sheet.problems[0]).startswith("a (b.yaml line 2): expected each key once")


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: '2'\nc: \"3\"\nd: |\n  4\n  5\ne: >-\n  6\n  7\n",
        "a: !!str 1\nb: !!int '2'\nc: !other x\nd: {e: [f, {g: h}], i: ~}\n",
        "a: &x {b: 1}\nc: {<<: *x, d: 2}\ne: [*x, *x]\n'<<': 3\n",
        "a: ${env.V}\nb: ['${env.V}', \"${env.V}\"]\n# ${env.W}\n",
        "",
    ],
)
def test_both_parsers_of_the_library_read_the_same(text: str) -> None:
    """Which one there is depends on how the library was built."""
    environ = {"V": 'a\\b"c'}

    assert document(text, Sheet(environ), loader=yaml.BaseLoader) == document(text, Sheet(environ))
