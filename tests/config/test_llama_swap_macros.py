"""Macros: order, types and scope; ports; what may not be left over (spec: llama-swap.md, 3.4)."""

from __future__ import annotations

import pytest

from supervisor.config.values import Filters
from tests.config.swap_files import config, model, problems, text_of


def test_a_macro_is_replaced_in_values_but_not_in_keys() -> None:
    """Anywhere in a model, at any depth."""
    read = model('metadata: {"${a}": "${a}", b: [{c: "<${a}>"}]}\nenv: ["A=${a}"]\nname: ${a}', top="macros: {a: x}")

    assert read.metadata == {"${a}": "x", "b": ({"c": "<x>"},)}
    assert (read.env, read.name) == ({"A": "x"}, "x")


def test_macros_of_the_file_hold_in_every_part_of_it() -> None:
    """Not only models use them."""
    read = config(
        "macros: {ttl: 60, on: true, header: X-A, m: m, p: 9000, key: secret}\n"
        "globalTTL: ${ttl}\nsendLoadingState: '${on}'\nstartPort: ${p}\napiKeys: ['${key}1']\n"
        "ui: {activity: {session_id: ['${header}']}}\nhooks: {on_startup: {preload: ['${m}']}}\n"
        "groups: {g: {members: ['${m}']}}\n"
        "peers: {r: {proxy: 'http://r', models: [x], apiKey: '${key}', filters: {setParams: {a: '${ttl}'}}}}\n"
        "models: {m: {cmd: 'serve ${PORT}'}}\n"
    )

    assert read.models["m"].ttl == 60
    assert read.models["m"].send_loading_state
    assert read.models["m"].port == 9000
    assert read.server.api_keys == ("secret1",)
    assert read.server.session_id_headers == ("X-A",)
    assert read.server.preload == ("m",)
    assert read.peers["r"].api_key == "secret"
    assert read.peers["r"].filters == Filters(force={"a": 60})


@pytest.mark.parametrize(
    ("macro", "value", "embedded"),
    [("3", 3, "x3"), ("1.50", 1.5, "x1.50"), ("true", True, "xtrue"), ("'3'", "3", "x3"), ("a b", "a b", "xa b")],
)
def test_a_macro_that_is_the_whole_value_keeps_its_type(macro: str, value: object, embedded: str) -> None:
    """Beside other text it becomes text."""
    read = model("metadata: {a: '${v}', b: 'x${v}'}", top=f"macros: {{v: {macro}}}")

    assert read.metadata == {"a": value, "b": embedded}
    assert type(read.metadata["a"]) is type(value)


def test_a_macro_may_use_those_before_it() -> None:
    """The last one defined is replaced first."""
    assert model("name: ${c}", top="macros: {a: 1, b: '${a}2', c: '${b}3'}").name == "123"


def test_a_macro_may_not_use_those_after_it() -> None:
    """A forward reference is left over, and the message says why."""
    (problem,) = problems(text_of("name: ${a}", top="macros: {a: '${b}', b: 1}"))

    assert problem == (
        "models.m.name (line 5): expected macros that are defined, found `${b}`; "
        "hint: a macro may use only those defined before it"
    )


def test_macros_of_a_model_replace_those_of_the_file() -> None:
    """In their place in the order, and in that model only."""
    read = config(
        "macros: {a: 1, b: '${a}'}\nmodels:\n"
        "  m: {cmd: 'serve ${PORT} ${b} ${c}', macros: {a: 2, c: '${b}3'}}\n  n: {cmd: 'serve ${PORT} ${b}'}\n"
    )

    assert read.models["m"].cmd == ("serve", "5800", "2", "23")
    assert read.models["n"].cmd == ("serve", "5801", "1")


def test_the_models_id_is_a_macro() -> None:
    """Everywhere in the model, and in macros too."""
    read = config(
        "macros: {f: '/models/${MODEL_ID}.gguf'}\n"
        "models: {'a/b': {cmd: 'serve ${PORT} ${f}', name: '<${MODEL_ID}>', aliases: ['${MODEL_ID}-x']}}"
    ).models["a/b"]

    assert (read.cmd[2], read.name, read.aliases) == ("/models/a/b.gguf", "<a/b>", ("a/b-x",))


@pytest.mark.parametrize(
    ("macros", "expected"),
    [
        ("{'a b': 1}", "expected a name of at most 63 letters"),
        ("{'': 1}", "expected a name of at most 63 letters"),
        (f"{{{'x' * 64}: 1}}", "expected a name of at most 63 letters"),
        ("{PORT: 1}", "expected a name that is not reserved"),
        ("{PID: 1}", "expected a name that is not reserved"),
        ("{MODEL_ID: 1}", "expected a name that is not reserved"),
        ("{a: [1]}", "expected text, a number, true or false"),
        ("{a: {b: 1}}", "expected text, a number, true or false"),
        ("{a: ~}", "expected text, a number, true or false"),
        ("{a: 'x${a}'}", "expected a macro that does not use itself"),
        ("[a]", "expected a mapping of names to values"),
    ],
)
@pytest.mark.parametrize("place", ["macros", "models.m.macros"])
def test_macros_that_cannot_be(macros: str, expected: str, place: str) -> None:
    """Names, reserved names, types and self-reference are checked where macros are defined."""
    text = text_of(top=f"macros: {macros}") if place == "macros" else text_of(f"macros: {macros}")
    (problem,) = problems(text)

    assert problem.startswith(place)
    assert expected in problem


def test_a_name_of_63_characters_is_a_macro() -> None:
    """The longest there may be."""
    assert model(f"name: ${{{'x' * 63}}}", top=f"macros: {{{'x' * 63}: y}}").name == "y"


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ("cmd: serve ${PORT} ${nope}", "models.m.cmd"),
        ("cmdStop: kill ${nope}", "models.m.cmdStop"),
        ("proxy: http://${nope}", "models.m.proxy"),
        ("checkEndpoint: /${nope}", "models.m.checkEndpoint"),
        ("name: ${nope}", "models.m.name"),
        ("env: ['A=${nope}']", "models.m.env[0]"),
        ("filters: {stripParams: '${nope}'}", "models.m.filters.stripParams"),
        ("filters: {setParams: {a: [{b: '${nope}'}]}}", "models.m.filters.setParams.a[0].b"),
        ("filters: {setParamsByID: {x: {a: '${nope}'}}}", "models.m.filters.setParamsByID.x.a"),
        ("metadata: {a: '${nope}'}", "models.m.metadata.a"),
    ],
)
def test_a_macro_that_is_unknown_is_refused(lines: str, path: str) -> None:
    """Each one, where it stands."""
    (problem,) = [each for each in problems(text_of(lines)) if "macros that are defined" in each]

    assert problem.startswith(f"{path} (line ")
    assert "found `${nope}`" in problem


def test_an_unknown_macro_in_the_key_of_settings_is_refused() -> None:
    """Those keys are names."""
    (problem,) = problems(text_of("filters: {setParamsByID: {'${nope}': {a: 1}}}"))

    assert "expected macros that are defined, found `${nope}`" in problem


def test_what_only_looks_like_a_macro_is_left_alone() -> None:
    """Shell defaults and names with dots are no macros."""
    assert model("name: '${A:-b} ${a.b} $a {b}'").name == "${A:-b} ${a.b} $a {b}"


def test_macros_that_multiply_are_bounded() -> None:
    """Sixty macros of two each would be more text than there is memory."""
    macros = "\n".join(f"  m{n}: '${{m{n - 1}}}${{m{n - 1}}}'" for n in range(1, 60))

    (problem,) = problems(text_of("name: ${m59}", top=f"macros:\n  m0: xxxxxxxx\n{macros}"))

    assert "expected macros that stand for at most" in problem


def test_ports_are_given_in_the_order_of_ids() -> None:
    """Only models whose command uses one take one; the order of the file does not matter."""
    read = config(
        "startPort: 6000\nmodels:\n  c: {cmd: 'serve ${PORT}'}\n  a: {cmd: 'serve ${PORT}'}\n"
        "  b: {cmd: serve, proxy: 'http://localhost:1'}\n  B: {cmd: 'serve ${PORT}'}\n"
    ).models

    assert list(read) == ["c", "a", "b", "B"]
    assert {name: each.port for name, each in read.items()} == {"B": 6000, "a": 6001, "b": None, "c": 6002}


def test_a_port_is_replaced_throughout_its_model() -> None:
    """Alone it is a number."""
    read = model(
        "cmdStop: stop ${PORT} ${PID}\nproxy: http://h:${PORT}/p\ncheckEndpoint: /${PORT}\n"
        "aliases: ['p-${PORT}']\nmetadata: {a: '${PORT}', b: 'x${PORT}'}\nenv: ['P=${PORT}']\n"
        "filters: {setParamsByID: {'n-${PORT}': {a: '${PORT}'}}}",
        top="startPort: 7000",
    )

    assert read.cmd == ("serve", "7000")
    assert read.cmd_stop == ("stop", "7000", "${PID}")
    assert (read.proxy, read.check_endpoint) == ("http://h:7000/p", "/7000")
    assert read.aliases == ("p-7000", "n-7000")
    assert read.metadata == {"a": 7000, "b": "x7000"}
    assert read.env == {"P": "7000"}
    assert read.filters_by_name["n-7000"].force == {"a": 7000}


def test_a_port_may_come_from_a_macro() -> None:
    """What counts is the command after its macros are replaced."""
    assert model("cmd: ${base}", top="macros: {base: 'serve --port ${PORT}'}").cmd == ("serve", "--port", "5800")


@pytest.mark.parametrize("lines", ["cmd: serve", "cmd: serve\nproxy: http://localhost:${PORT}"])
def test_a_proxy_on_a_port_that_the_command_is_not_told(lines: str) -> None:
    """Given or by default, it could not be reached."""
    (problem,) = problems(text_of(lines))

    assert problem.startswith("models.m.cmd (line 4): expected `${PORT}` in `cmd`, for `proxy` uses it, found `serve`")


def test_a_port_elsewhere_than_in_the_command_is_unknown() -> None:
    """No port is taken for it."""
    (problem,) = problems(text_of("cmd: serve\nproxy: http://h:1\nname: ${PORT}"))

    assert "expected macros that are defined, found `${PORT}`" in problem


def test_ports_end_somewhere() -> None:
    """A port above 65535 is none."""
    (problem,) = problems("startPort: 65535\nmodels: {a: {cmd: 's ${PORT}'}, b: {cmd: 's ${PORT}'}}")

    assert problem.startswith("models.b.cmd (line 2): expected ports up to 65535, found `65536`")


@pytest.mark.parametrize("lines", ["name: ${PID}", "cmd: serve ${PORT} ${PID}", "metadata: {a: '${PID}'}"])
def test_the_process_id_is_known_only_in_the_stop_command(lines: str) -> None:
    """There it stays as it is until there is a process."""
    (problem,) = problems(text_of(lines))

    assert "found `${PID}`; hint: `${PID}` is known only in `cmdStop`" in problem


def test_macros_in_the_comments_of_a_command_are_not_replaced() -> None:
    """A macro of several lines could bring a line that is run; and what is unknown there does not matter."""
    read = model(
        "cmd: |\n    serve ${PORT}\n      # ${evil} ${nope}\n    -a\ncmdStop: |\n    # ${nope}\n    stop",
        top='macros: {evil: "x\\n--evil"}',
    )

    assert read.cmd == ("serve", "5800", "-a")
    assert read.cmd_stop == ("stop",)
    assert read.shown_cmd == "serve 5800\n-a"


def test_macros_may_make_one_name_of_two() -> None:
    """Settings for one name twice are refused."""
    text = text_of("filters: {setParamsByID: {'${a}': {x: 1}, '${b}': {x: 2}}}", top="macros: {a: s, b: s}")

    assert "expected each name once, found `s`" in problems(text)[0]
